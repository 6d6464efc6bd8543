"""A step's variants: accumulated, in low precision, with another optimizer; each resumes to the
bit.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

import fewstep as fs
from fewstep.base.errors import NonFiniteError, UserError
from fewstep.base.randomness import generator
from fewstep.base.surroundings import tf32
from fewstep.core.denoiser import Preconditioned, passes_in
from fewstep.core.derivatives import difference
from fewstep.core.scalings import Edm
from fewstep.data import Arrays
from fewstep.run import checkpoint
from fewstep.run.build import build_method, with_defaults
from fewstep.run.facts import Facts
from fewstep.run.prepare import Prepared
from fewstep.run.stages import Stage
from fewstep.training import nonfinite
from fewstep.training.batches import draw_batch
from fewstep.training.optimizers import rectify
from fewstep.training.precision import MOST_SKIPPED, LossScale
from fewstep.training.state import new_state, update_averages
from fewstep.training.step import gradients, train_step
from tests.support.toys import tiny_run


def train(run, *args, **options):
    return fs.train(run, *args, progress=False, device="cpu", **options)


def parts_of(run, network=None, dtype=torch.float64):
    """The parts of a run on the toy ring: its stage, state and samples."""
    dataset = fs.data.load("ring8")
    facts = Facts(dataset.shape, 0, 0.5, dataset.units, "")
    run = with_defaults(run, network=network)
    method = build_method(run, facts)
    state = new_state(Prepared(run, facts, method, network=network))
    for module in state.modules().values():
        module.to(dtype)
    return Stage(run, method), state, Arrays(dataset.train.x0.to(dtype))


@pytest.mark.parametrize("method", ["ect", "diffusion"])
def test_the_gradient_of_the_parts_is_that_of_the_whole(method):
    """In float64, under dropout, to rounding; and the losses are the same, row by row."""
    results = []
    for accumulate in (1, 2, 4):
        stage, state, arrays = parts_of(tiny_run(method=method, accumulate=accumulate))
        state.student.network.outlet.weight.data.fill_(0.1)
        loss_b = gradients(stage, state, draw_batch(stage, arrays, 3))
        results.append(
            (loss_b, *(p.grad for p in state.trainable.parameters() if p.grad is not None))
        )
    for other in results[1:]:
        for whole, part in zip(results[0], other, strict=True):
            torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-14)


def test_a_batch_is_cut_in_whole_blocks():
    with pytest.raises(UserError, match="accumulate = 3: expected a number that cuts batch=16"):
        tiny_run(accumulate=3)
    with pytest.raises(UserError, match="accumulate = 8"):
        tiny_run(accumulate=8)


VARIANTS = [
    *({"optimizer": name, "weight_decay": 0.01} for name in ("adam", "adamw", "radam", "lion")),
    {"optimizer": "radam", "precision": "bf16", "accumulate": 2},
    {"optimizer": "lion", "precision": "fp16"},
    {
        "optimizer": "radam",
        "precision": "fp16",
        "accumulate": 4,
        "iterations": 20,
    },  # rectified from its sixth update
    {"averages": ("power:0.05", "halflife:50", "decay:0.5"), "snapshot_every": 4},
    {"decay": "inverse_sqrt"},
]


@pytest.mark.parametrize("fields", VARIANTS, ids=lambda fields: "-".join(map(str, fields.values())))
def test_the_resumed_run_is_the_uninterrupted_one(fields, tmp_path):
    run = tiny_run(**{"iterations": 8, "checkpoint_every": 4, **fields})
    whole = train(run, out=tmp_path)
    log = (tmp_path / "metrics.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "checkpoints" / f"step-{run.iterations}")
    again = train(run, out=tmp_path, resume=True)
    assert again.fingerprint == whole.fingerprint

    def rows_of(text: bytes) -> list[dict]:
        rows = [json.loads(line) for line in text.splitlines()]
        return [
            {k: v for k, v in row.items() if k not in ("seconds", "samples_per_second")}
            for row in rows
        ]

    assert rows_of((tmp_path / "metrics.jsonl").read_bytes()) == rows_of(log)


def test_every_setting_of_a_step_changes_the_weights():
    plain = train(tiny_run(iterations=8)).fingerprint
    prints = [
        train(tiny_run(**{"iterations": 8, **fields})).fingerprint
        for fields in VARIANTS
        if "averages" not in fields
    ]
    assert len({plain, *prints}) == len(prints) + 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_only_the_network_computes_in_low_precision(dtype):
    """Inside it a layer's output has the low type; outside all is float32, skip x_t to its last
    bit.
    """
    dtypes = []

    class Zero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            nn.init.zeros_(self.layer.weight)
            nn.init.zeros_(self.layer.bias)

        def forward(self, x, noise_label, cond=None):
            dtypes.append((x.dtype, noise_label.dtype, self.layer(x).dtype))
            return self.layer(x)

    student, x = Preconditioned(Zero(), Edm()), torch.randn(5, 2, generator=generator(0, "x"))
    reference = student(x, 1.3)
    with passes_in(dtype):
        assert torch.equal(student(x, 1.3), reference)
        assert (x @ x.T).dtype == torch.float32
    with pytest.raises(RuntimeError), passes_in(dtype):
        raise RuntimeError
    student(x, 1.3)
    full = (torch.float32,) * 3
    assert dtypes == [full, (*full[:2], dtype), full]


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_tf32_is_taken_where_it_is_asked_for_and_never_by_differences(precision):
    """PyTorch's own convolutions take it unasked. A pass and its gradient are in one precision."""
    flags: dict[str, set[tuple[str, bool]]] = {"pass": set(), "back": set(), "difference": set()}

    def note(place: str) -> None:
        flags[place].add((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))

    class Noted(nn.Linear):
        def forward(self, x, noise_label, cond=None):
            x = super().forward(x)
            note("pass")
            if x.requires_grad:
                x.register_hook(lambda _: note("back"))
            return x

    before = torch.backends.cudnn.allow_tf32
    run = tiny_run(network="own", network_options={}, iterations=2, precision=precision)
    fs.train(run, network=Noted(2, 2), progress=False)
    expected = ("high", True) if precision == "tf32" else ("highest", False)
    assert flags["back"] == {expected}
    assert expected in flags["pass"]
    with tf32(precision == "tf32"):
        difference(lambda x, t: (note("difference"), x)[1], *map(torch.ones, 4 * [3]), 0.1)
    assert flags["difference"] == {("highest", False)}
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_trains_like_full(precision):
    losses = []
    for one in ("fp32", precision):
        stage, state, arrays = parts_of(
            tiny_run(iterations=40, precision=one, lr=5e-3), dtype=torch.float32
        )
        losses.append(
            [train_step(stage, state, draw_batch(stage, arrays, s))["loss"] for s in range(40)]
        )
        assert all(p.dtype == torch.float32 for p in state.trainable.parameters())
    full, low = (torch.tensor(row) for row in losses)
    assert not torch.equal(full, low)
    torch.testing.assert_close(low, full, rtol=0.05, atol=0)


