"""ODE error, samples of a teacher as the reference, denoised data: where all of it is known."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fewstep as fs
from fewstep.analysis.metrics import (
    Result,
    compare,
    denoised_frechet,
    evaluate,
    ode_error,
    open_teacher,
    verdicts,
)
from fewstep.analysis.metrics.drawing import Source
from fewstep.analysis.metrics.teachers import ode_errors
from fewstep.base.errors import UserError
from fewstep.cli import main
from fewstep.core.guidance import Guided
from fewstep.core.process import expand, per_row
from fewstep.run.checkpoint import RunFolder
from fewstep.run.datasets import dataset_of
from fewstep.run.facts import facts_of
from fewstep.run.generator import Generator
from fewstep.run.teacher_ode import Closed
from tests.analysis.test_metrics import normals
from tests.support.toys import tiny_run

STD = 0.5  # of exact:gaussian


def flow(process):
    """The exact solution of N(0, STD^2)'s ODE, from any time to the data."""

    def end(x, t, cond=None):
        t = per_row(t, x)
        width = (process.alpha(t) ** 2 * STD**2 + process.sigma(t) ** 2).sqrt()
        return x * expand(STD / width, x)

    return end


@pytest.fixture(scope="module")
def gaussian():
    """Fewer rows of it, which are quick to compare with."""
    whole = dataset_of("exact:gaussian")
    parts = {"train": whole.train.rows(torch.arange(2000))}
    parts["test"] = whole.test.rows(torch.arange(1000))
    return replace(whole, **parts)


def student(dataset, denoiser, method=None):
    """A generator of that denoiser, on the data's own facts."""
    run = tiny_run(data=dataset.name)
    facts = facts_of(run, dataset)
    return Generator(run, facts, method or fs.methods.ect(), Closed(denoiser, "student"), 0, "s")


def error_of(generator, dataset, teacher):
    """The result of the ODE error in one step."""
    protocol = {"n": 100, "draws": 1, "split": "test", "seed": 0, "candidates": 1, "generator": ""}
    (result,) = ode_errors(Source(generator, dataset, 0), teacher, None, (1,), protocol)
    return result


