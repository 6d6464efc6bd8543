"""The claims: their verdicts, what is measured again, and what the report contains."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import fewstep as fs
from fewstep.analysis import claims
from fewstep.analysis.claims import arms, gc, mcm, reference, solutions, steps
from fewstep.analysis.claims.claim import (
    CONTRADICTED,
    COST,
    NOT_MET,
    OPEN,
    PICTURES,
    REPRODUCED,
    Claim,
    Row,
    Statement,
    excess,
    overall,
)
from fewstep.analysis.claims.page import Finding
from fewstep.analysis.claims.pool import Job, Store, waves
from fewstep.analysis.claims.runner import jobs_of
from fewstep.analysis.claims.tcm import Half, both_laws
from fewstep.analysis.report import Figure
from fewstep.base import progress
from fewstep.base.errors import Stopped, UserError
from fewstep.cli import main
from fewstep.statistics.intervals import interval

DOCS = Path(__file__).parents[2] / "docs"

CALLS: list[tuple[str, int]] = []


def measure(name, level, folder, seed):
    """Numbers that are known: the level, and a part of every seed that pairs have in common."""
    CALLS.append((name, seed))
    return {"error": level + 10 * seed + 0.01 * seed * level}


def interrupt(folder, seed):
    raise KeyboardInterrupt


def row(name, level, **more):
    settings = {"name": name, "level": level}
    return Row(partial(measure, name, level), settings, f"make {name}", **more)


def claim(**levels):
    rows = {name: row(name, level) for name, level in (levels or {"a": 2.0, "b": 1.0}).items()}
    first, last = next(iter(rows)), list(rows)[-1]

    def statements(results):
        return [Statement("a minus b", excess(results[first], results[last], "error"))]

    return Claim(
        title="b is below a",
        says="They say so.",
        setting="nothing",
        fair="It is what they did.",
        rows=rows,
        measures={"error": "error", "none": "never measured"},
        statements=statements,
        lesson=lambda results: "Less is more.",
        figure=lambda results: Figure(b"<svg/>", "nothing"),
    )


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


def run(out, one=None, *, seeds=3):
    return claims.run(out, claims={"one": one or claim()}, jobs=1, progress=False, seeds=seeds)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((1.0, 1.1, 0.9), REPRODUCED),
        ((-1.0, -1.1, -0.9), CONTRADICTED),
        ((1.0, -1.0, 0.5), OPEN),
        ((1.0,), OPEN),  # one seed has no interval
        ((1.0, 3.0), OPEN),  # t = 12.7 with one degree of freedom
        ((1.0, 1.0), REPRODUCED),
    ],
)
def test_a_verdict_is_the_side_that_the_interval_lies_on(values, expected):
    assert Statement("", values).verdict == expected


def test_the_interval_is_students():
    mean, low, high = interval((1.0, 2.0, 3.0, 4.0, 5.0))
    half = 2.7764451 * math.sqrt(2.5 / 5)
    assert (mean, low, high) == pytest.approx((3.0, 3.0 - half, 3.0 + half), abs=1e-6)


def test_a_claim_has_the_worst_verdict_of_its_main_statements():
    good, open_, bad = (Statement("", v) for v in ((1.0, 1.0), (1.0, -1.0), (-1.0, -1.0)))
    assert overall([good, replace(bad, main=False)]) == REPRODUCED
    assert overall([good, open_]) == OPEN
    assert overall([good, open_, bad]) == CONTRADICTED


def test_a_claim_whose_premise_does_not_hold_is_neither_borne_out_nor_contradicted():
    good, bad = (Statement("", v) for v in ((1.0, 1.0), (-1.0, -1.0)))
    premise, no_premise = (replace(one, premise=True) for one in (good, bad))
    assert overall([premise, good]) == REPRODUCED
    assert overall([premise, bad]) == CONTRADICTED
    for other in (good, bad):
        assert overall([no_premise, other]) == NOT_MET
    one = replace(claim(), statements=lambda results: [good, no_premise])
    assert Finding(one, {}).decisive == no_premise


def test_a_long_claim_is_measured_where_it_is_asked_for(tmp_path):
    claims_of_both = {"one": claim(), "two": replace(claim(c=3.0, d=1.0), long=True)}
    measured = partial(claims.run, tmp_path, claims=claims_of_both, jobs=1, progress=False)
    assert measured()["claims"].keys() == {"one"}
    assert "not measured" in (tmp_path / "report.html").read_text()
    assert measured(long=True)["claims"].keys() == {"one", "two"}
    CALLS.clear()
    assert measured()["claims"].keys() == {"one", "two"}  # its numbers are there
    assert measured(only=["two"])["claims"].keys() == {"two"}
    assert not CALLS


def test_differences_are_taken_within_a_seed():
    a = {"1": {"e": 5.0}, "2": {"e": 50.0}, "10": {"e": 500.0}}
    b = {"10": {"e": 499.0}, "1": {"e": 4.0}, "2": {"e": 49.0}}
    assert excess(a, b, "e") == (1.0, 1.0, 1.0)
    assert Statement("", excess(a, b, "e")).verdict == REPRODUCED


def test_a_seed_that_one_row_lacks_is_left_out():
    a, b = {"1": {"e": 5.0}, "2": {"e": 6.0}}, {"1": {"e": 4.0}}
    assert excess(a, b, "e") == (1.0,)


def test_only_the_seeds_that_are_asked_for_are_judged(tmp_path):
    run(tmp_path, seeds=3)
    assert len(run(tmp_path, seeds=2)["claims"]["one"]["statements"][0]["values"]) == 2


def test_the_report_names_the_statement_that_decided():
    good = Statement("good", (1.0, 1.0))
    bad = Statement("bad", (-1.0, -1.0))
    for other, expected in ((bad, bad), (replace(bad, main=False), good)):
        one = replace(claim(), statements=lambda results, other=other: [good, other])
        assert Finding(one, {}).decisive == expected


class Numbers(dict):
    """A row at a seed that has every measure, and six points on its curve.

    All are shifted by what pairs have in common.
    """

    def __init__(self, seed, of):
        super().__init__()
        self.seed, self.of = seed, of

    def __missing__(self, measure):
        if measure != "curve":
            return self.of(measure) * (1 + 0.01 * self.seed)
        return [
            Numbers(self.seed, lambda m, i=i: i if m == "step" else self.of(m)) for i in range(1, 7)
        ]


def mcm_segments():
    return {f"K = {k}" for k in mcm.KS}


def better_solver(row, m):
    """Direct solves the ODE better and samples worse; its rival has converged."""
    return 1.0 if ("Direct" in row) == (m == "ode_error") else 2.0


RIGHT = {  # what each row and measure would be if the paper were right; all below 5
    "tcm": lambda row, m: 1.0 if "stage 2" in row else 2.0,
    "gc": lambda row, m: {"iCT": 3.0, "minibatch OT": 2.5}.get(row, 1.0),
    "gc-unet": lambda row, m: {"iCT": 3.0, "minibatch OT": 2.5}.get(row, 1.0),
    "gc-transport": lambda row, m: (
        {"proxy: independent": 3.0, "proxy: minibatch OT": 2.0, "proxy: GC": 1.0}.get(row)
        or (0.5 if m == "minibatch OT" else 1 / (1 + float(m)))
    ),
    "mcm": lambda row, m: (
        1 / float(re.search(r"K = (\d+)", row)[1]) if row in mcm_segments() else 4.0
    ),
    "addim": lambda row, m: 2.0 if m.startswith("DDIM") else 1.0,
    "direct": better_solver,
    "why": better_solver,
    "steps": lambda row, m: 1 / int(m) if row == steps.JUMPS or int(m) < 4 else 3.0,
    "oracle": lambda row, m: (
        int(row.split()[-1])
        ** -{"CT": 0.25, "CD, Euler": 1.0, "CD, Heun": 2.0}[row[:-2].split(", N")[0]]
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_numbers_that_bear_a_paper_out_reproduce_it_and_their_reverse_contradicts_it(name):
    one, right = claims.registry()[name], RIGHT[name]
    for of, verdict in ((right, REPRODUCED), (lambda row, m: 5 - right(row, m), CONTRADICTED)):
        results = {
            name: {str(seed): Numbers(seed, partial(of, name)) for seed in row.seeds(3)}
            for name, row in one.rows.items()
        }
        statements = [each for each in one.statements(results) if each.main and not each.premise]
        assert statements
        assert overall(statements) == verdict
        if name not in ("oracle", "gc-transport", "steps"):
            assert {each.verdict for each in statements} == {verdict}


def test_a_training_saved_is_the_share_after_which_the_others_end_is_reached():
    def curve(*distances):
        points = [{"step": i, gc.COMPARED: d} for i, d in enumerate(distances, 1)]
        return {"1": {"curve": points}}

    slow, quick = curve(8.0, 4.0, 2.0), curve(4.0, 2.0, 1.0)
    assert gc.updates_saved(slow, quick) == pytest.approx([1 / 3])
    assert gc.updates_saved(quick, slow) == pytest.approx([0.0])  # it never is as good
    assert gc.least_lead(slow, quick) == (1.0,)


def test_what_is_measured_is_not_measured_again(tmp_path):
    first = run(tmp_path, seeds=2)
    assert sorted(CALLS) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    CALLS.clear()
    again = run(tmp_path, seeds=3)
    assert sorted(CALLS) == [("a", 3), ("b", 3)]
    values = [facts["claims"]["one"]["statements"][0]["values"] for facts in (first, again)]
    assert values[0] == values[1][:2]


def test_other_settings_are_measured_anew(tmp_path):
    run(tmp_path)
    CALLS.clear()
    facts = run(tmp_path, claim(a=2.0, b=5.0))
    assert {name for name, _ in CALLS} == {"b"}
    assert facts["claims"]["one"]["verdict"] == CONTRADICTED


def test_an_interrupted_folder_goes_on(tmp_path):
    one = claim()
    rows = {**one.rows, "b": replace(one.rows["b"], measure=interrupt, cost=0.5)}
    with pytest.raises(Stopped, match=re.escape(str(tmp_path))):
        run(tmp_path, replace(one, rows=rows))
    assert sorted(CALLS) == [("a", 1), ("a", 2), ("a", 3)]
    CALLS.clear()
    run(tmp_path)
    assert sorted(CALLS) == [("b", 1), ("b", 2), ("b", 3)]


@pytest.mark.long
def test_processes_find_what_one_process_finds(tmp_path):
    rows = {
        name: Row(partial(level_of, level), {"level": level}, "")
        for name, level in (("a", 2.0), ("b", 1.0))
    }
    one = {"one": replace(claim(), rows=rows)}
    alone, pool = (
        claims.run(tmp_path / str(jobs), claims=one, jobs=jobs, progress=False, seeds=2)
        for jobs in (1, 2)
    )
    assert alone["claims"] == pool["claims"]


def level_of(level, folder, seed):
    """A worker imports it by its name from this module."""
    return {"error": level + seed}


def test_what_is_needed_is_measured_first_and_once():
    start = row("start", 0.0, by_seed=False)
    first = row("first", 0.0, needs=(start,))
    rows = [
        row("dear", 0.0, cost=9.0),
        row("x", 0.0, needs=(first,)),
        row("y", 0.0, needs=(first,)),
    ]
    in_order = waves([Job(row, seed) for row in rows for seed in (1, 2)])
    jobs = [[(job.row.settings["name"], job.seed) for job in wave] for wave in in_order]
    assert jobs == [
        [("dear", 1), ("dear", 2), ("start", 0)],
        [("first", 1), ("first", 2)],
        [("x", 1), ("x", 2), ("y", 1), ("y", 2)],
    ]


def test_a_job_needs_other_rows_at_its_own_seed():
    start, first = row("start", 0.0, by_seed=False), row("first", 0.0)
    needs, own = waves([Job(row("x", 0.0, needs=(start, first)), 2)])
    assert {(job.row.settings["name"], job.seed) for job in needs} == {("start", 0), ("first", 2)}
    assert [job.seed for job in own] == [2]


def test_a_number_without_seeds_is_measured_once(tmp_path):
    one = claim()
    run(tmp_path, replace(one, rows={**one.rows, "exact": row("exact", 3.0, by_seed=False)}))
    assert [call for call in CALLS if call[0] == "exact"] == [("exact", 0)]


def test_the_report_holds_every_claim_and_asks_nobody(tmp_path):
    facts = claims.run(
        tmp_path,
        claims={"one": claim(), "two": replace(claim(a=1.0, b=3.0), title="another <claim>")},
        jobs=1,
        progress=False,
    )
    page = (tmp_path / "report.html").read_text()
    for text in (
        "b is below a",
        "another &lt;claim&gt;",
        "Reproduced: 1 of 1",
        "Contradicted: 0 of 1",
        "make b",
        "They say so.",
    ):
        assert text in page
    assert "never measured" not in page
    assert not re.search(r"(?:src|href)=[\"'](?!data:|#)", page)
    assert "http" not in page
    assert facts["report"] == str(tmp_path / "report.html")
    by_name = json.loads((tmp_path / "claims.json").read_text())["claims"]
    assert by_name["two"]["verdict"] == CONTRADICTED
    interval = by_name["one"]["statements"][0]["interval"]
    assert interval == pytest.approx([0.98, 0.96], abs=0.1)


def test_an_unknown_claim_is_one_line(tmp_path):
    with pytest.raises(UserError, match="unknown claim 'mcn': did you mean 'mcm'"):
        claims.run(tmp_path, only=["mcn"], progress=False)
    assert not (tmp_path / "claims.json").exists()


def test_the_command_prints_lines_or_one_object(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fewstep.analysis.claims.runner.registry", lambda: {"one": claim()})
    words = ["verify", "--claims", "--seeds", "2", "--jobs", "1", "--out", str(tmp_path), "--quiet"]
    assert main([*words, "--only", "one"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == "one  reproduced"
    assert printed.err == ""
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["claims"]["one"]["verdict"] == REPRODUCED


def test_quiet_hides_how_far_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fewstep.analysis.claims.runner.registry", lambda: {"one": claim()})
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    for name, flags in (("a", []), ("b", ["--quiet"])):
        argv = ["verify", "--claims", "--seeds", "2", "--jobs", "1", "--out", str(tmp_path / name)]
        assert main([*argv, *flags]) == 0
        lines = capsys.readouterr().err.splitlines()
        assert [line.partition(",")[0] for line in lines] == (
            [] if flags else [f"job {i} of 4" for i in range(1, 5)]
        )


def test_the_numbers_of_the_docs_still_count():
    """With docs/claims.json as its store, `fewstep verify --claims` measures nothing."""
    store = Store(DOCS)
    for name, one in claims.registry().items():
        if one.long:
            continue
        lacking = [job for wave in waves(jobs_of(one, 5)) for job in wave if not store.has(job)]
        assert [job.row.settings for job in lacking] == [], name


@pytest.mark.long
def test_one_seed_is_reported_without_intervals(tmp_path):
    store = (DOCS / "claims.json").read_bytes()
    (tmp_path / "claims.json").write_bytes(store)
    facts = claims.run(tmp_path, seeds=1, progress=False)["claims"]
    assert facts.keys() == claims.registry().keys()
    assert "nan" not in json.dumps(facts).lower()


def test_every_claim_has_a_main_statement_s_worth_of_rows_and_their_commands():
    for name, one in claims.registry().items():
        digests = [row.digest for row in one.rows.values()]
        assert len(set(digests)) == len(digests), name
        assert all(row.command and row.settings for row in one.rows.values()), name
        assert re.search(r"arXiv \d{4}\.\d{5}", one.says), name


@pytest.mark.long
def test_a_command_makes_the_arm_that_was_measured(monkeypatch):
    """What it says, read by the command line itself, is the run of the arm."""
    from fewstep.cli import train as verb
    from fewstep.run.build import with_defaults

    runs = []
    monkeypatch.setattr(verb, "start", lambda run, *_, **launch: runs.append(run) or 0)
    rows = {row.digest: row for one in claims.registry().values() for row in one.rows.values()}
    commands = [row for row in rows.values() if row.command.startswith("fewstep train")]
    assert len(commands) > 15
    for row in commands:
        command = row.command.replace("SEED", "4").replace(" --init STAGE_1", "")
        verb.main(command.replace(" --teacher TEACHER", "").split()[2:])
        assert with_defaults(runs[-1]) == with_defaults(row.measure.args[0].run(4)), row.command


TINY = {"network_options": {"width": 8, "depth": 1}, "iterations": 4, "batch": 16, "block": 4}


def test_an_arm_goes_on_from_the_saved_first(tmp_path, monkeypatch):
    def look(folder, denoiser, process):
        return {"size": float(denoiser(torch.zeros(2, 2), 1.0).abs().sum())}

    first = arms.Arm(law="ring8", method="ect", fields=TINY, keep=True, marks=(2, 4), look=look)
    numbers = arms.measure(first, tmp_path, 1)
    assert [point["step"] for point in numbers["curve"]] == [2, 4]
    monkeypatch.setattr(arms, "train_arm", lambda *_: pytest.fail("trained again"))
    start = arms.start_of(first, tmp_path, 1)
    assert start.step == 4
    assert isinstance(start, fs.Generator)


def test_pictures_are_scored_by_distances_to_those_that_were_learned(tmp_path, monkeypatch):
    monkeypatch.setitem(reference.PICTURES, "digits", 8)
    numbers = arms.measure(arms.Arm(law="digits", method="ect", fields=TINY), tmp_path, 1)
    assert {*PICTURES, *COST} == numbers.keys()
    assert all(math.isfinite(value) for value in numbers.values())


def test_an_arm_is_measured_anew_where_its_start_or_the_protocol_is_another(monkeypatch):
    arm = partial(arms.Arm, law="digits", method="ect", fields=TINY)
    digests = [arm(init=init).row(1.0).digest for init in (None, arm(), arm(options={"q": 4.0}))]
    monkeypatch.setitem(reference.PICTURES, "digits", 7)
    assert len({*digests, arm().row(1.0).digest}) == 4
    own = arm(scores=lambda *_: {})
    before = own.row(1.0).digest
    monkeypatch.setitem(solutions.PROTOCOL, "few", 7)
    assert replace(own).row(1.0).digest != before


def test_evaluations_of_the_teacher_are_counted(tmp_path):
    options = {"n": 4, "solver": "heun"}
    arm = arms.Arm(law="ring8", method="cd", options=options, fields=TINY, exact_teacher=True)
    evaluations = arms.train_arm(arm, tmp_path, 1)[1]["teacher_evaluations"]
    assert evaluations == pytest.approx(2.0, abs=0.3)


def test_both_laws_draw_half_of_the_times_from_each():
    law = both_laws().times.law
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    t = law.quantile(u)
    assert isinstance(law, Half)
    assert torch.equal(t[:2000], law.one.quantile(2 * u[:2000]))
    # The second stage's law starts at t' = 1.
    assert float((t[2000:] >= 1.0).double().mean()) == 1.0


def test_a_store_that_is_no_store_is_one_line(tmp_path):
    (tmp_path / "claims.json").write_text("[")
    with pytest.raises(OSError, match=r"claims\.json"):
        Store(tmp_path)


def mix(noise, explained):
    """Solutions of two classes, and samples that explain a share of them beside own noise."""
    source = torch.Generator().manual_seed(0)
    y, own = torch.randn(2, 400, 8, generator=source, dtype=torch.float64)
    cond = torch.arange(400) % 2
    found = solutions.Solutions(y, cond, y + cond[:, None], y)
    own = own - own.reshape(200, 2, 8).mean(0).repeat(200, 1)
    return found, found.own + (explained - 1) * found.from_means(found.own) + noise * own


@pytest.mark.parametrize(("noise", "explained"), [(0.0, 0.6), (0.5, 0.6), (0.8, 0.9)])
def test_the_ode_error_is_what_is_not_explained_and_what_is_added(noise, explained):
    """Its square is 1 - 2 b + v of the solutions' variance, least at b / v."""
    found, x = mix(noise, explained)
    b, v = solutions.moments(found, x)
    variance = found.from_means(found.own).square().mean()

    def squared(y):
        return reference.rms(y - found.own) ** 2 / variance

    assert squared(x) == pytest.approx(1 - 2 * b + v)
    for factor in (0.9, 1.1):
        least = squared(solutions.lengthen(found, x, b / v))
        assert least < squared(solutions.lengthen(found, x, factor * b / v))
    assert solutions.moments(found, solutions.lengthen(found, x, v**-0.5))[1] == pytest.approx(1)


def test_an_arm_under_a_limit_of_rank_is_scored_by_its_own_scores(tmp_path):
    def score(arm, folder, seed, generator):
        return {"weights": sum(p.numel() for p in generator.denoiser.parameters()), "seed": seed}

    first = arms.Arm(law="ring8", method="diffusion", fields=TINY, scores=score, keep=True)
    arm = replace(first, method="cd", options={"n": 4}, init=first, rank=1, exact_teacher=True)
    arm = replace(arm, guidance=0.0)
    whole, limited = (arms.measure(one, tmp_path, 1) for one in (first, arm))
    assert limited["weights"] > whole["weights"]  # adapters beside all weights
    assert limited["seed"] == 1
    assert "low_rank" in arm.command()
    assert len({one.row(1.0).digest for one in (first, arm, replace(arm, rank=2))}) == 3
