"""Where weights, teachers, networks and methods come from, and that a run folder says so."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.cli import main
from fewstep.core.denoiser import Models
from fewstep.core.targets import Student
from fewstep.data import SPLIT_SEED
from fewstep.run.build import with_defaults
from fewstep.run.checkpoint import fingerprint, read
from fewstep.run.datasets import dataset_of
from fewstep.run.prepare import Prepared
from fewstep.run.teachers import teacher_of
from fewstep.training import loop
from tests.support.toys import Gaussian, tiny_run

TINY = [
    *(
        "--iterations",
        "4",
        "--batch",
        "16",
        "--block",
        "4",
        "--network.width",
        "16",
        "--network.depth",
        "1",
    ),
    *("--checkpoint-every", "2", "--picture-every", "0", "--log-every", "1", "--device", "cpu"),
]


def train(run, *args, **options):
    return fs.train(run, *args, progress=False, device="cpu", **options)


def error_line(capsys) -> str:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("fewstep:")][
        -1
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    out = tmp_path_factory.mktemp("source") / "run"
    return out, train(tiny_run(method="diffusion", seed=7), out=out)


def first_weights(monkeypatch, *arguments, **options) -> dict[str, Tensor]:
    """The student's weights at step 0 of a run."""
    weights: dict[str, Tensor] = {}
    whole = loop.train_step

    def noting(stage, state, batch):
        if not state.step:
            weights.update(
                {name: p.clone() for name, p in state.student.network.state_dict().items()}
            )
            for name, average in state.averages.items():
                assert fingerprint({"": average.state_dict()}) == fingerprint(
                    {"": state.student.state_dict()}
                ), name
        return whole(stage, state, batch)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", noting)
        train(*arguments, **options)
    return weights


@pytest.mark.parametrize(
    "kind", ["run", "checkpoint", "file", "half file", "average's file", "generator", "module"]
)
def test_a_run_starts_with_the_weights_it_is_given(kind, source, monkeypatch, tmp_path):
    out, model = source
    weights = model.denoiser.network.state_dict()
    save_file(weights, tmp_path / "w.safetensors")
    save_file({name: w.half() for name, w in weights.items()}, tmp_path / "half.safetensors")
    init = {
        "run": out,
        "checkpoint": str(out / "checkpoints" / "step-6"),
        "file": tmp_path / "w.safetensors",
        "half file": tmp_path / "half.safetensors",
        "average's file": out / "checkpoints" / "step-6" / "ema.safetensors",
        "generator": model,
        "module": model.denoiser.network,
    }[kind]
    start = first_weights(monkeypatch, tiny_run(averages=("decay:0.5",)), init=init)
    for name, tensor in start.items():
        target = weights[name].half().float() if kind == "half file" else weights[name]
        assert torch.equal(tensor, target)
        assert tensor.dtype == torch.float32
    other = first_weights(monkeypatch, tiny_run())
    assert not all(torch.equal(other[name], weights[name]) for name in weights)


def test_what_a_run_started_from_is_kept_told_and_not_needed_again(source, tmp_path, capsys):
    out, model = source
    shutil.copytree(out, tmp_path / "source")
    run = tiny_run(init=str(tmp_path / "source"))
    whole = fs.train(run, out=tmp_path / "r", device="cpu")
    output = capsys.readouterr().err
    assert (
        f"init: {len(model.denoiser.state_dict())} tensors of the average of {tmp_path / 'source'},"
        " diffusion at step 6" in output
    )
    assert whole.facts.init == fingerprint({"network": model.denoiser.network.state_dict()})
    assert whole.facts.init[:16] in output
    shutil.rmtree(tmp_path / "source")
    shutil.rmtree(tmp_path / "r" / "checkpoints" / "step-6")
    again = train(tiny_run(), out=tmp_path / "r", resume=True)
    assert again.fingerprint == whole.fingerprint
    copy = fs.load(tmp_path / "r", device="cpu")
    assert (copy.facts, copy.run.init) == (whole.facts, run.init)
    with pytest.raises(UserError, match="init = 'other', but the run"):
        train(tiny_run(init="other"), out=tmp_path / "r", resume=True)
    assert train(tiny_run()).facts.init == ""


