"""A run is its config and its seed: it stops when asked, resumes to the bit, and refuses what it is
not.
"""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

import fewstep as fs
from fewstep.base.errors import NonFiniteError, StorageError, UserError
from fewstep.base.randomness import generator
from fewstep.base.signals import stop_requests
from fewstep.core.denoiser import Preconditioned
from fewstep.core.scalings import Edm
from fewstep.data import Arrays, pictures
from fewstep.run import checkpoint
from fewstep.run.checkpoint.schema import Position, new_record
from fewstep.run.config import read_run, run_from_json
from fewstep.run.facts import Facts
from fewstep.run.prepare import prepare
from fewstep.run.resume import differences
from fewstep.run.stages import Stage
from fewstep.training.batches import draw_batch
from tests.support.toys import tiny_run


def train(run, *args, **options):
    return fs.train(run, *args, progress=False, device="cpu", **options)


def test_the_same_seed_gives_the_same_bits_and_another_other_ones():
    first, again, other = (train(tiny_run(seed=seed)) for seed in (1, 1, 2))
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint
    assert torch.equal(first.sample(4), again.sample(4))


def test_training_touches_neither_the_global_generator_nor_the_threads():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    train(tiny_run())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_the_randomness_of_a_sample_does_not_depend_on_the_batch_size():
    """Times, noise and order of global sample n are the same in batches of 8 and of 16."""
    arrays = Arrays(torch.randn(50, 3, generator=generator(0, "x")))
    runs = [tiny_run(batch=b, block=4, iterations=48 // b) for b in (8, 16)]
    method = fs.methods.diffusion()
    lists = [[draw_batch(Stage(r, method), arrays, s) for s in range(48 // r.batch)] for r in runs]
    for name in ("rows", "x0", "z"):
        assert torch.equal(*(torch.cat([getattr(b, name) for b in batches]) for batches in lists))
    assert torch.equal(*(torch.cat([b.times.t for b in batches]) for batches in lists))
    seeds = [[seed for b in batches for seed in b.seeds] for batches in lists]
    assert seeds[0] == seeds[1]


def test_a_run_survives_json_and_says_what_is_wrong_with_one():
    run = tiny_run(sigma_data=0.4, later_sigmas=(1.0, 0.5))
    text = json.dumps(run.to_json())
    assert run_from_json(json.loads(text)) == run
    for change, message in (
        ({"iteration": 3}, "did you mean 'iterations'"),
        ({"iterations": "3"}, "iterations = '3': expected int"),
        ({"iterations": True}, "expected int"),
        ({"lr": -1.0}, "lr = -1.0: expected above 0"),
        ({"betas": [0.9, "x"]}, "betas = 'x': expected float"),
        ({"betas": [0.9]}, "expected 2 numbers"),
        ({"iterations": 3.5}, "iterations = 3.5: expected int"),
        ({"betas": [1.5, 0.9]}, "betas = .*below 1"),
        ({"middle_times": [0.5, 2.0]}, "later_sigmas = .*decreasing"),
        ({"middle_times": [0.5], "later_sigmas": [0.7]}, "later_sigmas is given twice"),
        ({"batch": 10}, "multiple of block"),
        ({"lr": float("nan")}, "lr"),
    ):
        with pytest.raises(UserError, match=message):
            run_from_json({**json.loads(text), **change})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "etc"}, "unknown method 'etc': did you mean 'ect'"),
        ({"network": "mlq"}, "unknown network 'mlq': did you mean 'mlp'"),
        ({"data": "ring9"}, "unknown data set 'ring9': did you mean 'ring8'"),
        ({"method_options": {"stage": 3}}, "did you mean 'stages'"),
        ({"method_options": {"stages": "3"}}, "stages = '3': expected int"),
        ({"method_options": {"weight": "edn"}}, "did you mean 'edm'"),
        ({"later_sigmas": (100.0,)}, "below t_max"),
        ({"network_options": {"widht": 3}}, "did you mean 'width'"),
    ],
)
def test_a_misspelt_name_is_told_with_the_nearest_one(fields, message):
    with pytest.raises(UserError, match=message):
        train(tiny_run(**fields))
    with pytest.raises(UserError, match="did you mean 'seed'"):
        tiny_run(sead=1)


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path):
    train(tiny_run(), out=tmp_path / "r")
    with pytest.raises(UserError, match="already holds a run"):
        train(tiny_run(), out=tmp_path / "r")
    with pytest.raises(UserError, match=r"lr = 0\.5, but the run"):
        train(tiny_run(lr=0.5), out=tmp_path / "r", resume=True)
    mine, other = (torch.randn(9, 2, generator=generator(i, "x")) for i in range(2))
    train(tiny_run(), mine, out=tmp_path / "mine")
    with pytest.raises(UserError, match="the data is not"):
        train(tiny_run(), other, out=tmp_path / "mine", resume=True)
    again = train(tiny_run(checkpoint_every=5), out=tmp_path / "r", resume=True)
    assert again.step == 6


