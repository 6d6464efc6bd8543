"""The doctor: healthy runs have no fault, each planted fault is named, nothing is written."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import pickle
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fewstep as fs
from fewstep.adapters.linear_bound import Linear, linear_of
from fewstep.analysis.doctor import MEASURES, Subject, levels, output, subject_of
from fewstep.analysis.doctor import later_steps as later
from fewstep.analysis.doctor.examination import Examination, Samples
from fewstep.analysis.doctor.gradients import (
    SIZE,
    Noise,
    gradients_of,
    judge_noise,
    noise_of,
    repeated_rows,
)
from fewstep.analysis.doctor.memorisation import memorisation
from fewstep.analysis.doctor.training_log import spikes
from fewstep.analysis.doctor.verdicts import Measure, judge
from fewstep.base import randomness
from fewstep.cli import main
from tests.support import subjects
from tests.support.subjects import (
    ChangedAnswers,
    SolvingOnce,
    mirror,
    noisy,
    once,
    scale_by,
    shift_by,
    untrained_network,
    with_log,
    with_scaling,
)

# The slow measures, which see no method: ect has both, and the command takes all of mcm.
LEFT_OUT = {
    "tcm": ("memorisation",),
    "mcm": ("memorisation", "gradient noise"),
    "diffusion": ("memorisation", "gradient noise"),
}


@pytest.fixture(scope="session")
def common(tmp_path_factory) -> Path:
    """A folder that all test processes of a session have in common."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "doctor"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def healthy(common) -> Callable[[str], Subject]:
    """A small run of a method, trained once for all tests."""

    @cache
    def load(method: str) -> Subject:
        run = once(common / method, lambda path: subjects.train(method, path))
        subject = subject_of(run, device="cpu")
        return replace(subject, truth=SolvingOnce(subject.truth, common))

    return load


@pytest.fixture(scope="session")
def whole(common, healthy) -> Callable[[str], Examination]:
    """The measures of a healthy run, taken once for all tests."""

    def load(method: str) -> Examination:
        def save(path: Path) -> None:
            names = [name for name in MEASURES if name not in LEFT_OUT.get(method, ())]
            path.write_bytes(pickle.dumps(take(healthy(method), *names)))

        result: Examination = pickle.loads(once(common / f"{method}.pickle", save).read_bytes())
        return result

    return load


def take(subject: Subject, *names: str) -> Examination:
    """Some measures of a subject, or all."""
    samples = Samples(subject)
    measures = [MEASURES[name](subject, samples) for name in names or MEASURES]
    return Examination("", "", tuple(measures))


def faults(examination: Examination) -> dict[str, str]:
    return {one.name: one.severity for one in examination.verdicts if one.severity != "ok"}


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=pytest.mark.long if name in ("tcm", "mcm") else ())
        for name in subjects.METHODS
    ],
)
def test_a_healthy_run_has_no_fault(whole, method):
    examination = whole(method)
    assert faults(examination) == {}, output.text(examination)
    assert output.overall(examination).startswith("verdict: healthy")


def keep_noise(net, x_t, t, cond):
    """The noise and the data as they came."""
    return x_t


def small_batch(p: Subject) -> Subject:
    return replace(p, run=replace(p.run, batch=2, block=2))


def spike(p: Subject) -> Subject:
    return with_log(p, lambda i, row: {"loss": 500 * row["loss"]} if i == 30 else {})


def idle(p: Subject) -> Subject:
    flat = with_log(p, lambda i, row: {"lr": 3e-3})
    return replace(flat, run=replace(flat.run, ema=0.5), ema=flat.student)