def test_weights_that_do_not_fit_are_told_in_one_line(source, tmp_path, capsys):
    wider = tiny_run(network_options={"width": 24, "depth": 1})
    with pytest.raises(
        UserError, match=r"weight 'blocks\.0\.inner\.bias' is .*\(16,\) in the file and .*\(24,\)"
    ) as error:
        train(wider, init=source[0])
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"init = .*gone\.safetensors cannot be read: No such file"):
        train(tiny_run(), init=tmp_path / "gone.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"init = .*bad\.safetensors"):
        train(tiny_run(), init=tmp_path / "bad.safetensors")
    assert main(["train", "toy", "--init", "nowhere", "--out", str(tmp_path / "r"), *TINY]) == 2
    assert "no run folder nowhere" in error_line(capsys)
    assert not (tmp_path / "r").exists()


class Taught:
    """A coupling that learns from its teacher: x_r is the teacher's Euler step, which r = a makes
    the goal.
    """

    needs = frozenset({"teacher"})

    def __call__(self, models, process, x0, z, times, cond):
        x_t = process.mix(x0, z, times.t)
        return x_t, process.jump(x_t, models.teacher(x_t, times.t, cond), times.t, times.r)


def distil(*, c: float = 0.0, stages: int = 4, sigma_data: float = 0.5) -> fs.Method:
    """A method with a teacher."""
    return replace(
        fs.methods.ect(c=c, stages=stages, sigma_data=sigma_data),
        coupling=Taught(),
        target=Student(),
    )


def test_a_teacher_is_frozen_used_and_known_again(source, tmp_path):
    out, model = source
    whole = train(tiny_run(checkpoint_every=3), method=distil, teacher=out, out=tmp_path / "r")
    by_object = train(tiny_run(checkpoint_every=3), method=distil, teacher=model)
    assert by_object.fingerprint == whole.fingerprint
    assert (
        by_object.facts.teacher
        == whole.facts.teacher
        == fingerprint({"teacher": model.denoiser.state_dict()})
    )
    other = train(tiny_run(seed=8, method="diffusion"), out=tmp_path / "other")
    assert (
        train(tiny_run(checkpoint_every=3), method=distil, teacher=other).fingerprint
        != whole.fingerprint
    )
    shutil.rmtree(tmp_path / "r" / "checkpoints" / "step-6")
    with pytest.raises(UserError, match="the teacher is not the one that the run"):
        train(
            tiny_run(checkpoint_every=3),
            method=distil,
            teacher=tmp_path / "other",
            out=tmp_path / "r",
            resume=True,
        )
    shutil.copytree(out, tmp_path / "moved")  # known by its weights, wherever they are
    for options in ({}, {"teacher": tmp_path / "moved"}):
        again = train(
            tiny_run(checkpoint_every=3), method=distil, out=tmp_path / "r", resume=True, **options
        )
        assert again.fingerprint == whole.fingerprint
        assert again.run.teacher == str(options.get("teacher", out))


def facts_of(model, **changes):
    return replace(model.facts, **changes)


def test_a_teachers_weights_have_no_gradient_and_no_dropout(source):
    model = source[1]

    class Mine(nn.Linear):
        def forward(self, x_t, t, cond=None):
            return super().forward(x_t)

    mine = Mine(2, 2).train()
    for teacher in (model, source[0], mine):
        denoiser = teacher_of(teacher, Prepared(tiny_run(), model.facts, distil())).denoiser
        assert not denoiser.training
        assert not any(p.requires_grad for p in denoiser.parameters())
    assert mine.training
    assert mine.weight.requires_grad


def test_a_teacher_that_is_missing_not_needed_or_of_other_data_is_told(source, tmp_path):
    model = source[1]
    with pytest.raises(UserError, match="learns from a teacher: give one"):
        train(tiny_run(), method=distil)
    with pytest.raises(
        UserError, match="method 'ect' learns from no teacher: leave teacher=digits out"
    ):
        train(tiny_run(), teacher="digits")
    for changes, message in (
        ({"shape": (3,)}, r"shape = \(2,\), the run \(3,\)"),
        ({"classes": 4}, "classes = 0, the run 4"),
        ({"units": fs.data.Units(0.0, 2.0)}, "units = "),
        ({"sigma_data": 0.25}, r"sigma_data = .*, the run 0\.25: set sigma_data="),
    ):
        with pytest.raises(UserError, match=message):
            teacher_of(source[0], Prepared(tiny_run(), facts_of(model, **changes), distil()))
    with pytest.raises(UserError, match="given as an object: pass it as teacher="):
        train(tiny_run(teacher="own"), method=distil)


@pytest.mark.parametrize("init", [lambda x, t, cond=None: x, "own"], ids=["function", "own"])
def test_initial_weights_that_no_source_has_are_told(init):
    with pytest.raises(UserError, match=r"init = .*: expected a run, a \.safetensors file or"):
        train(tiny_run(), init=init)


def test_a_teacher_from_a_file_of_weights_is_the_runs_own_network_as_a_diffusion_model(
    source, tmp_path
):
    """Under the student's preconditioning, whose boundary is at t_min, it would be another
    denoiser.
    """
    save_file(source[1].denoiser.network.state_dict(), tmp_path / "w.safetensors")
    run = with_defaults(tiny_run())
    facts = source[1].facts
    student = Prepared(run, facts, fs.methods.cd(sigma_data=facts.sigma_data))
    teacher = teacher_of(tmp_path / "w.safetensors", student)
    x = torch.linspace(-1, 1, 8).reshape(4, 2)
    assert torch.equal(teacher.denoiser(x, 0.004), source[1].denoiser(x, 0.004))


def test_an_exact_teacher_is_found_by_name():
    ring, grid = (
        train(tiny_run(), method=distil, teacher=f"exact:{name}") for name in ("ring8", "grid25")
    )
    assert ring.fingerprint != grid.fingerprint
    assert ring.facts.teacher != grid.facts.teacher
    assert (
        ring.fingerprint == train(tiny_run(), method=distil, teacher=fs.exact.ring8()).fingerprint
    )
    with pytest.raises(UserError, match=r"unknown exact truth 'ring': did you mean 'ring8'\?"):
        train(tiny_run(), method=distil, teacher="exact:ring")


def test_samples_of_a_closed_form_are_a_data_set():
    dataset = dataset_of("exact:digits-mixture")
    parts = dataset.train, dataset.validation, dataset.test
    assert [len(part.x0) for part in parts] == [20_000, 2000, 2000]
    truth = fs.exact.digits_mixture()
    assert dataset.classes == truth.classes == 10
    samples = truth.draw(50, SPLIT_SEED)
    assert torch.equal(dataset.train.x0[:50], samples.x0)
    assert torch.equal(dataset.train.cond[:50], samples.cond)
    assert (
        fs.metrics.nearest_ratio(truth.sample(500), dataset.test.x0[:500], dataset.train.x0) > 0.9
    )
    with pytest.raises(UserError, match="data_size = 32: expected none"):
        dataset_of("exact:ring8", fs.data.Reading(size=32))


def test_a_teacher_on_another_process_is_moved_to_the_students():
    facts, method = train(tiny_run()).facts, distil()
    teacher = Gaussian(process=fs.process.trig(sigma_data=0.5))
    model = teacher_of(teacher, Prepared(tiny_run(), facts, method))
    x, t = (
        torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2),
        torch.tensor([0.01, 0.5, 3.0, 80.0]),
    )
    torch.testing.assert_close(model.denoiser(x, t), Gaussian()(x, t))