def test_when_all_checkpoints_are_damaged_it_does_not_start_from_zero(tmp_path):
    train(tiny_run(), out=tmp_path)
    for folder in (tmp_path / "checkpoints").iterdir():
        (folder / "manifest.json").unlink()
    with pytest.raises(StorageError, match="no valid checkpoint"):
        train(tiny_run(), out=tmp_path, resume=True)


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        train(tiny_run(), out=tmp_path / "file" / "run")


class Breaks(nn.Module):
    """A linear network whose output is NaN from its n-th call with gradient on."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.left = calls

    def forward(self, x, noise_label, cond=None):
        self.left -= torch.is_grad_enabled()
        return self.layer(x) * (float("nan") if self.left < 0 else 1.0)


def test_a_loss_that_is_not_finite_stops_before_anything_changes(tmp_path):
    network = Breaks(4)  # one call tries it out
    with pytest.raises(
        NonFiniteError, match=r"step 3: the loss of 16 of 16 rows .* t in \["
    ) as error:
        train(tiny_run(), network=network, out=tmp_path)
    assert "\n" not in str(error.value)
    assert all(torch.isfinite(p).all() for p in network.parameters())
    student = fs.load(tmp_path, network=Breaks(9), ema="student")
    assert student.step == 3
    for p, own in zip(student.denoiser.network.parameters(), network.parameters(), strict=True):
        assert torch.equal(p, own)


def test_a_gradient_that_is_not_finite_names_the_weight():
    class Cliff(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(1))

        def forward(self, x, noise_label, cond=None):
            return x * self.scale.abs().sqrt()  # infinite slope at 0

    with pytest.raises(
        NonFiniteError, match=r"gradient has norm (nan|inf), first in student\.network\.scale"
    ):
        train(tiny_run(), network=Cliff())


MISFITS = {
    "no cond": (lambda x, label: x, "positional argument"),
    "a tuple": (lambda x, label, cond=None: (x, x), "gave tuple for"),
    "another shape": (lambda x, label, cond=None: x[:, :1], "expected a tensor of the same shape"),
}


@pytest.mark.parametrize(("forward", "message"), MISFITS.values(), ids=MISFITS.keys())
def test_a_network_that_does_not_fit_is_told_before_anything_is_written(forward, message, tmp_path):
    class Misfit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, *args):
            return forward(*args)

    with pytest.raises(UserError, match=message) as error:
        train(tiny_run(), None, Misfit(), out=tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_your_own_network_and_labels(tmp_path):
    """An outside module trains, samples by label, and is asked for again when the run is loaded."""

    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(3, 4)
            self.layer = nn.Linear(4, 4)

        def forward(self, x, noise_label, cond=None):
            return self.layer(x) + self.table(cond) + noise_label[:, None]

    x0 = torch.randn(64, 4, generator=generator(0, "x"))
    data = {"x0": x0, "cond": torch.arange(64) % 3}
    mine = train(tiny_run(), data, Mine(), out=tmp_path)
    assert mine.sample(5, cond=2).shape == (5, 4)
    with pytest.raises(UserError, match="pass it as network="):
        fs.load(tmp_path)
    assert torch.equal(
        fs.load(tmp_path, network=Mine(), device="cpu").sample(5, cond=2), mine.sample(5, cond=2)
    )


def test_dropout_of_your_own_network_is_addressed_and_shared(tmp_path):
    """nn.Dropout draws from the run's seed, alike in both passes, and not when sampling."""

    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(2, 16), nn.SiLU(), nn.Dropout(0.5), nn.Linear(16, 2)
            )

        def forward(self, x, noise_label, cond=None):
            return self.layers(x)

    def fresh() -> Drops:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Drops()

    runs = [
        train(tiny_run(checkpoint_every=3), None, fresh(), out=tmp_path / name)
        for name in ("a", "b")
    ]
    assert runs[0].fingerprint == runs[1].fingerprint
    assert torch.equal(runs[0].sample(4), runs[0].sample(4))
    shutil.rmtree(tmp_path / "b" / "checkpoints" / "step-6")
    again = train(tiny_run(checkpoint_every=3), None, fresh(), out=tmp_path / "b", resume=True)
    assert again.fingerprint == runs[0].fingerprint
    method, student = fs.methods.ect(), Preconditioned(fresh(), Edm()).double()
    x0, z = (torch.randn(8, 2, generator=generator(i, "x"), dtype=torch.float64) for i in range(2))
    t = torch.full((8,), 2.0, dtype=torch.float64)
    times = fs.Times(t, t - 1e-9, torch.zeros_like(t), torch.ones_like(t))
    assert (method.loss(fs.Models(student), x0, z, times, seed=0) * 1e-9 < 1e-7).all()
    assert (method.loss(fs.Models(student), x0, z, times) * 1e-9 > 1e-4).any()