# name -> method, what makes it faulty, the measures that are taken, and all faults they name
FAULTY: dict[str, tuple[str, Callable[[Subject], Subject], tuple[str, ...], dict[str, str]]] = {
    "a level blown up": (
        "ect",
        lambda p: replace(p, ema=ChangedAnswers(p.ema, scale_by(4.0), 0.1, 0.4)),
        ("loss by noise level", "boundary", "memorisation"),
        {"level-out-of-hand": "broken"},
    ),
    "a denoiser's level blown up": (
        "diffusion",
        lambda p: replace(p, ema=ChangedAnswers(p.ema, scale_by(3.0), 0.1, 0.4)),
        ("loss by noise level", "boundary"),
        {"level-out-of-hand": "broken"},
    ),
    "a scaling without a boundary": (
        "ect",
        lambda p: replace(p, ema=with_scaling(p, fs.scalings.X0())),
        ("boundary",),
        {"boundary": "broken"},
    ),
    "a second stage off its first": (
        "tcm",
        lambda p: replace(p, ema=ChangedAnswers(p.ema, shift_by(0.2), 0.99, 1.05)),
        ("boundary", "chain", "teacher gap", "memorisation"),
        {"lost-boundary": "broken"},
    ),
    "a segment that does not begin as a denoiser": (
        "mcm",
        lambda p: replace(p, ema=ChangedAnswers(p.ema, scale_by(-1.0), 0.5, 0.7)),
        ("boundary", "memorisation"),
        {"segment-start": "broken"},
    ),
    "a second step that keeps its noise": (
        "ect",
        lambda p: replace(p, ema=ChangedAnswers(p.ema, keep_noise, 0.6, 1.2)),
        ("later steps",),
        {"keeps-noise": "watch"},
    ),
    "targets that run away": (
        "ect",
        lambda p: replace(p, earlier=noisy(p.student, 3.0)),
        ("target drift", "average", "chain"),
        {"target-drift": "broken"},
    ),
    "a chain that leaks": (
        "ect",
        lambda p: replace(p, ema=ChangedAnswers(p.ema, scale_by(0.2), 3.0)),
        ("chain", "boundary", "loss by noise level"),
        {"loose-chain": "broken"},
    ),
    "a batch of two": ("ect", small_batch, ("gradient noise",), {"gradient-noise": "broken"}),
    "an average that lags": (
        "ect",
        lambda p: replace(p, ema=untrained_network(p)),
        ("average",),
        {"average-lags": "broken"},
    ),
    "a denoiser's average that lags": (
        "diffusion",
        lambda p: replace(p, ema=untrained_network(p)),
        ("average",),
        {"average-lags": "watch"},
    ),
    "a noisy student": (
        "ect",
        lambda p: replace(p, student=noisy(p.student, 2.0)),
        ("average", "loss by noise level", "memorisation"),
        {"student-noisy": "broken"},
    ),
    "an average of nothing": (
        "ect",
        idle,
        ("average", "training log"),
        {"average-idle": "watch", "not-annealed": "watch"},
    ),
    "a student on trajectories of its own": (
        "ect",
        lambda p: replace(p, ema=ChangedAnswers(p.ema, mirror, 3.0)),
        ("teacher gap", "chain", "memorisation", "boundary"),
        {"teacher-gap": "broken"},
    ),
    "a spike": ("ect", spike, ("training log",), {"loss-spikes": "broken"}),
    "a loss that is no number": (
        "ect",
        lambda p: with_log(p, lambda i, row: {"loss": math.nan} if i in (3, 4) else {}),
        ("training log",),
        {"non-finite": "broken"},
    ),
    "a gradient that grows": (
        "ect",
        lambda p: with_log(
            p, lambda i, row: {"grad_norm": row["grad_norm"] * (100 if i > 35 else 1)}
        ),
        ("training log",),
        {"growing-gradient": "broken"},
    ),
    "a learning rate that stays up": (
        "ect",
        lambda p: with_log(p, lambda i, row: {"lr": 3e-3}),
        ("training log",),
        {"not-annealed": "watch"},
    ),
    "close neighbours in bf16": (
        "ect",
        lambda p: replace(p, run=replace(p.run, precision="bf16")),
        ("rounding",),
        {"rounding": "watch"},
    ),
    "a run that stopped": (
        "ect",
        lambda p: replace(p, step=200),
        ("training log",),
        {"unfinished": "watch"},
    ),
}


@pytest.mark.parametrize("name", FAULTY)
def test_each_fault_is_named_and_no_other(healthy, name):
    method, break_it, measures, names = FAULTY[name]
    examination = take(break_it(healthy(method)), *measures)
    assert faults(examination) == names, output.text(examination)