@given(st.floats(0.01, 10), st.integers(2, 50), st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_a_constant_offset_is_the_error(offset, n, d):
    x = normals(n, d, 0)
    score = ode_error(x, x + offset)
    assert score.value == pytest.approx(offset)
    assert score.error == pytest.approx(0, abs=1e-9)
    assert ode_error(x, x) == (0, 0, (0, 0))


def test_the_standard_error_of_normal_offsets_is_known():
    """Offsets N(0, s^2) have rms s, with standard error s / sqrt(2 N d)."""
    n, d, s = 4000, 3, 0.2
    score = ode_error(normals(n, d, 0), normals(n, d, 0) + s * normals(n, d, 1))
    assert score.error == pytest.approx(s / (2 * n * d) ** 0.5, rel=0.1)
    assert abs(score.value - s) < 4 * score.error


def test_padding_does_not_count():
    x, mask = normals(20, 6, 0), torch.arange(6).expand(20, 6) < 2
    assert ode_error(x, x + 0.3 * mask, {"mask": mask}).value == pytest.approx(0.3)


@pytest.mark.parametrize(
    "process",
    [fs.process.edm(), pytest.param(fs.process.cosine(), marks=pytest.mark.long)],
)
def test_an_exact_student_has_the_solvers_error_which_falls_as_its_order(gaussian, process):
    """Twice the moves, a quarter of Heun's error; the floor, half against all, is 3 times it."""
    exact = student(gaussian, flow(process), replace(fs.methods.ect(), process=process))
    # On another process than the student's the teacher gets the same unit noise.
    law = fs.exact.named("gaussian")
    few, many = (error_of(exact, gaussian, open_teacher(law, exact, moves=m)) for m in (40, 80))
    assert few.value / many.value == pytest.approx(4, rel=0.35)
    assert many.floor / many.value == pytest.approx(3, rel=0.35)
    euler = [
        error_of(exact, gaussian, open_teacher(law, exact, solver="ddim", moves=m)).value
        for m in (40, 80)
    ]
    assert euler[0] / euler[1] == pytest.approx(2, rel=0.35)


def test_the_error_is_that_of_the_same_noise_and_says_of_what(gaussian):
    """A student that is a constant away everywhere."""
    off = student(gaussian, lambda x, t, cond=None: flow(fs.process.edm())(x, t) + 0.1)
    result = error_of(off, gaussian, open_teacher("exact:gaussian", off))
    assert result.value == pytest.approx(0.1, abs=2 * result.floor)
    protocol = result.protocol
    assert protocol["teacher"] == "exact:gaussian"
    assert (protocol["teacher_solver"], protocol["teacher_moves"]) == ("heun", 64)
    assert Result.from_json(json.loads(json.dumps(vars(result)))) == result
    assert compare(result, result).error is None  # of a single set no pairs are known


def test_guidance_is_the_trainings_and_own_is_the_runs_teacher(tmp_path):
    teacher = fs.train(
        tiny_run(data="digits", method="diffusion", label_drop=0.2),
        progress=False,
        out=tmp_path / "t",
    )
    run = tiny_run(
        data="digits",
        method="direct_cm",
        method_options={"n": 4, "guidance": 1.5},
        teacher=str(tmp_path / "t"),
    )
    generator = fs.train(run, progress=False)
    own = open_teacher("own", generator)
    assert isinstance(own.generator.denoiser.truth, Guided)
    assert own.guidance == own.facts()["teacher_guidance"] == 1.5
    assert own.fingerprint == generator.facts.teacher
    with pytest.raises(UserError, match="learned from no teacher"):
        open_teacher("own", teacher)
    other = replace(generator, facts=replace(generator.facts, teacher="0" * 64))
    with pytest.raises(UserError, match="is not the one that this run learned from"):
        open_teacher("own", other)


@pytest.mark.parametrize("t", [0.1, 0.5, 3.0, 80.0])
def test_the_denoised_law_of_a_gaussian_is_known(t):
    """N(0, s^4 / (s^2 + t^2)) by the posterior mean: dFID_t = (s - s^2 / sqrt(s^2 + t^2))^2."""
    process, law = fs.process.edm(), fs.exact.Gaussian(torch.zeros(1), STD)
    x0, z = STD * normals(100_000, 1, 0), normals(100_000, 1, 1)
    exact = (STD - STD**2 / (STD**2 + t**2) ** 0.5) ** 2
    assert denoised_frechet(law, process, x0, z, t) == pytest.approx(exact, rel=0.05, abs=2e-5)
    # The ideal consistency model keeps the law.
    assert denoised_frechet(flow(process), process, x0, z, t) < 2e-5


def test_denoised_rows_reach_the_floor_without_noise_and_more_noise_is_farther(gaussian):
    law = student(gaussian, fs.exact.named("gaussian"))
    levels = (1e-6, 0.3, 1.0)
    options = {"n": 1000, "draw": 500, "steps": (1,), "metrics": ["pixel_frechet"]}
    results, _ = evaluate(law, gaussian, denoised=levels, **options)
    clean, *noisy = (r for r in results if r.metric.startswith("denoised_pixel_frechet@"))
    assert [r.protocol["level"] for r in noisy] == [0.3, 1.0]
    assert clean.value == pytest.approx(clean.floor, abs=1e-6)
    assert clean.error == pytest.approx(clean.floor_error, abs=1e-6)
    for result in noisy:
        t = result.protocol["level"]
        exact = (STD - STD**2 / (STD**2 + t**2) ** 0.5) ** 2
        assert abs(result.value - exact) < 5 * (result.error + result.floor)
    with pytest.raises(UserError, match=r"denoised = 90\.0: expected above 0, at most 80"):
        evaluate(law, gaussian, denoised=(90.0,))
    with pytest.raises(UserError, match="no Fréchet distance among the metrics"):
        evaluate(law, gaussian, n=400, metrics=["energy"], denoised=(1.0,))


@pytest.mark.long
def test_samples_of_the_teacher_in_place_of_data(gaussian):
    """Its own law is at the floor, and data that it does not have are not."""
    exact = student(gaussian, flow(fs.process.edm()))
    narrow = fs.exact.Gaussian(torch.zeros(1), 0.3)
    options = {"n": 1000, "draw": 500, "steps": (1,), "reference": "teacher"}
    answers, metrics = [], ["energy", "nearest_ratio", "pixel_frechet"]
    for law in (fs.exact.named("gaussian"), narrow):
        teacher = open_teacher(law, exact, moves=30)
        results, _ = evaluate(exact, gaussian, teacher=teacher, metrics=metrics, **options)
        answers.append(verdicts(results)[0])
        assert all(r.protocol["teacher_moves"] == 30 for r in results)
        ratio = next(r for r in results if r.metric == "nearest_ratio")
        assert ratio.floor == pytest.approx(1, abs=0.2)  # other noise than the samples'
        assert ratio.protocol["n_reference"] == 1000
    same, other = answers
    assert not same.different
    assert other.different
    assert "not distinguishable from samples of the teacher" in same.sentence()
    with pytest.raises(UserError, match="name the teacher"):
        evaluate(exact, gaussian, **options)


@pytest.fixture(scope="module")
def two_stages(tmp_path_factory):
    """A run of two stages with all its checkpoints, on the ring."""
    out = tmp_path_factory.mktemp("runs") / "tcm"
    fs.train(tiny_run(method="tcm", split=0.5, keep_checkpoints=0), progress=False, out=out)
    return out


def test_every_checkpoint_stays_or_as_many_as_are_asked_for(two_stages, tmp_path):
    steps = [path.name for path in RunFolder(two_stages).checkpoints()]
    assert steps == ["step-6", "step-4", "step-2"]
    fs.train(tiny_run(checkpoint_every=1, keep_checkpoints=4), progress=False, out=tmp_path / "r")
    assert len(RunFolder(tmp_path / "r").checkpoints()) == 4
    with pytest.raises(UserError, match="keep_checkpoints = 1: expected 0 for all, or 2 or more"):
        tiny_run(keep_checkpoints=1)


def test_the_curve_over_all_checkpoints(two_stages, capsys):
    words = ["eval", str(two_stages), "--all-checkpoints", "--denoised", "0.2,80", "--n", "200"]
    words += ["--draw", "100", "--device", "cpu"]
    assert main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["checkpoints"]
    assert [(row["step"], row["stage"]) for row in rows] == [(2, 1), (4, 2), (6, 2)]
    names = [result["metric"] for result in rows[0]["results"]]
    assert names[0].endswith("_frechet")
    assert f"denoised_{names[0]}@0.2" in names
    assert f"denoised_{names[0]}@80" in names
    assert main(words) == 0
    text = capsys.readouterr().out
    assert [line.split()[:2] for line in text.splitlines()[1:4]] == [
        ["2", "1"],
        ["4", "2"],
        ["6", "2"],
    ]
    assert "the second stage was not trained below t = 1 (--composite)" in text


@pytest.mark.pictures
def test_the_picture_of_the_curve(two_stages, tmp_path):
    words = ["eval", str(two_stages), "--all-checkpoints", "--denoised", "0.2", "--n", "200"]
    path = tmp_path / "curve.png"
    assert main([*words, "--picture", str(path), "--device", "cpu"]) == 0
    assert path.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--reference teacher", "--reference teacher: name the teacher"),
        ("--teacher own", "this run learned from no teacher"),
        ("--teacher exact:nothing", "exact truth 'nothing'"),
        ("--teacher exact:ring8 --teacher-solver multistep", "solver 'multistep'"),
        ("--teacher exact:ring8 --teacher-moves 1", "moves = 1: expected a whole number, 2"),
        ("--teacher-moves 5", "--teacher-moves 5: it is of a teacher"),
        ("--denoised 0", "denoised = 0.0: expected above 0"),
        ("--picture a.png", "--picture a.png: it is drawn with --all-checkpoints"),
    ],
)
def test_faults_are_one_line(two_stages, capsys, words, message):
    assert main(["eval", str(two_stages), "--n", "200", *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_shipped_name_has_no_checkpoints(capsys):
    assert main(["eval", "digits", "--all-checkpoints"]) == 2
    assert "expected a run folder with checkpoints" in capsys.readouterr().err
