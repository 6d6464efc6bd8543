"""The frontier finds known optima, chooses nothing by the test split, counts everything once."""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import fewstep as fs
from fewstep.analysis import frontier
from fewstep.analysis.frontier import figures, latency, page, scoring, summary
from fewstep.analysis.frontier.models import Subject
from fewstep.analysis.frontier.points import MULTISTEP, Judge, Point, worth
from fewstep.analysis.frontier.study import settings_of, solver_steps
from fewstep.analysis.metrics import Result
from fewstep.base import progress
from fewstep.base.errors import UserError
from fewstep.cli import main
from fewstep.cli.user_code import names_by_run
from fewstep.core.process import edm
from fewstep.data import Arrays, Dataset, Units, kind_of
from fewstep.run.facts import Facts
from fewstep.run.generator import Generator
from fewstep.run.levels import (
    Bounds,
    bounds_of,
    insert,
    own_levels,
    starts,
    stretch,
)
from fewstep.run.teacher_ode import Closed
from tests.support import own_parts

OWN = "tests.support.own_parts"
WIDE = Bounds(0.002, 78.0)
C = 0.5  # standard deviation of the Gaussian data


def variance(levels):
    """Of x0 after steps at t_max and these levels by D = C^2 x / (C^2 + t^2), of N(0, C^2)."""
    result = 0.0
    for t in (80.0, *levels):
        result = (C**2 / (C**2 + t**2)) ** 2 * (result + t**2)
    return result


def w2(levels):
    return C - math.sqrt(variance(levels))


def law(size: int, seed: int, shape=(2,)) -> torch.Tensor:
    return C * torch.randn(size, *shape, generator=torch.Generator().manual_seed(seed))


def gaussian_data(test_seed: int = 3) -> Dataset:
    splits = [Arrays(law(300, seed)) for seed in (1, 2, test_seed)]
    return Dataset("tensor", *splits)


def denoising_student(dataset: Dataset, base: str = "ect", **method: object) -> Subject:
    """The denoiser of N(0, C^2) as a consistency model: the best level of a second step is C."""
    facts = Facts(dataset.shape, dataset.classes, C, Units(), dataset.fingerprint())
    truth = fs.exact.Gaussian(mean=torch.zeros(dataset.shape), std=C)
    run = fs.recipes.toy(data="tensor")
    generator = Generator(
        run,
        facts,
        replace(getattr(fs.methods, base)(), **method),
        Closed(truth, "gaussian"),
        0,
        "gaussian",
    )
    return Subject("student", "student", generator)


def bench_of(dataset: Dataset, folder: Path, **plan: object) -> frontier.Bench:
    settings = {"steps": (1, 2, 3), "candidates": 14, "repeats": 3, "batch": 4}
    small_plan = frontier.Plan(**{"n": 600, "search_n": 300, **settings, **plan})
    metric, splits = frontier.prepare(dataset, small_plan)
    store = frontier.Store(folder, {"weights": "w", "data": frontier.held_out(dataset)})
    return frontier.Bench(dataset, small_plan, metric, store, splits)


def test_the_search_finds_the_best_second_step_of_a_gaussian():
    student = denoising_student(gaussian_data()).generator
    result = frontier.search(w2, starts(student, 2, WIDE, None), WIDE, 40)
    assert result.levels[0] == pytest.approx(C, rel=0.03)


def test_the_search_finds_the_best_three_steps_of_a_gaussian():
    line = torch.logspace(-2, 2, 161, dtype=torch.float64).tolist()
    best = min(w2((a, b)) for a in line for b in line if a > b)
    student = denoising_student(gaussian_data()).generator
    result = frontier.search(w2, starts(student, 3, WIDE, (C,)), WIDE, 80)
    assert result.value == pytest.approx(best, abs=1e-3)
    assert result.levels[0] > result.levels[1]


def test_the_search_scores_each_candidate_once_and_keeps_the_budget():
    calls = []

    def score(levels):
        calls.append(levels)
        return sum((math.log(level) - i) ** 2 for i, level in enumerate(reversed(levels)))

    first = [(5.0, 0.1), (1.0, 0.9)]
    result = frontier.search(score, first, WIDE, 17)
    assert len(calls) == len(set(calls)) == result.candidates == 17
    assert [levels for levels, _ in result.scores] == calls
    assert frontier.search(score, first, WIDE, 17) == result
    assert result.value == min(value for _, value in result.scores)
    assert all(a > b for a, b in calls)


def test_a_score_that_is_not_finite_is_never_chosen():
    result = frontier.search(
        lambda levels: math.nan if levels[0] < 1 else levels[0], [(0.5,), (4.0,)], WIDE, 20
    )
    assert result.levels[0] == pytest.approx(1.0, rel=0.06)