def test_a_gaussians_flow_from_pure_noise_is_the_datas_law():
    """At alpha = 0, the level infinity, it ends at mean + sqrt(C) z; the best guess is the mean."""
    mean, variances = torch.tensor([1.0, -2.0]).double(), torch.tensor([4.0, 0.25]).double()
    linear = Linear(mean, variances, None)
    z = torch.randn(6, 2, dtype=torch.float64, generator=randomness.generator(0, "pure"))
    torch.testing.assert_close(
        linear.flow(fs.process.linear(), z, 1.0), mean + variances.sqrt() * z
    )
    torch.testing.assert_close(linear.denoise(fs.process.linear(), z, 1.0), mean.expand(6, 2))


def test_the_level_that_leaves_less_noise_is_named(healthy):
    """Beside the levels at which the noise is kept, and by samples."""
    method, break_it, _, _ = FAULTY["a second step that keeps its noise"]
    (measure,) = take(break_it(healthy(method)), "later steps").measures
    samples = {level: deviation for level, _, deviation, _ in measure.rows}
    best = min(samples, key=samples.get)
    assert f"--later-sigmas {best:.3g} leaves {samples[best]:.2g}" in measure.verdicts[0].message
    assert not 0.6 < best < 1.2


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_the_noise_that_an_exact_map_keeps_is_the_closed_form(power):
    """Of N(0, diag v) at level s: (v / (v + s^2))^power s z, which is below sqrt v."""
    variances = torch.tensor([4.0, 1.0, 0.04, 0.01], dtype=torch.float64)
    linear = Linear(torch.zeros(4).double(), variances, torch.eye(4).double())
    ask = {0.5: linear.flow, 1.0: linear.denoise}[power]
    process = fs.process.edm()
    subject = SimpleNamespace(
        method=SimpleNamespace(process=process), ema=lambda x_t, t, cond: ask(process, x_t, t)
    )
    z = torch.randn(40_000, 4, generator=randomness.generator(0, "kept"), dtype=torch.float64)
    rows = levels.Rows(z.flip(0) * variances.sqrt(), None, z)
    _, kept, _, data = later.row_at(subject, linear, rows, (0.8,), with_samples=False)
    quiet = variances[2:]
    truth = 0.8 * (quiet / (quiet + 0.64)) ** power
    assert kept == pytest.approx(float(truth.mean()), rel=0.03)
    assert data == pytest.approx(float(quiet.mean()) ** 0.5)
    assert kept < data


def test_a_gradient_whose_square_is_below_0_is_not_resolved(healthy):
    """Nothing is known of it then: no number, and no fault."""
    verdict = judge_noise(healthy("ect"), Noise(square=-1.0, error=0.4, variance=5.0))
    assert (verdict.severity, verdict.value) == ("ok", None)
    assert "not resolved" in verdict.message
    known = judge_noise(healthy("ect"), Noise(square=-1.0, error=0.6, variance=5.0))
    assert known.value is not None


def test_without_a_measure_nothing_is_healthy():
    missing = Measure("rounding", "", missing="no reason")
    examination = Examination("", "", (missing,))
    assert output.overall(examination) == "verdict: nothing could be measured"
    assert examination.severity == "watch"


def test_training_rows_learnt_by_heart(tmp_path):
    """Nearest rows are also no denoiser of new data; the average has no student to lag behind."""
    subject = subjects.by_heart(tmp_path / "run")
    assert faults(take(subject, "loss by noise level", "memorisation", "boundary")) == {
        "overfitting": "broken",
        "memorisation": "broken",
        "level-out-of-hand": "broken",
    }


def test_every_verdict_has_a_faulty_subject(whole):
    names = {name for *_, names in FAULTY.values() for name in names}
    verdicts = {one.name for method in subjects.METHODS for one in whole(method).verdicts}
    assert verdicts == names | {"overfitting", "memorisation"}