OUTSIDE = '''
from __future__ import annotations
from torch import nn
import fewstep as fs

class Net(nn.Module):
    def __init__(self, shape, classes, *, width: int = 8, bias=True):
        super().__init__()
        first = nn.Linear(*shape, width, bias=bias)
        self.net = nn.Sequential(first, nn.SiLU(), nn.Linear(width, *shape))
    def forward(self, x, noise_label, cond=None):
        return self.net(x)

def wrong(shape, classes):
    return 3

def needy(shape, classes, *, width: int):
    return Net(shape, classes, width=width)

def soft(*, c: float = 0.1, sigma_data: float = 0.5) -> fs.Method:
    """Softer ECT.

    Args:
        c: how soft
    """
    return fs.methods.ect(c=c, stages=2, sigma_data=sigma_data)
'''


def test_your_own_network_and_method_are_typed_and_typed_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("outside_parts.py").write_text(OUTSIDE)
    own = ["--network", "outside_parts:Net", "--method", "outside_parts:soft"]
    tiny = " ".join(TINY).replace("--network.depth 1", "").split()
    assert (
        main(["train", "toy", *own, *tiny, "--method.c", "0.3", "--network.no-bias", "--out", "r"])
        == 0
    )
    assert (
        "next: fewstep sample r --method outside_parts:soft --network outside_parts:Net"
        in capsys.readouterr().out
    )
    values = json.loads(Path("r/run.json").read_text())
    assert (values["network"], values["network_options"]) == (
        "outside_parts:Net",
        {"width": 16, "bias": False},
    )
    assert (values["method"], values["method_options"]) == ("outside_parts:soft", {"c": 0.3})
    assert main(["sample", "r", *own, "--n", "4", "--out", "x.npy", "--device", "cpu"]) == 0
    for words in (
        ["sample", "r", "--n", "4", "--out", "y.npy"],
        ["train", "toy", "--resume", "--out", "r"],
    ):
        assert main(words) == 2
        assert "--method outside_parts:soft" in error_line(capsys)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "outside_parts", None)  # would fail if it were imported
        assert main(["inspect", "r"]) == 0
    shutil.rmtree("r/checkpoints/step-4")
    before = read(Path("r/checkpoints/step-2")).state["run"]
    assert main(["train", "toy", *own, "--resume", "--out", "r"]) == 0
    assert read(Path("r/checkpoints/step-4")).state["run"] == before
    from outside_parts import Net, soft  # as Python has it, by the same labels

    again = train(tiny_run(network_options={}), method=soft, network=Net)
    assert (again.run.network, again.run.method) == ("outside_parts:Net", "outside_parts:soft")
    capsys.readouterr()
    for words, message in (
        (["--network", "outside_parts:wrong"], "gave int: expected a torch.nn.Module"),
        (["--network", "outside_parts:needy"], "a default in the signature of needy"),
        (["--network", "outside_parts:none"], "no attribute 'none'"),
        (["--network", "outside_parts:fs"], "is a module: expected a function"),
        (
            ["--network", "outside_parts:Net", "--network.widht", "3"],
            "did you mean --network.width?",
        ),
    ):
        assert main(["train", "toy", "--out", "never", *words]) == 2
        assert message in error_line(capsys)
    assert not Path("never").exists()