def test_levels_are_what_is_printed():
    bounds = Bounds(0.002, 78.0)
    for levels in (*insert((3.0, 0.2), bounds), stretch((3.0, 0.2), 5, bounds), bounds.even(4)):
        assert levels == tuple(float(f"{level:g}") for level in levels)
        assert bounds.allow(levels)
    assert stretch((3.0, 0.2), 2, bounds) == (3.0, 0.2)


def test_a_second_stage_is_asked_where_it_was_trained():
    dataset = gaussian_data()
    student = denoising_student(dataset, trained_from=1.0, later_sigmas=(1.0,))
    assert bounds_of(student.generator).low == 1.0
    assert own_levels(student.generator, 2, bounds_of(student.generator)) == (1.0,)
    for steps in (2, 3, 5):
        for levels in starts(student.generator, steps, bounds_of(student.generator), None):
            student.generator.with_later_sigmas(levels).sample(
                1, steps=steps
            )  # refuses levels below


def test_bounds_are_rounded_inwards():
    """A level that is printed with four digits is still one that the student was trained for."""
    student = denoising_student(gaussian_data(), trained_from=1.23442, later_sigmas=(2.0,))
    assert bounds_of(student.generator).low == 1.235
    assert bounds_of(student.generator).high * 1.02 <= 80.0


def test_of_a_metric_that_should_be_high_the_highest_is_chosen(tmp_path, monkeypatch):
    """Of recall, which tells the candidates apart, on the validation split."""
    values = []
    evaluate = scoring.evaluate

    def spy(*args, **options):
        results = evaluate(*args, **options)
        values.append(results[0][0].value)
        return results

    monkeypatch.setattr(scoring, "evaluate", spy)
    dataset = gaussian_data()
    bench = bench_of(dataset, tmp_path, metric="pixel_recall", steps=(2,), candidates=6)
    (setting,) = settings_of(denoising_student(dataset), bench)
    assert bench.sign == -1.0
    assert setting.validation.value == max(values) > min(values)


def test_nothing_of_the_test_split_chooses(tmp_path, monkeypatch):
    calls = []
    evaluate = scoring.evaluate

    def spy(generator, dataset, **options):
        calls.append((options["split"], options["seed"], options["candidates"]))
        return evaluate(generator, dataset, **options)

    monkeypatch.setattr(scoring, "evaluate", spy)
    choices = []
    for test_seed in (3, 4):
        dataset = gaussian_data(test_seed)
        bench = bench_of(dataset, tmp_path / str(test_seed))
        choices.append(
            [(s.levels, s.validation) for s in settings_of(denoising_student(dataset), bench)]
        )
    assert {(split, seed) for split, seed, _ in calls} == {("validation", frontier.search_seed(0))}
    assert frontier.search_seed(0) != 0
    assert choices[0] == choices[1]
    level = choices[0][1][0][0]
    assert C / 1.6 < level < C * 1.6  # by samples: the closed form's best is C


def test_candidates_are_counted_in_the_protocol(tmp_path, monkeypatch):
    calls = []
    evaluate = scoring.evaluate
    monkeypatch.setattr(
        scoring, "evaluate", lambda *a, **k: calls.append(k["steps"]) or evaluate(*a, **k)
    )
    dataset = gaussian_data()
    settings = settings_of(denoising_student(dataset), bench_of(dataset, tmp_path / "a"))
    for setting in settings[1:]:
        assert setting.validation.protocol["candidates"] == calls.count((setting.steps,))
        assert setting.validation.protocol["split"] == "validation"
    assert settings[0].validation is None  # of one step nothing is chosen
    assert len(calls) <= 2 * 14


def test_an_interrupted_study_goes_on_without_scoring_again(tmp_path, monkeypatch):
    dataset = gaussian_data()
    evaluate = scoring.evaluate
    calls = []

    def until(limit):
        def count_and_evaluate(*args, **options):
            if len(calls) == limit:
                raise KeyboardInterrupt
            calls.append(1)
            return evaluate(*args, **options)

        return count_and_evaluate

    student = denoising_student(dataset)
    straight = frontier.measure([student], bench_of(dataset, tmp_path / "straight"), progress=False)
    monkeypatch.setattr(scoring, "evaluate", until(5))
    with pytest.raises(KeyboardInterrupt):
        frontier.measure([student], bench_of(dataset, tmp_path / "cut"), progress=False)
    with open(tmp_path / "cut" / "scored.jsonl", "ab") as file:
        file.write(b'{"key": "torn')
    bench = bench_of(dataset, tmp_path / "cut")
    assert bench.store.count_before == 5
    monkeypatch.setattr(scoring, "evaluate", until(-1))
    second = frontier.measure([student], bench, progress=False)
    assert [(p.levels, p.validation, p.results) for p in second] == [
        (p.levels, p.validation, p.results) for p in straight
    ]
    lines = (tmp_path / "straight" / "scored.jsonl").read_text().splitlines()
    assert len(calls) == len(lines) - 1