class Steep(nn.Module):
    """A network whose gradient, not its loss, overflows float16 while the loss scale is above a
    bound.
    """

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.layer, self.slope = nn.Linear(2, 2), slope

    def forward(self, x, noise_label, cond=None):
        return self.layer(x) + (self.slope * (lambda y: y - y.detach())(self.layer(x))).float()


def test_a_step_that_overflows_is_skipped_counted_and_told(tmp_path, caplog):
    model = train(
        tiny_run(precision="fp16", iterations=12, method="diffusion"),
        None,
        Steep(30.0),
        out=tmp_path,
    )
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    count = rows[-1]["skipped"]
    assert 0 < count < 12
    assert rows[-1]["loss_scale"] == 2.0 ** (16 - count)
    assert caplog.text.count("is skipped: its gradient overflowed float16") == count
    assert [row["skipped"] for row in rows] == sorted(row["skipped"] for row in rows)
    assert {row["grad_norm"] is None for row in rows} == {True, False}
    assert all(torch.isfinite(p).all() for p in model.denoiser.parameters())


def test_a_skipped_step_leaves_the_weights_and_too_many_stop_the_run():
    stage, state, arrays = parts_of(
        tiny_run(precision="fp16", method="diffusion"), Steep(1e12), torch.float32
    )
    before = [p.clone() for p in state.trainable.parameters()]
    for _ in range(MOST_SKIPPED):
        assert train_step(stage, state, draw_batch(stage, arrays, 0))["grad_norm"] is None
    for p, old in zip(state.trainable.parameters(), before, strict=True):
        assert torch.equal(p, old)
    assert not state.optimizer.state
    with pytest.raises(
        NonFiniteError,
        match=r"overflowed float16 30 steps in a row, .*first in student\.network\.layer",
    ):
        train_step(stage, state, draw_batch(stage, arrays, 0))