@pytest.mark.parametrize("method", ["cd", "ct"])
def test_levels_of_a_grid_are_on_it(method):
    """A time rounded up by one bit is paired with its own level, and loses nothing there."""
    method = getattr(fs.methods, method)()
    subject = SimpleNamespace(method=method, seed=0, progress=0.5)
    for one in levels.trained_levels(subject):
        t = torch.tensor([one.t], dtype=torch.float64)
        assert float(method.times.at(t, 0.5).r) < 0.99 * one.t
    times = [t for _, t in levels.levels_to_the_top(subject)]
    assert times[-1] == 80.0
    assert times == sorted(times)
    assert times[-2] < 79.0


def test_a_verdict_names_its_number_and_threshold(healthy):
    method, break_it, _, _ = FAULTY["a second stage off its first"]
    verdict = take(break_it(healthy(method)), "boundary").verdicts[0]
    assert verdict.value > verdict.threshold > 0
    assert "0.2" in verdict.message  # the distance that it was moved by
    assert "lower the learning rate" in verdict.message
    assert "w-b" in verdict.message


def test_noise_scale_of_known_gradients():
    """Gradients G + noise of variance V in each of P coordinates.

    Measured are |G|^2, tr Cov = size P V, and the error of |G|^2.
    """
    source, count, size, wide = randomness.generator(0, "noise"), 400, 8, 50
    mean = torch.full((wide,), 0.3, dtype=torch.float64)
    square = float(mean.square().sum())

    def noise() -> torch.Tensor:
        return torch.randn(count, wide, generator=source, dtype=torch.float64)

    results = [noise_of(mean + noise(), size) for _ in range(40)]
    assert sum(one.square for one in results) / 40 == pytest.approx(square, rel=0.02)
    assert sum(one.variance for one in results) / 40 == pytest.approx(size * wide, rel=0.02)
    scatter = float(torch.tensor([one.square for one in results]).std())
    assert 0.6 * scatter < sum(one.error for one in results) / 40 < 2.5 * scatter
    # Without any gradient the scale is beyond what the rows can show.
    assert noise_of(noise(), size).at_least > 1000


def test_what_cannot_be_resolved_is_bounded_by_two_standard_errors():
    assert Noise(square=1.0, error=0.5, variance=8.0).at_least == 4.0
    assert Noise(square=-1.0, error=1.0, variance=8.0).at_least == 8.0


def test_the_gradient_of_a_level_is_taken_there(healthy):
    """Two times of one level have one gradient, those of another level another."""
    subject = healthy("ect")
    net, rows = subject.student, repeated_rows(subject, 4 * SIZE)
    net = copy.deepcopy(net).requires_grad_(True)
    low, again, high = (gradients_of(subject, net, rows, t, 4) for t in (0.05, 0.05, 5.0))
    assert torch.equal(low, again)
    assert (low - high).norm() > 0.1 * high.norm()


def test_samples_a_little_nearer_than_chance_allows_are_no_copies(healthy):
    """A fault is beyond 1.25 and beyond the interval.

    Of few samples, half of them copies, the interval still contains 1.
    """
    subject = healthy("ect")
    train, held_out = subject.dataset.train.x0, subject.dataset.validation.x0
    sparse = torch.cat([train[:2], held_out[:2]])[[0, 2, 1, 3]]
    for samples, severity in ((sparse, "ok"), (train[:400], "broken")):
        (verdict,) = memorisation(subject, samples).verdicts
        assert verdict.severity == severity


def test_linear_denoiser_and_flow_of_a_gaussian_are_exact():
    truth = fs.exact.Gaussian(mean=torch.tensor([0.3, -1.0]), std=torch.tensor([0.2, 1.5]))
    linear = Linear(torch.tensor([0.3, -1.0]).double(), torch.tensor([0.04, 2.25]).double(), None)
    process = truth.process
    x = torch.randn(64, 2, dtype=torch.float64, generator=randomness.generator(0, "x"))
    for t in (0.01, 0.5, 30.0):
        x_t = process.mix(x, x.flip(0), t)
        torch.testing.assert_close(linear.denoise(process, x_t, t), truth(x_t, t))
        torch.testing.assert_close(linear.flow(process, x_t, t), truth.solve(x_t, t, 0.0))
    rotation = torch.tensor([[0.6, 0.8], [-0.8, 0.6]]).double()
    whole_covariance = linear_of(truth.sample(20_000).double() @ rotation)
    variances = torch.tensor([0.04, 2.25]).double()
    torch.testing.assert_close(whole_covariance.values, variances, rtol=0.05, atol=0)