def test_a_store_refuses_what_is_not_its_own(tmp_path):
    frontier.Store(tmp_path / "a", {"weights": {"run": "1"}, "data": "d"})
    frontier.Store(tmp_path / "a", {"weights": {"run": "1", "teacher": "2"}, "data": "d"})
    with pytest.raises(UserError, match="the frontier of other data"):
        frontier.Store(tmp_path / "a", {"weights": {"run": "1"}, "data": "e"})
    with pytest.raises(UserError, match="the frontier of other weights"):
        frontier.Store(tmp_path / "a", {"weights": {"other": "1"}, "data": "d"})
    with pytest.raises(UserError, match="the frontier of other weights"):
        frontier.Store(tmp_path / "a", {"weights": {"run": "2"}, "data": "d"})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="no frontier"):
        frontier.Store(tmp_path / "b", {"weights": "1", "data": "d"})
    with pytest.raises(UserError, match="is a file"):
        frontier.Store(tmp_path / "b" / "notes.txt", {"weights": "1", "data": "d"})
    assert (tmp_path / "b" / "notes.txt").read_text() == "mine"


def test_a_score_is_stored_under_all_that_decides_it(tmp_path, monkeypatch):
    """Another seed, number of samples or reference is scored again; the same is not."""
    calls = []
    bench = bench_of(gaussian_data(), tmp_path)
    monkeypatch.setattr(scoring, "evaluate", lambda *a, **k: calls.append(k) or ([result(1.0)], []))
    student = denoising_student(gaussian_data()).generator
    for count, plan, facts in (
        (1, {}, {}),
        (1, {}, {}),
        (2, {"seed": 1}, {}),
        (3, {"n": 500}, {}),
        (4, {}, {"reference": "b"}),
    ):
        test = bench.splits["test"]
        meters = [replace(meter, protocol={**meter.protocol, **facts}) for meter in test.meters]
        other = replace(
            bench, plan=replace(bench.plan, **plan), splits={"test": test._replace(meters=meters)}
        )
        other.final(student, 1)
        assert len(calls) == count


def result(value: float, draws=(-0.1, 0.0, 0.1), **more: object) -> Result:
    """A result whose draws are the value plus fixed numbers: paired differences are exact."""
    values = tuple(value + d for d in draws)
    protocol = {
        "seed": 0,
        "draws": len(values),
        "n": 10,
        "split": "test",
        "statistic": "energy",
        "candidates": 1,
    }
    error = 0.05 if len(values) > 1 else None
    fields = {
        "interval": (value - 0.2, value + 0.2),
        "floor_error": 0.01,
        "floor_interval": (-0.1, 0.3),
        **more,
    }
    return Result("energy", 1, value, error, 0.1, protocol, values=values, **fields)


def point(
    subject: Subject, evaluations: int, score: Result, sampler: str = MULTISTEP, **more: object
) -> Point:
    return Point(
        subject=subject,
        sampler=sampler,
        steps=evaluations,
        results={"energy": score},
        evaluations=evaluations,
        one=latency.Timing(1, 3, float(evaluations), evaluations - 0.1, evaluations + 0.1),
        many=latency.Timing(10, 3, 2.0 * evaluations, 2.0, 2.0),
        **more,
    )


def summary_of(points):
    judge = Judge("energy", gain=0.05)
    return summary.Summary(frontier.points.judge_points(points, judge), judge)


@pytest.fixture
def student():
    return denoising_student(gaussian_data())


def test_a_point_is_better_beyond_chance_and_by_a_share(student):
    noisy = (0.9, -1.0, 0.1)
    a, b = point(student, 1, result(1.0)), point(student, 2, result(0.9))
    judge = Judge("energy", gain=0.05)
    assert judge.better(b, a)
    assert not judge.better(a, b)
    assert not judge.better(point(student, 2, result(0.97)), a)  # by 3 %
    assert not judge.better(point(student, 2, result(0.5, noisy)), a)  # by chance
    assert Judge("energy", -1.0, 0.05).better(a, b)
    best = worth(
        [a, b, point(student, 3, result(0.89)), point(student, 4, result(0.5))],
        judge,
        lambda p: p.evaluations,
    )
    assert [p.evaluations for p in best] == [1, 2, 4]