@pytest.mark.parametrize(
    ("method", "options", "advice"),
    [
        ("diffusion", {}, "--precision bf16 or fp32"),
        ("ect", {"stages": 1, "k": 0.0}, "--precision bf16 or fp32"),
        ("ect", {"stages": 1, "q": 1000.0, "k": 0.0}, r"--precision fp32 \(bf16 rounds \d"),
        ("sct", {"derivative": "difference"}, "--precision fp32$"),
    ],
    ids=["data", "far neighbours", "close neighbours", "the limit"],
)
def test_bf16_is_recommended_where_its_rounding_is_small(method, options, advice):
    run = tiny_run(precision="fp16", method=method, method_options=options)
    stage, state, arrays = parts_of(run, Steep(1e12), torch.float32)
    state.scale.in_a_row = MOST_SKIPPED
    batch = draw_batch(stage, arrays, 0)
    with pytest.raises(NonFiniteError, match=advice):
        nonfinite.overflow(stage, state, batch, torch.zeros(run.batch))


def test_a_skipped_step_does_not_count_for_the_rectification():
    """RAdam's warm-up counts updates, as the optimizer's own state does."""
    run = tiny_run(optimizer="radam", precision="fp16", method="diffusion", iterations=20)
    stage, state, arrays = parts_of(run, Steep(30.0), torch.float32)
    weight = state.student.network.layer.weight
    for step in range(20):
        train_step(stage, state, draw_batch(stage, arrays, step))
        updates = (
            int(state.optimizer.state[weight]["step"]) if weight in state.optimizer.state else 0
        )
        assert updates == state.step - state.scale.skipped
        assert (
            not updates
            or state.optimizer.param_groups[0]["eps"] == rectify(updates, run.betas[1])[1]
        )
    assert 5 < updates < 20


def test_a_loss_that_is_not_finite_stops_in_fp16_too():
    class Bad(Steep):
        def forward(self, x, noise_label, cond=None):
            return super().forward(x, noise_label) * float("nan")

    with pytest.raises(NonFiniteError, match="step 0: the loss of 16 of 16 rows is not finite"):
        train(tiny_run(precision="fp16"), None, Bad(1.0))


def test_the_loss_scale_grows_after_many_good_steps_and_survives_storage():
    scale = LossScale()
    for overflow in [True, *[False] * 2001]:
        scale.update(overflow)
    assert scale == LossScale(factor=2.0**16, good=1, in_a_row=0, skipped=1)
    assert LossScale.of(scale.tensors()) == scale


class Balance:
    """A stand-in for a learned log-variance: loss e^-u + u with one number u."""

    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.u = nn.Parameter(torch.randn(1))  # seeded by the run

    module = Learned

    def __call__(self, loss_b, times, models):
        return loss_b * (-models.balance.u).exp() + models.balance.u