def test_tied_weights_and_weights_without_a_gradient_are_saved_and_resumed(tmp_path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.idle = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
            self.two.weight = self.one.weight

        def forward(self, x, noise_label, cond=None):
            return self.two(self.one(x))

    def fresh() -> Tied:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Tied()

    whole = train(tiny_run(), None, fresh(), out=tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "step-6")
    assert (
        train(tiny_run(), None, fresh(), out=tmp_path, resume=True).fingerprint == whole.fingerprint
    )


def test_an_overflowing_norm_of_finite_gradients_is_told():
    class Steep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(2))

        def forward(self, x, noise_label, cond=None):
            return x * self.scale * 1e22

    with pytest.raises(NonFiniteError, match="norm inf"):
        train(tiny_run(method="diffusion"), None, Steep())


def test_a_checkpoint_without_an_optimizer_is_not_resumed(tmp_path):
    model = train(tiny_run(), out=tmp_path)
    for folder in (tmp_path / "checkpoints").iterdir():
        shutil.rmtree(folder)
    groups = {"student": model.denoiser.state_dict(), "ema": model.denoiser.state_dict()}
    record = new_record(model.run, model.facts, Position(step=4))
    checkpoint.write(tmp_path / "checkpoints" / "step-4", groups, record.to_json())
    with pytest.raises(StorageError, match="holds no optimizer"):
        train(tiny_run(), out=tmp_path, resume=True)


def test_a_lost_or_torn_log_does_not_stop_a_resumed_run_and_has_each_step_once(tmp_path):
    train(tiny_run(), out=tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "step-6")
    (tmp_path / "metrics.jsonl").unlink()
    train(tiny_run(), out=tmp_path, resume=True)
    assert [
        json.loads(row)["step"] for row in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ] == [5, 6]
    shutil.rmtree(tmp_path / "checkpoints" / "step-6")
    log = tmp_path / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[:-9])  # cut within a line
    train(tiny_run(), out=tmp_path, resume=True)
    assert [json.loads(row)["step"] for row in log.read_text().splitlines()] == [5, 6]


@pytest.mark.pictures
def test_a_picture_that_fails_does_not_cost_the_run(tmp_path, monkeypatch, caplog):
    def fail(path, groups, look):
        raise OSError("no room for art")

    monkeypatch.setattr(pictures, "draw", fail)
    assert train(tiny_run(picture_every=2), out=tmp_path).step == 6
    assert fs.load(tmp_path).step == 6
    assert "no room for art" in caplog.text


def test_weights_of_another_network_are_refused_by_name(tmp_path):
    train(tiny_run(), network=Breaks(99), out=tmp_path)

    class Wider(Breaks):
        def __init__(self) -> None:
            super().__init__(9)
            self.layer = nn.Linear(2, 2, bias=False)

    with pytest.raises(StorageError, match=r"network\.layer\.bias"):
        fs.load(tmp_path, network=Wider())