def test_quick_is_by_the_latency_of_one_sample_and_worth_by_evaluations(student):
    """More evaluations in a faster call: worth nothing by their number, but quick."""
    a, b = point(student, 1, result(0.5)), point(student, 4, result(1.0))
    slow = replace(
        a, one=latency.Timing(1, 3, 9.0, 8.9, 9.1), many=latency.Timing(10, 3, 1.0, 1.0, 1.0)
    )
    points = frontier.points.judge_points([slow, b], Judge("energy", gain=0.05))
    assert [(p.worth, p.quick) for p in points] == [(True, True), (False, True)]


def test_a_command_opens_the_weights_that_were_sampled(student):
    raw = replace(student, source="runs/a", options=" --ema student --composite")
    command = point(raw, 2, result(1.0), levels=(0.5,)).command()
    assert command == "fewstep sample runs/a --ema student --composite --steps 2 --later-sigmas 0.5"
    assert point(replace(student, source="exact:ring8"), 2, result(1.0)).command() == ""


def test_the_conclusion_says_where_more_steps_are_no_better_and_where_the_teacher_is_met(student):
    teacher = Subject("exact:law", "exact:law", student.generator, teacher=True)
    ours = [
        point(student, 1, result(1.0)),
        point(student, 2, result(0.6)),
        point(student, 4, result(0.59)),
    ]
    theirs = [
        point(teacher, 1, result(9.0), "heun"),
        point(teacher, 5, result(0.6), "heun"),
        point(teacher, 5, result(0.4), "ddim", on_offer=False),
        point(teacher, 35, result(0.2), "heun"),
    ]
    study = summary_of([*ours, *theirs])
    text = " ".join(study.conclusion())
    assert "The best setting is exact:law, heun with 35." in text
    assert "student with 2 reaches energy 0.6 (95 %: 0.4 to 0.8) in 2 ms." in text
    assert "More are no better: 4." in text
    assert "exact:law, heun with 5 is the cheapest of its settings that is no worse" in text
    assert "2.5 times the evaluations and 2.5 times the latency" in text
    assert "exact:law, heun with 35 reaches energy 0.2 (95 %: 0 to 0.4) in 35 ms." in text
    notes = [study.note(p) for p in study.points]
    assert notes[:3] == ["the cheapest", "better", "no better than student with 2"]
    assert notes[4] == "no better than student with 2"
    assert notes[5] == "not on offer"


def test_the_conclusion_says_that_a_teacher_does_not_come_up_to_the_student(student):
    teacher = Subject("exact:law", "exact:law", student.generator, teacher=True)
    ours = [point(student, 1, result(1.0)), point(student, 2, result(0.6))]
    theirs = [point(teacher, 1, result(9.0), "heun"), point(teacher, 35, result(2.0), "heun")]
    text = " ".join(summary_of([*ours, *theirs]).conclusion())
    assert "The best setting is student with 2." in text
    assert "exact:law with up to 35 evaluations is worse than student with 2." in text


def test_the_conclusion_of_a_single_draw_claims_nothing_beyond_chance(student):
    def conclusion(make_result):
        points = [point(student, 1, make_result(1.0)), point(student, 2, make_result(1.3))]
        return " ".join(summary_of(points).conclusion())

    single = conclusion(lambda value: result(value, draws=(0.0,), interval=None))
    assert "energy 1 (95 %: -)" in single
    assert "A single draw has no interval" in single
    assert "single draw" not in conclusion(result)


def test_the_conclusion_says_where_another_metric_disagrees(student):
    """By the other metric, of which higher is better, two steps are worse than one."""
    points = [point(student, 1, result(1.0)), point(student, 2, result(0.6))]
    points = [replace(p, results={**p.results, "kid": p.results["energy"]}) for p in points]
    study = replace(summary_of(points), others=[Judge("kid", -1.0, 0.05)])
    assert "It is no better than with 1 by kid." in " ".join(study.conclusion())
    assert "by kid" not in " ".join(replace(study, others=[]).conclusion())


def test_evaluations_are_counted_by_the_network(student):
    assert latency.evaluations(student.generator, 3) == 3
    assert latency.evaluations(student.by("heun"), 7) == 7
    wrongly_declared = fs.sampling.Sampler(
        step=fs.solvers.heun
    )  # says one evaluation a move, and takes two
    assert latency.evaluations(student.by(wrongly_declared), 3) == 5
    two = fs.denoiser.Truncated(
        student.generator.denoiser, Closed(student.generator.denoiser.truth, "high"), 1.0
    )
    composite = replace(student.generator, denoiser=two).with_later_sigmas((2.0, 0.5))
    assert latency.evaluations(composite, 3) == 3


