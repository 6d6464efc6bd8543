"""fewstep verify: the whole quick table holds, covers every method, and tells what is wrong with a
target.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch

import fewstep as fs
from fewstep.analysis.verify import Check, all_checks, run, selected, target
from fewstep.analysis.verify.check import apart, by_row, outcome, worst
from fewstep.analysis.verify.papers import PAPERS
from fewstep.cli import main
from fewstep.core import weights
from tests.support import own_parts

OWN = "tests.support.own_parts"


def test_the_quick_table_holds():
    failed = [found for found in run(selected(all_checks(), quick=True)) if not found.passed]
    assert failed == []


def test_every_method_has_times_a_loss_and_a_gradient_by_the_letter():
    assert {paper.method for paper in PAPERS} == set(fs.methods.__all__)
    assert {paper.method for paper in PAPERS if paper.law} == set(fs.methods.__all__)


def test_names_are_unique_and_every_check_says_where_to_look():
    checks = all_checks()
    assert len({check.name for check in checks}) == len(checks)
    assert all(check.look and check.source and check.tolerance < 5 for check in checks)
    assert all(set(check.methods) <= set(fs.methods.__all__) for check in checks)


def test_a_method_is_checked_by_its_own_checks_and_those_of_all():
    chosen = selected(all_checks(), "mcm")
    assert {check.method for check in chosen} == {"mcm", "shared", "all"}
    assert all(check.concerns("mcm") for check in chosen)
    assert any(not check.quick for check in chosen)
    assert all(check.quick for check in selected(all_checks(), "mcm", quick=True))


@pytest.mark.parametrize(
    ("measure", "passed"),
    [
        (lambda: 0.9, True),
        (lambda: 1.0, True),
        (lambda: 1.1, False),
        (lambda: math.nan, False),
        (lambda: math.inf, False),
        (lambda: -math.inf, False),
    ],
)
def test_what_passes(measure, passed):
    found = outcome(Check("name", "source", measure, 1.0, "see there"))
    assert found.passed is passed
    assert found.problem == ("" if passed else "see there")


def test_an_exception_is_a_failed_check_with_its_message():
    found = outcome(Check("name", "source", lambda: [][1], 1.0, "see there"))
    assert not found.passed
    assert re.fullmatch(
        r"IndexError: list index out of range \(test_verify.py, line \d+\); see there",
        found.problem,
    )
    assert found.to_json()["error"] is None


def test_errors_are_not_lost_in_a_maximum():
    assert worst(1.0, math.nan) == math.inf
    assert math.isnan(apart(torch.tensor([math.nan]), torch.tensor([1.0])))
    assert by_row(
        torch.tensor([[1.0, 0.0], [100.0, 0.0]]), torch.tensor([[1.1, 0.0], [100.0, 0.0]])
    ) == pytest.approx(0.1 / 1.1)
    with pytest.raises(ValueError, match="shape"):
        apart(torch.zeros(2), torch.zeros(3))


def test_json_has_one_object_with_every_check(capsys):
    assert main(["verify", "--method", "ict", "--quick", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == ["checks"]
    fields = {"name", "method", "error", "tolerance", "passed", "source", "seconds", "problem"}
    assert all(row.keys() == fields for row in printed["checks"])
    assert [row["name"] for row in printed["checks"]] == [
        c.name for c in selected(all_checks(), "ict", quick=True)
    ]


def test_a_failure_is_exit_code_1_and_is_told_in_words(capsys, monkeypatch):
    monkeypatch.setattr(weights, "inverse_gap", weights.one)
    assert main(["verify", "--method", "ict", "--quick"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["what", "source", "method", "error", "tolerance", "verdict"]
    (row,) = [i for i, line in enumerate(printed) if line.startswith("weight 1/(t - r)")]
    assert printed[row].endswith("FAILED")
    assert "see fewstep.weights.inverse_gap" in printed[row + 1]
    assert any(line.startswith("failed: ict: 1/(t-r) huber") for line in printed)
    columns = {
        line.index("2310.14189")
        for line in printed
        if "2310.14189" in line and line.endswith(("ok", "FAILED"))
    }
    assert len(columns) == 1


def test_mistakes_are_one_line(capsys):
    for argv, told in {
        ("--method", "etc"): "unknown method 'etc': did you mean 'ect'?",
        (
            "--target",
            f"{OWN}:number",
        ): f"target '{OWN}:number' gave int: expected a fewstep.Method, a network",
        ("--target", f"{OWN}:fails"): "fails as factory(): KeyError: 'no such thing'",
        (
            "--target",
            f"{OWN}:needs_three",
        ): "needs 3 arguments: expected factory() or factory(shape, classes)",
        ("--target", f"{OWN}:nobody"): "has no attribute 'nobody'",
        ("--only", "mcm"): "--only mcm: expected --claims beside it",
        ("--shape", "1", "8", "8"): "--shape 1,8,8: expected --target beside it",
        ("--claims", "--quick"): "--quick: expected none beside --claims",
        ("--target", f"{OWN}:method", "--method", "ect"): "expected no method beside --target",
    }.items():
        assert main(["verify", *argv]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("fewstep: ")
        assert told in line


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("direct_cm", {"n": 8, "reuse": 4}),
        ("direct_cm", {"n": 8, "source": "cache"}),
        ("ict", {"pairs": "ot"}),
    ],
)
def test_rows_that_belong_together_are_no_mistake(name, options):
    checks = target.checks_of(lambda: getattr(fs.methods, name)(**options), name)
    assert [found for found in run(checks) if not found.passed] == []
    assert not any("a batch is its items" in check.name for check in checks)


def test_a_method_that_takes_pictures_alone_gets_pictures(capsys):
    assert main(["verify", "--target", f"{OWN}:of_pictures"]) == 1
    assert "divisible by 2" in capsys.readouterr().out
    assert main(["verify", "--target", f"{OWN}:of_pictures", "--shape", "2", "4", "4"]) == 0


@pytest.mark.parametrize(
    "name", ["method", "weighted_by_r", "network", "Small", "Dropping", "teacher", "flow_teacher"]
)
def test_a_right_target_passes(name):
    checks = target.checks_of(getattr(own_parts, name), name)
    assert [found for found in run(checks) if not found.passed] == []
    assert len(checks) >= 6


@pytest.mark.parametrize(
    ("name", "caught"),
    [
        ("over_the_batch", "a batch is its items"),
        ("draws", "the seed decides the dropout, nothing else is random"),
        ("one_number", "a batch is its items"),
        ("crossed", "times a <= r <= t <= t_max, t > a"),
        ("drawn", "the seed decides the dropout, nothing else is random"),
        ("rooted", "a known data point has loss 0"),
        ("attached", "target is detached: gradient with targets held still"),
        ("divides_by_nothing", "loss is finite, one number for each sample"),
        ("Normed", "a batch is its items"),
        ("BatchNormed", "a batch is its items"),
        ("Deaf", "the noise level matters"),
        ("Noisy", "eval mode is fixed, no global generator is read"),
        ("Flat", "output is like x, finite from t = .002 to 80"),
        ("WrongDerivative", "jvp agrees with differences"),
        ("Mislabelled", "labels reach their rows, -1 is none of them"),
        ("says_noise", "D(x, t) -> x as sigma -> 0"),
        ("says_x", "D(x, t_max) is of the data's size"),
        ("deaf_teacher", "the time matters"),
        ("random_teacher", "twice the same, no global generator is read"),
        ("double_teacher", "output is like x_t, finite from t_min to t_max"),
    ],
)
def test_a_wrong_target_is_caught_by_name(name, caught):
    failed = [
        found.name.split(": ", 1)[1]
        for found in run(target.checks_of(getattr(own_parts, name), name))
        if not found.passed
    ]
    assert caught in failed


def test_what_raises_is_told_with_its_line_and_without_a_guess_at_another_cause():
    problems = {
        found.problem for found in run(target.checks_of(own_parts.misnamed, "misnamed"))
    } - {""}
    (told,) = problems  # in every check the same
    assert re.fullmatch(
        r"AttributeError: 'Times' object has no attribute 'gap' \(own_parts.py, line \d+\); see"
        r" misnamed",
        told,
    )


def test_where_nothing_holds_the_shape_is_mentioned(capsys):
    assert main(["verify", "--target", f"{OWN}:of_colours"]) == 1
    assert "name it: --shape" in capsys.readouterr().out.splitlines()[-1]
    assert main(["verify", "--target", f"{OWN}:of_colours", "--shape", "3", "8", "8"]) == 0


def test_a_target_from_the_command_line(capsys):
    assert main(["verify", "--target", f"{OWN}:method"]) == 0
    assert f"{OWN}:method: a batch is its items" in capsys.readouterr().out
    assert main(["verify", "--target", f"{OWN}:draws", "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert not all(row["passed"] for row in printed["checks"])


@pytest.mark.parametrize("name", ["mlp", "song_unet", "dit"])
def test_our_networks_are_right_targets(name):
    small = {
        "mlp": {"width": 8, "depth": 1, "dropout": 0.3},
        "song_unet": {"width": 8, "mult": (1,), "blocks": 1, "attention": ()},
    }

    def factory(shape, classes):
        return getattr(fs.networks, name)(
            shape, classes, **small.get(name, {"width": 16, "depth": 1, "heads": 2, "patch": 4})
        )

    assert [found for found in run(target.checks_of(factory, name)) if not found.passed] == []


def test_our_trained_generator_is_a_right_teacher():
    digits = fs.load("digits")
    for given in (digits, digits.denoiser):
        assert [
            found
            for found in run(target.checks_of(lambda given=given: given, "digits"))
            if not found.passed
        ] == []


def test_the_example_of_the_page_is_right_and_its_mistakes_are_told(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "verify.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(code.splitlines()) <= 20
    told = re.findall(r"```text\nmine:(.*?)\s{2}.*?\n(.*?)mine:method\n", page)
    swaps = ((".flatten(1).mean(1)", ".mean()"), (".log1p()", ".add(1).log()"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_right.py").write_text(code)
    assert main(["verify", "--target", "mine_right:method"]) == 0
    for number, ((right, wrong), (name, problem)) in enumerate(zip(swaps, told, strict=True)):
        assert right in code
        (tmp_path / f"mine_{number}.py").write_text(code.replace(right, wrong))
        assert main(["verify", "--target", f"mine_{number}:method"]) == 1
        printed = capsys.readouterr().out.splitlines()
        (row,) = [i for i, line in enumerate(printed) if line.startswith(f"mine_{number}:{name} ")]
        assert printed[row].endswith("FAILED")
        assert printed[row + 1].startswith(problem)