def test_the_preconditioning_is_stored_with_the_weights(tmp_path):
    """sigma_data is measured, written down, and what a loaded generator uses."""
    model = train(tiny_run(), out=tmp_path)
    sigma_data = fs.data.load("ring8").sigma_data()
    assert model.facts.sigma_data == sigma_data
    assert fs.load(tmp_path).denoiser.scaling.sigma_data == sigma_data
    assert Facts.from_json(json.loads(json.dumps(model.facts.to_json()))) == model.facts
    other = train(tiny_run(sigma_data=0.3, method="diffusion"))
    assert other.denoiser.scaling.sigma_data == 0.3
    assert other.method.weight.sigma_data == 0.3


def test_settings_are_written_out_in_full(tmp_path):
    """A later change of a default does not change an old run: run.json holds every option."""
    train(tiny_run(), out=tmp_path)
    run = read_run(tmp_path / "run.json")
    assert run.method_options.keys() >= {"q", "k", "b", "stages", "c", "weight"}
    own = {"width": 16, "depth": 1, "dropout": 0.1}
    assert run.network_options == {**own, "features_at": None}
    bare = {"method_options": {}, "network_options": {}}
    assert replace(run, **bare) == replace(tiny_run(age=0, later_sigmas=(0.821,)), **bare)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system knows no hang-up")
@pytest.mark.parametrize(
    ("number", "other"),
    [(signal.SIGHUP, signal.SIG_IGN), (signal.SIGUSR1, lambda *_: None)],
    ids=["hang-up", "user"],
)
def test_a_signal_stops_a_run_unless_the_program_around_it_has_another_use(number, other):
    """A hang-up is ignored under nohup."""
    before = signal.getsignal(number)
    try:
        for handler, signals in ((signal.SIG_DFL, [number]), (other, [])):
            signal.signal(number, handler)
            with stop_requests() as requests:
                signal.raise_signal(number)
                assert requests == signals
            assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


def test_a_run_that_fails_at_its_first_step_is_saved_and_fails_there_again(tmp_path):
    for resume in (False, True):
        with pytest.raises(NonFiniteError, match="step 0"):
            train(tiny_run(), None, Breaks(1), out=tmp_path, resume=resume)
    assert fs.load(tmp_path, network=Breaks(9)).step == 0


def test_later_sigmas_keep_their_name_in_files_and_are_read_by_both():
    """Files and digests of settings hold; what a file says of middle_times is later_sigmas."""
    values = tiny_run(later_sigmas=(1.0, 0.5)).to_json()
    assert values["middle_times"] == [1.0, 0.5]
    assert "later_sigmas" not in values
    other = {("later_sigmas" if key == "middle_times" else key): v for key, v in values.items()}
    assert run_from_json(other) == run_from_json(values)
    assert tiny_run(middle_times=(1.0, 0.5)) == run_from_json(values)


def test_a_run_is_prepared_once_with_every_option_and_its_stages():
    calls = []

    def own(*, c: float = 0.1) -> fs.Method:
        calls.append(c)
        return fs.methods.ect(c=c)

    prepared = prepare(tiny_run(), method=own)
    assert calls == [0.1]
    assert prepared.run.method_options == {"c": 0.1}
    assert prepared.run.later_sigmas == prepared.method.later_sigmas
    assert prepared.facts.data == prepared.dataset.fingerprint()
    assert [(stage.number, stage.first, stage.last) for stage in prepared.stages] == [(1, 0, 6)]
    two = prepare(tiny_run(method="tcm", split=0.5))
    assert [(stage.number, stage.first, stage.last) for stage in two.stages] == [
        (1, 0, 3),
        (2, 3, 6),
    ]


def test_what_changed_is_told_option_by_option_and_always_in_the_same_order():
    run = tiny_run().to_json()
    other = {
        **run,
        "seed": 9,
        "lr": 0.5,
        "picture_every": 7,
        "network_options": {**run["network_options"], "width": 3},
    }
    assert [name for name, _, _ in differences(other, run)] == ["lr", "network.width", "seed"]