def test_evaluations_are_counted_where_a_sampler_asks_the_network_itself(student):
    def step(process, denoiser, x, t, s, cond=None):
        return denoiser.output(denoiser.scaling(process, torch.full((len(x),), t)), x, cond)

    network = fs.networks.mlp((2,), width=4, depth=1)
    bare = fs.denoiser.Preconditioned(network, fs.scalings.Edm())
    sampler = fs.sampling.Sampler(step=step)
    method = replace(student.generator.method, sampler=sampler)
    generator = replace(student.generator, method=method, denoiser=bare)
    assert latency.evaluations(generator, 3) == 3


def test_calls_take_turns_and_the_first_is_not_timed():
    order, now = [], [0.0]

    def call(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds * (1 + order.count(name)) if len(order) > 2 else 100.0

        return run

    timings = latency.clock_calls(
        {"a": call("a", 1), "b": call("b", 10)}, 4, 3, clock=lambda: now[0]
    )
    assert order == ["a", "b"] * 4
    assert timings["a"] == latency.Timing(4, 3, 4000.0, 3500.0, 4500.0)
    assert timings["b"].per_second == pytest.approx(0.1)


def test_solvers_get_numbers_of_evaluations_they_can_make():
    assert solver_steps((1, 2, 4, 35), "ddim") == [1, 2, 4, 35]
    assert solver_steps((1, 2, 3, 4, 35), "heun") == [1, 3, 5, 35]


def test_a_teacher_has_on_offer_what_no_cheaper_setting_beats_on_the_validation_split(tmp_path):
    dataset = gaussian_data()
    teacher = denoising_student(dataset, "diffusion")
    bench = bench_of(dataset, tmp_path / "t", teacher_steps=(1, 3, 9))
    settings = settings_of(teacher, bench)
    assert len(settings) == 12
    assert {s.validation.protocol["candidates"] for s in settings} == {12}
    for s in settings:
        cheaper = [
            o for o in settings if o.steps <= s.steps and o.validation.value < s.validation.value
        ]
        assert s.on_offer is not bool(cheaper)
    assert 1 <= sum(s.on_offer for s in settings) < 12


def test_segments_have_one_point(tmp_path):
    dataset = gaussian_data()
    settings = settings_of(
        denoising_student(dataset, sampler=fs.sampling.segments(4)),
        bench_of(dataset, tmp_path / "m"),
    )
    assert [(s.steps, s.validation) for s in settings] == [(4, None)]


def halves(process, moves, levels):
    return [process.t_max * 0.5**i for i in range(moves)] + [0.0]


def always_two(process, moves, levels):
    return [process.t_max, C, 0.0]


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [
        ("heun", [1, 3, 5]),
        (fs.sampling.Sampler(step=fs.solvers.ddim, grid=halves), [1, 2, 4]),
        (fs.sampling.Sampler(step=fs.solvers.ddim, grid=always_two), [1]),  # the same each time
    ],
)
def test_a_student_is_asked_by_its_own_sampler_at_the_plans_steps(tmp_path, sampler, steps):
    """Another solver's points would not be its method's, and a teacher's steps not asked for."""
    dataset = gaussian_data()
    student = denoising_student(dataset, sampler=sampler)
    settings = settings_of(student, bench_of(dataset, tmp_path, steps=(1, 2, 4)))
    assert [s.steps for s in settings] == steps
    assert all(s.generator.method.sampler is sampler for s in settings)
    assert "--sampler" not in point(student, 1, result(1.0), "own").command()


def test_the_range_of_levels_where_a_process_has_no_ends(student):
    open_ended = replace(
        student.generator, method=replace(student.generator.method, process=fs.process.linear())
    )
    assert bounds_of(open_ended) == Bounds(0.002, pytest.approx(80 / 1.02, rel=1e-3))
    assert bounds_of(student.generator).high < edm().t_max


SMALL = [
    *("--steps", "1,2", "--candidates", "3", "--search-n", "300", "--n", "600"),
    *("--repeats", "3", "--batch", "150", "--device", "cpu"),
]
OF_DIGITS = ["frontier", "digits", *SMALL]
OF_DIGITS += ["--teacher", "exact:digits-mixture", "--teacher-steps", "1,3"]


@pytest.fixture(scope="module")
def digits_study(tmp_path_factory) -> tuple[Path, str, str]:
    """Where the command on the digits was run, what it printed, and what it said meanwhile."""
    folder = tmp_path_factory.mktemp("digits")
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(progress, "SECONDS", 0.0)
        assert main([*OF_DIGITS, "--json"]) == 0
    return folder, out.getvalue(), err.getvalue()