def with_extras(monkeypatch):
    """A method with a learned balance and an average of its own rate; `Models` that carries the
    balance.
    """
    from dataclasses import dataclass
    from typing import Any

    from fewstep.training import state

    @dataclass(frozen=True)
    class WithBalance(fs.Models):
        balance: Any = None

    @dataclass(frozen=True, kw_only=True)
    class Extra(fs.Method):
        ema_rate: Any = None

    monkeypatch.setattr(state, "Models", WithBalance)
    ect = fs.methods.ect()
    parts = {name: getattr(ect, name) for name in fs.Method.__dataclass_fields__}
    return Extra(**{**parts, "balance": Balance(), "ema_rate": lambda progress: 0.5 * progress})


def test_a_learned_balance_and_an_own_average_are_trained_saved_and_resumed(tmp_path, monkeypatch):
    method = with_extras(monkeypatch)
    whole = train(tiny_run(checkpoint_every=3), method=method, out=tmp_path)
    last = checkpoint.read(tmp_path / "checkpoints" / "step-6")
    assert {"student", "ema", "target", "balance", "optimizer"} == last.groups.keys()
    early = checkpoint.read(tmp_path / "checkpoints" / "step-3")
    assert not torch.equal(early.groups["balance"]["u"], last.groups["balance"]["u"])
    shutil.rmtree(tmp_path / "checkpoints" / "step-6")
    assert (
        train(tiny_run(checkpoint_every=3), method=method, out=tmp_path, resume=True).fingerprint
        == whole.fingerprint
    )
    with pytest.raises(UserError, match="no weights 'balance'"):
        fs.load(tmp_path, ema="balance", method=method)


def test_the_own_average_is_the_target_and_moves_at_its_own_rate(monkeypatch):
    method = with_extras(monkeypatch)
    facts = Facts((2,), 0, 0.5, fs.data.load("ring8").units, "")
    run = with_defaults(tiny_run(), method=method)
    state = new_state(Prepared(run, facts, method))
    assert state.models().ema is state.averages["target"]
    state.step = 4
    before = state.averages["target"].network.inlet.weight.clone()
    student = state.student.network.inlet.weight.data.add_(1.0)
    update_averages(Stage(run, method), state, 4 / run.iterations)
    rate = 0.5 * 4 / 6
    torch.testing.assert_close(
        state.averages["target"].network.inlet.weight, rate * before + (1 - rate) * student
    )


def test_forced_normalisation_comes_once_before_each_steps_passes():
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.calls = nn.Linear(2, 2), 0

        @torch.no_grad()
        def normalise_(self) -> None:
            self.calls += 1
            self.layer.weight /= self.layer.weight.norm()

        def forward(self, x, noise_label, cond=None):
            lengths.append(self.layer.weight.norm().item())
            return self.layer(x)

    network, lengths = Normalised(), []
    model = train(tiny_run(ema=0.0), None, network)  # an average that keeps nothing is the student
    assert network.calls == 6
    assert lengths[-12:] == pytest.approx(
        [1.0] * 12, abs=1e-6
    )  # a target's and a student's pass of each step
    assert torch.equal(model.denoiser.network.layer.weight, network.layer.weight)


def test_a_run_of_an_older_version_goes_on(tmp_path):
    """A checkpoint whose run and facts lack the newer fields is resumed with their defaults."""
    whole = train(tiny_run(), out=tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "step-6")
    older = checkpoint.read(tmp_path / "checkpoints" / "step-4")
    groups = {name: older.groups[name] for name in older.groups}
    for name in (
        "optimizer",
        "precision",
        "accumulate",
        "averages",
        "init",
        "teacher",
        "decay",
        "snapshot_every",
    ):
        older.state["run"].pop(name)
    older.state["facts"] = {
        k: v for k, v in older.state["facts"].items() if k not in ("init", "teacher")
    }
    shutil.rmtree(older.path)
    checkpoint.write(older.path, groups, older.state)
    assert train(tiny_run(), out=tmp_path, resume=True).fingerprint == whole.fingerprint
    with pytest.raises(UserError, match="optimizer = 'lion'"):
        train(replace(tiny_run(), optimizer="lion"), out=tmp_path, resume=True)