def test_a_spike_is_no_schedule():
    """One line far above its neighbours is a spike; a step, a trend and noise are not."""
    source = randomness.generator(0, "spikes")
    noise = torch.randn(200, generator=source).mul(0.3).exp().tolist()
    assert spikes(noise) == []
    assert spikes([value * (20 if i > 100 else 1) for i, value in enumerate(noise)]) == []
    assert spikes([value * 0.97**i for i, value in enumerate(noise)]) == []
    noise[77] = 50.0
    assert [line for line, _ in spikes(noise)] == [77]


@pytest.mark.long
def test_examination_writes_nothing_and_repeats(healthy, whole, tmp_path, capsys):
    folder = healthy("mcm").name
    before = contents(folder)
    page = tmp_path / "page"
    assert main(["doctor", folder, "--json", "--device", "cpu", "--out", str(page)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert contents(folder) == before
    assert facts["severity"] == "ok"
    measures = {one["name"]: one for one in facts["measures"]}
    assert set(measures) == set(MEASURES)
    for again in output.as_json(whole("mcm"))["measures"]:
        assert measures[again["name"]]["verdicts"] == again["verdicts"]
    assert all(one["verdicts"] or one["missing"] for one in measures.values())
    html = (page / "doctor.html").read_text()
    assert "loss by noise level" in html
    assert "<svg" in html or "image/svg+xml" in html


def test_without_matplotlib_nothing_is_examined(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("fewstep.cli.doctor.of_run", lambda *_: pytest.fail("examined"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["doctor", "digits", "--out", str(tmp_path / "page")]) == 2
    assert "pip install 'fewstep[report]'" in capsys.readouterr().err


def test_what_has_no_drift_says_so(healthy):
    ect = healthy("ect")
    limit = fs.times.Limit(law=fs.times.LogNormal(mean=0.0, std=1.0))
    solutions = replace(
        ect.method,
        target=None,
        times=fs.times.AtAnchor(times=limit),
        coupling=fs.couplings.by_name("heun"),
    )
    reasons = {
        "infinitely near": replace(ect, method=replace(ect.method, times=limit)),
        "teacher's solutions": replace(ect, method=solutions),
        "only the average": replace(ect, student=None, earlier=None),
        "the data itself": healthy("diffusion"),
    }
    for reason, subject in reasons.items():
        assert reason in take(subject, "target drift").measures[0].missing


def contents(folder: str) -> dict[str, str]:
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.long
def test_the_shipped_generator_is_healthy(capsys):
    """It has no student, log or teacher, and the measures that need them say so."""
    assert main(["doctor", "digits", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert re.search(r"bf16 rounds 0\.[4-9]\d*, too much to train in", " ".join(text.split()))
    assert lines[-1].startswith("verdict: healthy by all 7 measures that could be taken;")
    assert sum("not measured" in line for line in lines) == 4


def test_an_empty_log_is_not_called_finite(healthy):
    examination = take(replace(healthy("ect"), log=[]), "training log")
    assert [verdict.name for verdict in examination.verdicts] == ["unfinished"]


def test_a_run_takes_no_declaration_of_a_teacher(capsys):
    assert main(["doctor", "digits", "--prediction", "v"]) == 2
    assert "--prediction v: declares a teacher; digits is a run" in capsys.readouterr().err


def test_a_number_that_is_none_is_broken():
    def severity(value: float) -> str:
        return judge("name", value, 1.0, 2.0, against="", ok="", fault="").severity

    assert severity(math.nan) == "broken"
    severities = [severity(value) for value in (0.5, 1.5, 2.5, math.inf)]
    assert severities == ["ok", "watch", "broken", "broken"]