def test_a_method_object_is_used_as_it_is_and_asked_for_again(tmp_path):
    method = fs.methods.ect(c=0.2, stages=2)
    model = train(tiny_run(), method=method, out=tmp_path)
    assert model.run.method == "own"
    assert model.method is method
    assert (
        model.fingerprint
        == train(tiny_run(method_options={"c": 0.2, "stages": 2}, sigma_data=0.5)).fingerprint
    )
    with pytest.raises(UserError, match="pass it as method="):
        fs.load(tmp_path)
    assert torch.equal(fs.load(tmp_path, method=method, device="cpu").sample(3), model.sample(3))
    assert Models(student=model.denoiser).teacher is None


def test_a_teacher_must_denoise_and_fit_the_data(tmp_path):
    jumper = train(tiny_run(method="ect"), out=tmp_path / "jumper")
    cases = {
        "trained by 'ect' to jump, not to denoise": jumper,
        r"fails on data of shape \(2,\) with 0 classes": nn.Linear(2, 2),
        "answer of shape = .*that of x_t": lambda x, t, cond=None: x[:1],
        "teacher exact:digits-mixture fails on data of shape": "exact:digits-mixture",
    }
    for message, teacher in cases.items():
        with pytest.raises(UserError, match=message):
            train(tiny_run(), method=distil, teacher=teacher)
    with pytest.raises(UserError, match="expected data in the law's own units"):
        fs.train(
            tiny_run(),
            100 + 5 * torch.rand(50, 2),
            method=distil,
            teacher="exact:ring8",
            progress=False,
        )


def test_teachers_without_weights_are_told_apart_by_their_answers(tmp_path):
    def scale(factor: float):
        return lambda x, t, cond=None: factor * x

    run = tiny_run()
    train(run, method=distil, teacher=scale(0.1), out=tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "step-6")
    with pytest.raises(UserError, match="the teacher is not the one"):
        train(run, method=distil, teacher=scale(0.9), out=tmp_path, resume=True)
    assert train(run, method=distil, teacher=scale(0.1), out=tmp_path, resume=True).step == 6