def test_the_command_writes_all_three_and_its_commands_sample(digits_study, tmp_path):
    place, printed, _ = digits_study
    facts = json.loads(printed)
    folder = place / "frontier-digits"
    assert facts == json.loads((folder / "frontier.json").read_text())
    for picture in ("frontier.png", "samples.png"):
        assert (folder / picture).read_bytes()[:4] == b"\x89PNG"
    assert facts["metric"] == "energy"
    assert facts["plan"]["search_seed"] != facts["plan"]["seed"] == 0
    assert [s["teacher"] for s in facts["subjects"]] == [False, True]
    keys = {"subject", "sampler", "steps", "evaluations", "chosen", "worth", "note"}
    keys |= {"results", "latency", "command"}
    for p in facts["points"]:
        assert keys <= p.keys()
        assert [r["protocol"]["split"] for r in p["results"]] == ["test"] * 9
        assert [t["batch"] for t in p["latency"]] == [1, 150]
        assert p["evaluations"] == p["steps"]
    second = facts["points"][1]
    assert second["chosen"]["candidates"] == 3
    command = second["command"].split()
    assert command[:2] == ["fewstep", "sample"]
    assert main([*command[1:], "--n", "2", "--out", str(tmp_path / "x.png")]) == 0
    html = (folder / "report.html").read_text()
    assert not re.search(r"https?://|<script|<link|@import", html)
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]*)', html))
    assert all(p["command"] in html for p in facts["points"] if p["offered"])
    numbers = [str(facts["plan"]["search_seed"]), facts["data"]["test"][:16]]
    for text in (*facts["conclusion"], *numbers):
        assert text in html.replace("&#39;", "'")


@pytest.fixture(scope="module")
def posteriors(tmp_path_factory) -> Path:
    """A folder with a run on arrays with features and a mask, and rows for it."""
    folder = tmp_path_factory.mktemp("posteriors")
    count = torch.arange(240) % 3 + 1
    mask = torch.arange(3) < count[:, None]
    features = law(240, 5, (2,))
    x0 = (law(240, 6, (3, 2)) + features[:, None]).masked_fill(~mask[..., None], 0)
    rows = {"x0": x0, "mask": mask, "features": features}
    train = {"x0": x0[:80], "cond": {k: rows[k][:80] for k in ("mask", "features")}}
    run = fs.recipes.toy(iterations=2, batch=32, network_options={"width": 8, "depth": 1})
    fs.train(run, train, out=folder / "run", progress=False, device="cpu")
    for name, part in (("learnt", slice(80)), ("others", slice(80, None))):
        save_file(
            {k: v[part].contiguous() for k, v in rows.items()}, folder / f"{name}.safetensors"
        )
    return folder


def test_runs_with_conditions_and_a_mask_are_compared_and_their_commands_sample(
    posteriors, capsys, monkeypatch
):
    """The second step's noise is masked, and each sample has the condition of a held-out row."""
    monkeypatch.chdir(posteriors)
    assert (
        main(["frontier", "run", *SMALL, "--quiet", "--data", "others.safetensors", "--json"]) == 0
    )
    facts = json.loads(capsys.readouterr().out)
    assert [p["evaluations"] for p in facts["points"]] == [1, 2]
    for p in facts["points"]:
        assert main([*shlex.split(p["command"])[1:], "--out", "x.npy"]) == 0
    samples = np.load("x.npy")
    with np.load("frontier-run/conditions.npz") as conds:
        assert bool((samples[~conds["mask"]] == 0).all())
        others = load_file("others.safetensors")
        distance = torch.cdist(torch.as_tensor(conds["features"]).float(), others["features"])
        assert float(distance.amin(1).max()) < 1e-3


