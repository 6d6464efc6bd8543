"""The doctor: healthy runs are healthy, each fault that is made on purpose is named, and nothing is
written.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fewstep as fs
from fewstep.analysis.doctor import MEASURES, Subject, levels, output
from fewstep.analysis.doctor.examination import Examination, Samples
from fewstep.analysis.doctor.gradients import SIZE, Noise, cycled, gradients_of, noise_of
from fewstep.analysis.doctor.linear_bound import Linear, linear_of
from fewstep.analysis.doctor.memorisation import memorisation
from fewstep.analysis.doctor.training_log import spikes
from fewstep.analysis.doctor.verdicts import judged
from fewstep.base import randomness
from fewstep.cli import main
from tests.support import subjects
from tests.support.subjects import (
    Changed,
    logged,
    mirrored,
    noisy,
    scaled,
    shifted,
    trained,
    untrained,
    with_scaling,
)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> Callable[[str], Subject]:
    """A small trained run of a method, trained once."""
    known: dict[str, Subject] = {}

    def run(method: str) -> Subject:
        if method not in known:
            known[method] = trained(method, tmp_path_factory.mktemp("doctor") / method)
        return known[method]

    return run


def taken(subject: Subject, *names: str) -> Examination:
    """Some measures of a subject, or all."""
    samples = Samples(subject)
    return Examination(
        "", "", tuple(MEASURES[name](subject, samples) for name in names or MEASURES)
    )


WHOLE: dict[int, Examination] = {}


def whole(healthy: Callable[[str], Subject], method: str) -> Examination:
    """All measures of a healthy run, taken once."""
    subject = healthy(method)
    return WHOLE.setdefault(id(subject), WHOLE.get(id(subject)) or taken(subject))


def faults(examination: Examination) -> dict[str, str]:
    return {one.name: one.severity for one in examination.verdicts if one.severity != "ok"}


@pytest.mark.parametrize("method", subjects.METHODS)
def test_a_healthy_run_has_no_fault(healthy, method):
    found = whole(healthy, method)
    assert faults(found) == {}, output.text(found)
    assert output.overall(found).startswith("verdict: healthy")


def small_batch(p: Subject) -> Subject:
    return replace(p, run=replace(p.run, batch=2, block=2))


def spike(p: Subject) -> Subject:
    return logged(p, lambda i, row: {"loss": 500 * row["loss"]} if i == 30 else {})


def idle(p: Subject) -> Subject:
    flat = logged(p, lambda i, row: {"lr": 3e-3})
    return replace(flat, run=replace(flat.run, ema=0.5), ema=flat.student)


# method -> what breaks it -> the measures that look, and all that they find
ILL: dict[str, tuple[str, Callable[[Subject], Subject], tuple[str, ...], dict[str, str]]] = {
    "a level blown up": (
        "ect",
        lambda p: replace(p, ema=Changed(p.ema, scaled(4.0), 0.1, 0.4)),
        ("loss by noise level", "boundary", "memorisation"),
        {"level-out-of-hand": "broken"},
    ),
    "a denoiser's level blown up": (
        "diffusion",
        lambda p: replace(p, ema=Changed(p.ema, scaled(3.0), 0.1, 0.4)),
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
        lambda p: replace(p, ema=Changed(p.ema, shifted(0.2), 0.99, 1.05)),
        ("boundary", "chain", "teacher gap", "memorisation"),
        {"lost-boundary": "broken"},
    ),
    "a segment that does not begin as a denoiser": (
        "mcm",
        lambda p: replace(p, ema=Changed(p.ema, scaled(-1.0), 0.5, 0.7)),
        ("boundary", "memorisation"),
        {"segment-start": "broken"},
    ),
    "targets that run away": (
        "ect",
        lambda p: replace(p, earlier=noisy(p.student, 3.0)),
        ("target drift", "average", "chain"),
        {"target-drift": "broken"},
    ),
    "a chain that leaks": (
        "ect",
        lambda p: replace(p, ema=Changed(p.ema, scaled(0.2), 3.0)),
        ("chain", "boundary", "loss by noise level"),
        {"loose-chain": "broken"},
    ),
    "a batch of two": ("ect", small_batch, ("gradient noise",), {"gradient-noise": "broken"}),
    "an average that lags": (
        "ect",
        lambda p: replace(p, ema=untrained(p)),
        ("average",),
        {"average-lags": "broken"},
    ),
    "a denoiser's average that lags": (
        "diffusion",
        lambda p: replace(p, ema=untrained(p)),
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
        lambda p: replace(p, ema=Changed(p.ema, mirrored, 3.0)),
        ("teacher gap", "chain", "memorisation", "boundary"),
        {"teacher-gap": "broken"},
    ),
    "a spike": ("ect", spike, ("training log",), {"loss-spikes": "broken"}),
    "a loss that is no number": (
        "ect",
        lambda p: logged(p, lambda i, row: {"loss": math.nan} if i in (3, 4) else {}),
        ("training log",),
        {"non-finite": "broken"},
    ),
    "a gradient that grows": (
        "ect",
        lambda p: logged(
            p, lambda i, row: {"grad_norm": row["grad_norm"] * (100 if i > 35 else 1)}
        ),
        ("training log",),
        {"growing-gradient": "broken"},
    ),
    "a learning rate that stays up": (
        "ect",
        lambda p: logged(p, lambda i, row: {"lr": 3e-3}),
        ("training log",),
        {"not-annealed": "watch"},
    ),
    "a run that stopped": (
        "ect",
        lambda p: replace(p, step=200),
        ("training log",),
        {"unfinished": "watch"},
    ),
}


@pytest.mark.parametrize("name", ILL)
def test_each_fault_is_named_and_no_other(healthy, name):
    method, broken, measures, expected = ILL[name]
    found = taken(broken(healthy(method)), *measures)
    assert faults(found) == expected, output.text(found)


def test_training_rows_learnt_by_heart(tmp_path):
    """Nearest rows are also no denoiser of new data, and the average has no student to lag behind
    here.
    """
    found = taken(
        subjects.by_heart(tmp_path / "run"), "loss by noise level", "memorisation", "boundary"
    )
    assert faults(found) == {
        "overfitting": "broken",
        "memorisation": "broken",
        "level-out-of-hand": "broken",
    }


def test_every_verdict_has_a_patient(healthy):
    """Except those that a run of another kind has."""
    known = {name for *_, expected in ILL.values() for name in expected} | {
        "overfitting",
        "memorisation",
    }
    found = {one.name for method in subjects.METHODS for one in whole(healthy, method).verdicts}
    assert found == known


@pytest.mark.parametrize("method", ["cd", "ct"])
def test_levels_of_a_grid_are_on_it(method):
    """A time that is rounded up by one bit is paired with the level that it is, and loses nothing
    there.
    """
    found = getattr(fs.methods, method)()
    subject = SimpleNamespace(method=found, seed=0, progress=0.5)
    for one in levels.trained_levels(subject):
        t = torch.tensor([one.t], dtype=torch.float64)
        assert float(found.times.at(t, 0.5).r) < 0.99 * one.t
    told = [t for _, t in levels.up_to_the_top(subject)]
    assert told[-1] == 80.0
    assert told == sorted(told)
    assert told[-2] < 79.0


def test_a_verdict_names_its_number_and_threshold(healthy):
    method, broken, _, _ = ILL["a second stage off its first"]
    verdict = taken(broken(healthy(method)), "boundary").verdicts[0]
    assert verdict.value > verdict.threshold > 0
    assert "0.2" in verdict.words  # the distance that it was moved by
    assert "lower the learning rate" in verdict.words
    assert "w-b" in verdict.words


def test_noise_scale_of_known_gradients():
    """g = G + noise of variance V in each of P coordinates: |G|^2, tr Cov = size P V, and the error
    of |G|^2.
    """
    source, count, size, wide = randomness.generator(0, "noise"), 400, 8, 50
    mean = torch.full((wide,), 0.3, dtype=torch.float64)
    square = float(mean.square().sum())
    found = [
        noise_of(mean + torch.randn(count, wide, generator=source, dtype=torch.float64), size)
        for _ in range(40)
    ]
    assert sum(one.square for one in found) / 40 == pytest.approx(square, rel=0.02)
    assert sum(one.variance for one in found) / 40 == pytest.approx(size * wide, rel=0.02)
    scatter = float(torch.tensor([one.square for one in found]).std())
    assert 0.6 * scatter < sum(one.error for one in found) / 40 < 2.5 * scatter
    hidden = noise_of(torch.randn(count, wide, generator=source, dtype=torch.float64), size)
    assert hidden.at_least > 1000  # no gradient at all: the scale is beyond what the rows can tell


def test_what_cannot_be_resolved_is_bounded_by_two_standard_errors():
    assert Noise(square=1.0, error=0.5, variance=8.0).at_least == 4.0
    assert Noise(square=-1.0, error=1.0, variance=8.0).at_least == 8.0


def test_the_gradient_of_a_level_is_taken_there(healthy):
    """Levels that the network answers from alone: those of another level have another gradient."""
    subject = healthy("ect")
    net, rows = subject.student.requires_grad_(True), cycled(subject, 4 * SIZE)
    low, again, high = (gradients_of(subject, net, rows, t, 4) for t in (0.05, 0.05, 5.0))
    assert torch.equal(low, again)
    assert (low - high).norm() > 0.1 * high.norm()


def test_samples_a_little_nearer_than_chance_allows_are_no_copies(healthy):
    """Beyond 1.25 and beyond the interval: of few samples, half of them copies, the interval still
    holds 1.
    """
    subject = healthy("ect")
    train, held = subject.dataset.train.x0, subject.dataset.validation.x0
    sparse = torch.cat([train[:2], held[:2]])[[0, 2, 1, 3]]
    (told,) = memorisation(subject, sparse).verdicts
    assert told.severity == "ok"
    (told,) = memorisation(subject, train[:400]).verdicts
    assert told.severity == "broken"


def test_linear_denoiser_and_flow_of_a_gaussian_are_exact():
    truth = fs.exact.Gaussian(mean=torch.tensor([0.3, -1.0]), std=torch.tensor([0.2, 1.5]))
    linear = Linear(torch.tensor([0.3, -1.0]).double(), torch.tensor([0.04, 2.25]).double(), None)
    process, x = (
        truth.process,
        torch.randn(64, 2, dtype=torch.float64, generator=randomness.generator(0, "x")),
    )
    for t in (0.01, 0.5, 30.0):
        x_t = process.mix(x, x.flip(0), t)
        torch.testing.assert_close(linear.denoise(process, x_t, t), truth(x_t, t))
        torch.testing.assert_close(linear.flow(process, x_t, t), truth.solve(x_t, t, 0.0))
    full = linear_of(
        truth.sample(20_000).double() @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]]).double()
    )
    torch.testing.assert_close(full.values, torch.tensor([0.04, 2.25]).double(), rtol=0.05, atol=0)


def test_a_spike_is_no_schedule():
    """A step between plateaus, a trend and noise are not spikes; one line far above its neighbours
    is.
    """
    source = randomness.generator(0, "spikes")
    noise = torch.randn(200, generator=source).mul(0.3).exp().tolist()
    assert spikes(noise) == []
    assert spikes([value * (20 if i > 100 else 1) for i, value in enumerate(noise)]) == []
    assert spikes([value * 0.97**i for i, value in enumerate(noise)]) == []
    assert [
        i for i, _ in spikes([50.0 if i == 77 else value for i, value in enumerate(noise)])
    ] == [77]


def test_examination_writes_nothing_and_repeats(healthy, tmp_path, capsys):
    folder = healthy("ect").name
    before = contents(folder)
    assert (
        main(["doctor", folder, "--json", "--device", "cpu", "--out", str(tmp_path / "page")]) == 0
    )
    first = capsys.readouterr().out
    again = output.as_json(whole(healthy, "ect"))
    assert contents(folder) == before
    found = json.loads(first)
    assert found["severity"] == "ok"
    assert {one["name"] for one in found["measures"]} == set(MEASURES)
    assert [one["verdicts"] for one in found["measures"]] == [
        one["verdicts"] for one in again["measures"]
    ]
    assert all(one["verdicts"] or one["missing"] for one in found["measures"])
    page = (tmp_path / "page" / "doctor.html").read_text()
    assert "loss by noise level" in page
    assert "<svg" in page or "image/svg+xml" in page


def test_without_matplotlib_nothing_is_examined(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("fewstep.cli.doctor.of_run", lambda *_: pytest.fail("examined"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["doctor", "digits", "--out", str(tmp_path / "page")]) == 2
    assert "pip install 'fewstep[report]'" in capsys.readouterr().err


def test_what_has_no_drift_says_so(healthy):
    p, limit = healthy("ect"), fs.times.Limit(law=fs.times.LogNormal(mean=0.0, std=1.0))
    reasons = {
        "infinitely near": replace(p, method=replace(p.method, times=limit)),
        "teacher's solutions": replace(p, method=replace(p.method, target=None, times=fs.times.AtAnchor(times=limit),
                                                         coupling=fs.couplings.named("heun"))),
        "only the average": replace(p, student=None, earlier=None),
        "the data itself": healthy("diffusion"),
    }  # fmt: skip
    for words, subject in reasons.items():
        assert words in taken(subject, "target drift").measures[0].missing


def contents(folder: str) -> dict[str, str]:
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_shipped_generator_is_healthy(capsys):
    """It has no student, log or teacher: these are said to be missing."""
    assert main(["doctor", "digits", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("verdict: healthy by all 5 measures that could be taken;")
    assert sum("not measured" in line for line in lines) == 4


def test_an_empty_log_is_not_called_finite(healthy):
    found = taken(replace(healthy("ect"), log=[]), "training log")
    assert [verdict.name for verdict in found.verdicts] == ["unfinished"]


def test_a_run_takes_no_declaration_of_a_teacher(capsys):
    assert main(["doctor", "digits", "--prediction", "v"]) == 2
    assert "--prediction v: declares a teacher; digits is a run" in capsys.readouterr().err


def test_a_number_that_is_none_is_broken():
    told = judged("name", math.nan, 1.0, 2.0, against="one", fine="fine", ill="ill")
    assert told.severity == "broken"
    severities = [
        judged("n", x, 1.0, 2.0, against="", fine="", ill="").severity
        for x in (0.5, 1.5, 2.5, math.inf)
    ]
    assert severities == ["ok", "watch", "broken", "broken"]