def test_a_target_of_a_network_with_dropout_drops_what_the_student_drops():
    """torch's own dropout runs under one forked stream in both passes, so the target must be in
    training mode.
    """

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.drop = nn.Linear(2, 2), nn.Dropout(0.5)

        def forward(self, x, noise_label, cond=None):
            mask = self.drop(torch.ones_like(x))
            masks.append(mask)
            return self.layer(x) * mask

    masks: list[torch.Tensor] = []
    train(tiny_run(method="ct", network_options={}), None, Dropping())
    for target, student in zip(masks[-12::2], masks[-11::2], strict=True):
        assert torch.equal(target, student)
        assert target.unique().tolist() == [0.0, 2.0]


def test_parts_of_a_step_see_the_rows_uniforms_from_the_start():
    """The trial before training hands over all that a step does."""

    def coupling(models, process, x0, z, times, cond):
        share = times.u[:, :1] * 0
        return process.mix(x0, z, times.t) + share.to(x0.dtype), process.mix(x0, z, times.r)

    def method() -> fs.Method:
        return replace(fs.methods.ect(), coupling=coupling)

    assert train(tiny_run(), method=method).step == 6


def test_times_that_need_a_target_are_refused_without_one():
    class Halves:
        def __call__(self, u, progress, ordinal=None):
            return self.at(1 + u[:, 0], progress)

        def at(self, t, progress):
            return fs.Times(t, t / 2, 0 * t, torch.ones_like(t))

    with pytest.raises(UserError, match="expected a target, since Halves gives r > a"):
        train(tiny_run(), method=fs.Method(times=Halves()))


def test_what_fails_in_a_users_own_factory_is_one_line():
    def narrow(shape):
        return nn.Linear(2, 2)

    with pytest.raises(
        UserError, match=r"network .* fails: TypeError: .*expected function\(shape, classes"
    ):
        train(tiny_run(network_options={}), None, narrow)
    with pytest.raises(UserError, match="a name goes into the run"):
        train(tiny_run(), method="ict")

    class Still(nn.Module):
        def forward(self, x, noise_label, cond=None):
            return x

    with pytest.raises(UserError, match="without weights"):
        train(tiny_run(network_options={}), None, Still())


def test_edm2_trains_with_its_learned_weight_and_resumes(tmp_path):
    """Network and uncertainty head, both normalised once a step: the resumed run is the
    uninterrupted one.
    """

    def method() -> fs.Method:
        return replace(fs.methods.diffusion(), balance=fs.balances.LogVariance(channels=8))

    options = {"width": 8, "mult": (1,), "blocks": 1, "attention": (), "head_channels": 8}
    run = tiny_run(data="digits", network="edm2_unet", network_options=options, method="diffusion")
    whole = train(run, method=method, out=tmp_path)
    groups = checkpoint.read(tmp_path / "checkpoints" / "step-6").groups
    assert {"student", "ema", "balance"} < groups.keys()
    shutil.rmtree(tmp_path / "checkpoints" / "step-6")
    assert train(run, method=method, out=tmp_path, resume=True).fingerprint == whole.fingerprint


def test_a_gradient_is_clipped_where_it_is_longer():
    """Adam's moments say so: smaller by a bound of 1e-3, alike by bounds that are never met."""

    def moments(clip: float) -> float:
        sizes = []

        def watch(state) -> None:
            own = [state.optimizer.state[p]["exp_avg"] for p in state.student.parameters()]
            sizes.append(float(torch.nn.utils.get_total_norm(own)))

        fs.train(tiny_run(clip=clip, iterations=1), progress=False, device="cpu", watch=watch)
        return sizes[0]

    free, far, close = map(moments, (1e9, 1e6, 1e-3))
    assert free == far > close
    assert close == pytest.approx(1e-3 * (1 - tiny_run().betas[0]), rel=1e-3)