class ByPlace(nn.Module):
    """A denoiser about a place that its condition names."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_t, t, cond):
        return cond["inner"]["place"] + self.net(x_t, t)


def test_conditions_in_dicts_of_dicts_have_a_picture_and_one_line_in_place_of_commands(tmp_path):
    """No file holds them but as a pickle: none is written."""

    def rows(seed):
        features = law(60, seed)
        inner = {"place": features, "time": features[:, :1]}
        return Arrays(features + law(60, seed + 10), {"inner": inner})

    dataset = Dataset("tensor", *map(rows, (1, 2, 3)))
    student = denoising_student(dataset)
    generator = student.generator
    facts = replace(generator.facts, cond=kind_of(dataset.train.cond))
    net = ByPlace(generator.denoiser)
    student = replace(student, generator=replace(generator, facts=facts, denoiser=net))
    folder = tmp_path / "p"
    bench = bench_of(dataset, folder, steps=(1,), n=60, search_n=60)
    study = page.Frontier(frontier.measure([student], bench, progress=False), bench, "")
    study.write(folder)
    html = (folder / "report.html").read_text()
    line = "No commands: the conditions are dicts in a dict, which no file of conditions holds"
    assert html.count(line) == study.text().count(line) == 1
    assert "held-out data: all 60" in html
    assert study.commands() == []
    assert {p["command"] for p in study.to_json()["points"]} == {""}
    assert not (folder / "conditions.npz").exists()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([], "arrays of your own, and they are stored nowhere: --data PATH"),
        (["--data", "learnt.safetensors"], "the runs learned all its 80 rows: name a file with"),
    ],
)
def test_a_run_on_arrays_is_refused_before_the_work(
    posteriors, capsys, monkeypatch, data, expected
):
    monkeypatch.chdir(posteriors)
    assert main(["frontier", "run", "--out", "nowhere", *data]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["m:f"], {"a": "m:f", "b": "m:f"}),  # both names of run.json are others
        (["n:g", "m:f"], {"a": "n:g", "b": "m:f"}),  # a says n:g itself, the rest is for b
        (["b=m:f,n:g"], {"a": "n:g", "b": "m:f"}),
        (["a=k:h", "m:f"], {"a": "k:h", "b": "m:f"}),
        (["n:g"], "b has a method of your own, 'own': name it, --method b=module:function"),
        (["k:h", "m:f"], "--method k:h and m:f: expected one for a, which says 'n:g'"),
        (["n:g", "b=m:f", "k:h"], "--method k:h: expected the method of a run"),
        (["d=m:f"], "--method d=m:f: expected one of a, b, c before the ="),
    ],
)
def test_an_own_method_goes_to_the_run_that_has_it(monkeypatch, words, expected):
    stored = {"a": "n:g", "b": "own", "c": "ect"}
    record = {
        path: SimpleNamespace(record=SimpleNamespace(run=SimpleNamespace(method=name)))
        for path, name in stored.items()
    }
    monkeypatch.setattr("fewstep.run.places.find", record.get)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=re.escape(expected)):
            names_by_run("method", list(stored), words)
    else:
        assert names_by_run("method", list(stored), words) == expected


def test_an_own_method_and_network_stand_beside_a_shipped_one(tmp_path, monkeypatch, capsys):
    """The commands name the own parts, for the run that has them alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(frontier.Frontier, "write", lambda *_: None)  # the page is no matter here
    np.save("x.npy", law(200, 1).numpy())
    small = {"iterations": 2, "batch": 32, "data": "x.npy"}
    run = fs.recipes.toy(**small, network_options={"width": 8, "depth": 1})
    fs.train(run, out="ours", progress=False, device="cpu")
    own = fs.recipes.toy(**small)
    parts = {"method": own_parts.halving, "network": own_parts.Small}
    fs.train(own, out="mine", progress=False, device="cpu", **parts)
    names = ["--method", f"{OWN}:halving", "--network", f"{OWN}:Small"]
    assert main(["frontier", "ours", "mine", *SMALL, *names, "--quiet", "--json"]) == 0
    points = json.loads(capsys.readouterr().out)["points"]
    assert [(p["subject"], p["sampler"], p["evaluations"]) for p in points] == [
        ("ours", "multistep", 1),
        ("ours", "multistep", 2),
        ("mine", "own", 1),
        ("mine", "own", 2),
    ]
    assert [names[0] in p["command"] for p in points] == [False, False, True, True]
    for p in points:
        assert main([*shlex.split(p["command"])[1:], "--n", "2"]) == 0


MISTAKES = {
    "no run": ([], "RUN"),
    "unknown run": (["nowhere"], "no run folder nowhere"),
    "steps 0": (["digits", "--steps", "0,1"], "steps = (0, 1): expected numbers from 1 on"),
    "steps": (["digits", "--steps", "few"], "--steps few: expected numbers"),
    "metric": (["digits", "--metric", "enrgy"], "unknown metric 'enrgy': did you mean 'energy'?"),
    "no choice": (["digits", "--metric", "nearest_ratio"], "its best value is 1"),
    "candidates": (["digits", "--candidates", "0"], "candidates = 0: expected 1 or more"),
    "twice": (["digits", "digits"], "each of them once"),
    "unknown law": (["digits", "--teacher", "exact:digit"], "unknown exact truth 'digit'"),
    "law of another shape": (["digits", "--teacher", "exact:ring8"], "teacher exact:ring8"),
    "teacher that jumps": (["digits", "--teacher", "digits"], "no diffusion model"),
    "no stages": (["digits", "--composite"], "none of digits has a second stage"),
    "draw": (["digits", "--draw", "1"], "expected at least 2"),
}  # fmt: skip


@pytest.mark.parametrize(("argv", "expected"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_takes_one_line(argv, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["frontier", *argv]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert expected in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_runs_of_two_data_sets_are_not_compared(student):
    facts = replace(student.generator.facts, data="0" * 64)
    other = Subject("other", "other", replace(student.generator, facts=facts))
    with pytest.raises(UserError, match="learned from different data: expected one data set"):
        frontier.same_data(other, student)


def test_a_teacher_that_learned_from_other_data_is_refused(student, monkeypatch):
    other = replace(student.generator, facts=replace(student.generator.facts, data="0" * 64))
    monkeypatch.setattr("fewstep.run.sources.load", lambda *a, **k: other)
    with pytest.raises(UserError, match="learned from different data"):
        frontier.open_teacher("runs/teacher", student)


def test_quiet_prints_the_results_alone(digits_study, capsys, monkeypatch):
    """Of the same study, whose scores are stored."""
    folder, _, said = digits_study
    monkeypatch.chdir(folder)
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    assert all(unit in said for unit in ("candidates/s", "test scores/s", "timed calls/s"))
    assert main([*OF_DIGITS, "--quiet"]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert "The best setting is" in output.out


def test_without_matplotlib_it_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["frontier", "digits"]) == 2
    assert "pip install 'fewstep[report]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_frontier_of_the_plane_shows_clouds(tmp_path):
    dataset = gaussian_data()
    bench = bench_of(dataset, tmp_path / "p", steps=(1, 2), candidates=2)
    points = frontier.measure([denoising_student(dataset)], bench, progress=False)
    study = page.Frontier(points, bench, "fewstep frontier student")
    study.write(tmp_path / "p")
    assert (tmp_path / "p" / "report.html").read_text().count("<img") == 2
    assert "student" in study.text()


def test_the_tables_have_every_setting_with_its_interval_and_cost_and_the_floor(student):
    teacher = Subject("law", "exact:law", student.generator, teacher=True)
    points = [
        point(student, 1, result(1.0)),
        point(teacher, 2, result(0.25), "heun", on_offer=False),
        point(student, 3, result(0.6, draws=(0.0,), interval=None)),
    ]
    points = [
        replace(p, results={**p.results, "kid": replace(p.results["energy"], error=None)})
        for p in points
    ]
    scores, others = summary_of(points).tables(10)
    assert scores.rows == [
        ["student", "1", "1", "0.8 to 1.2", "1", "0.9 to 1.1", "5,000", "the cheapest"],
        ["law, heun", "2", "0.25", "0.05 to 0.45", "2", "1.9 to 2.1", "2,500", "not on offer"],
        ["student", "3", "0.6", "-", "3", "2.9 to 3.1", "1,667", "better"],
        ["held-out data (floor)", "-", "0.1", "-0.1 to 0.3", "-", "-", "-", ""],
    ]
    assert scores.strong == {0, 2}
    assert others.head == ["setting", "evaluations", "kid"]
    floor = ["held-out data (floor)", "-", "0.1 ± 0.01"]
    assert others.rows == [["student", "1", "1"], ["student", "3", "0.6"], floor]


def test_times_that_cannot_be_trusted_are_said(student):
    one = point(student, 1, result(1.0))
    slow = replace(one, one=latency.Timing(1, 3, 1.0, 0.9, 1.5))
    assert "machine was busy" in summary_of([slow]).conclusion()[-1]
    assert "machine was busy" not in " ".join(summary_of([one]).conclusion())


@pytest.mark.parametrize(
    ("values", "scale"), [((1.0, 0.5), "linear"), ((9.0, 0.5), "log"), ((0.5, -0.1), "symlog")]
)
def test_a_figure_shows_values_far_apart_or_below_0(student, values, scale):
    points = [point(student, i, result(value)) for i, value in enumerate(values, 1)]
    judge = Judge("energy", gain=0.05)
    drawing = figures.frontier(frontier.points.judge_points(points, judge), judge, "about")
    assert [ax.get_yscale() for ax in drawing.axes] == [scale, scale]
    assert drawing.axes[0].get_ylim() == drawing.axes[1].get_ylim()
    counts = [len(values) if judge.better(points[1], points[0]) else 1]
    assert [len(ax.texts) for ax in drawing.axes] == counts * 2  # filled marks have their number
