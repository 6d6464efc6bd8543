"""fewstep verify: every equation of the package as a test, and what it says of a user's target."""

from __future__ import annotations

import json
import math
import re
from importlib import import_module
from pathlib import Path

import pytest
import torch

import fewstep as fs
from fewstep.analysis.verify import Check, all_checks, run, select, target
from fewstep.analysis.verify.builtin import METHODS
from fewstep.analysis.verify.check import apart, by_row, outcome, worst
from fewstep.analysis.verify.paper_losses import PAPERS
from fewstep.analysis.verify.paper_times import TIMES
from fewstep.cli import main
from fewstep.core import weights
from tests.support import own_parts
from tests.support.rows import VARIANTS, long_if

OWN = "tests.support.own_parts"
CHECKS = all_checks()


# The flow maps' runs are resumed by the same code: one with an average, terms and uniforms each.
ALIKE = {
    *("soflow", "alphaflow", "psd", "lsd", "esd", "lmd", "emd", "ayf", "pcm", "imm", "ctm"),
    *("imf", "tvm", "tbcm"),
}


def is_long(check: Check) -> bool:
    title, _, what = check.name.partition(": ")
    is_resumed = what.startswith("a resumed run is the run")
    return title in VARIANTS or (is_resumed and title in ALIKE)


@pytest.mark.parametrize(
    "check",
    [pytest.param(one, marks=long_if(is_long(one)), id=one.name) for one in CHECKS],
)
def test_the_equation_holds(check):
    result = outcome(check)
    assert result.passed, f"error {result.error:.1e} > {result.tolerance:.1e}: {result.problem}"


def test_every_method_is_checked_against_its_paper_and_as_a_whole():
    assert {paper.method for paper in PAPERS} == set(TIMES) == set(fs.methods.__all__)
    assert set(METHODS) >= set(fs.methods.__all__)
    assert {name for name, _ in METHODS.values()} == set(fs.methods.__all__)


def test_names_are_unique_and_every_check_says_where_to_look():
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(check.look and check.source and check.tolerance < 5 for check in CHECKS)
    assert all(set(check.methods) <= set(fs.methods.__all__) for check in CHECKS)


def attribute(name: str) -> object:
    """What `fewstep.a.b.C` names: a module, or something in one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            value = getattr(value, part)
        return value
    raise ModuleNotFoundError(name)


def test_where_to_look_is_there():
    """Each hint names a module or a part of one, where it is, and pages that exist."""
    root = Path(__file__).parents[2]
    places = set()
    for check in CHECKS:
        own = re.findall(r"\bfewstep(?:\.\w+)+", check.look)
        assert own, check.look
        places |= set(own)
        for page in re.findall(r"docs/[\w/]+\.md", check.look):
            assert (root / page).is_file()
    for place in places:
        assert attribute(place) is not None
    assert len(places) > 40


def test_a_method_is_checked_by_its_own_checks_and_those_of_all():
    checks = select(CHECKS, "mcm")
    assert {check.method for check in checks} == {"mcm", "shared", "all"}
    assert all(check.concerns("mcm") for check in checks)
    assert any(not check.quick for check in checks)
    assert all(check.quick for check in select(CHECKS, "mcm", quick=True))


@pytest.mark.parametrize(
    ("measure", "passes"),
    [
        (lambda: 0.9, True),
        (lambda: 1.0, True),
        (lambda: 1.1, False),
        (lambda: math.nan, False),
        (lambda: math.inf, False),
        (lambda: -math.inf, False),
    ],
)
def test_what_passes(measure, passes):
    result = outcome(Check("name", "source", measure, 1.0, "see there"))
    assert result.passed is passes
    assert result.problem == ("" if passes else "see there")


def test_an_exception_is_a_failed_check_with_its_message():
    result = outcome(Check("name", "source", lambda: [][1], 1.0, "see there"))
    assert not result.passed
    assert re.fullmatch(
        r"IndexError: list index out of range \(test_verify.py, line \d+\); see there",
        result.problem,
    )
    assert result.to_json()["error"] is None


def test_errors_are_not_lost_in_a_maximum():
    assert worst(1.0, math.nan) == math.inf
    assert math.isnan(apart(torch.tensor([math.nan]), torch.tensor([1.0])))
    ours = torch.tensor([[1.0, 0.0], [100.0, 0.0]])
    truth = torch.tensor([[1.1, 0.0], [100.0, 0.0]])
    assert by_row(ours, truth) == pytest.approx(0.1 / 1.1)
    with pytest.raises(ValueError, match="shape"):
        apart(torch.zeros(2), torch.zeros(3))


def test_json_has_one_object_with_every_check(capsys):
    assert main(["verify", "--quick", "--method", "ect", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["checks"]
    fields = {"name", "method", "error", "tolerance", "passed", "source", "seconds", "problem"}
    assert all(row.keys() == fields for row in document["checks"])
    names = [check.name for check in select(CHECKS, "ect", quick=True)]
    assert [row["name"] for row in document["checks"]] == names


def test_a_failure_is_exit_code_1_with_the_problem_below_it(capsys, monkeypatch):
    monkeypatch.setattr(weights, "inverse_gap", weights.one)
    assert main(["verify", "--method", "tcm", "--quick"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["what", "source", "method", "error", "tolerance", "verdict"]
    (row,) = [i for i, line in enumerate(lines) if line.startswith("tcm: 1/(t-r) ||D")]
    assert lines[row].endswith("FAILED")
    assert "weight; see fewstep.methods.tcm" in lines[row + 1]
    assert any(line.startswith("failed: tcm: 1/(t-r) ||D") for line in lines)
    verdicts = [line for line in lines if line.endswith(("ok", "FAILED"))]
    columns = {line.index("2410.14895") for line in verdicts if "2410.14895" in line}
    assert len(columns) == 1


def test_mistakes_are_one_line(capsys):
    for argv, message in {
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
        assert message in line


def test_a_method_without_checks_of_its_own_is_no_success(capsys, monkeypatch):
    monkeypatch.setattr(fs.methods, "__all__", [*fs.methods.__all__, "later"])
    assert main(["verify", "--method", "later", "--quick"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "fewstep: --method later: no check is about it: expected a row of METHODS"
    )


def failures(factory, name: str) -> list[str]:
    """The names of the checks that a target fails, without its own name."""
    results = run(target.checks_of(factory, name))
    return [result.name.split(": ", 1)[1] for result in results if result.passed is False]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("direct_cm", {"n": 8, "reuse": 4}),
        ("direct_cm", {"n": 8, "source": "cache"}),
        ("ict", {"pairs": "ot"}),
    ],
)
def test_rows_that_belong_together_are_no_mistake(name, options):
    def factory():
        return getattr(fs.methods, name)(**options)

    assert failures(factory, name) == []
    names = [check.name for check in target.checks_of(factory, name)]
    assert not any("a batch is its items" in name for name in names)


def test_a_method_that_takes_pictures_alone_gets_pictures(capsys):
    assert main(["verify", "--target", f"{OWN}:of_pictures"]) == 1
    assert "divisible by 2" in capsys.readouterr().out
    assert main(["verify", "--target", f"{OWN}:of_pictures", "--shape", "2", "4", "4"]) == 0


@pytest.mark.parametrize(
    "name", ["method", "weighted_by_r", "network", "Small", "Dropping", "teacher", "flow_teacher"]
)
def test_a_right_target_passes(name):
    assert failures(getattr(own_parts, name), name) == []
    assert len(target.checks_of(getattr(own_parts, name), name)) >= 6


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("over_the_batch", "a batch is its items"),
        ("draws", "the seed decides the dropout, nothing else is random"),
        ("one_number", "a batch is its items"),
        ("times_out_of_order", "times a <= r <= t <= t_max, t > a"),
        ("global_draws", "the seed decides the dropout, nothing else is random"),
        ("bare_root", "a known data point has loss 0"),
        ("goal_with_gradient", "target is detached: gradient with targets held still"),
        ("adaptive_with_gradient", "target is detached: gradient with targets held still"),
        ("half_detached", "a row's gradient is the slope of its loss"),
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
def test_a_wrong_target_is_caught_by_name(name, failure):
    assert failure in failures(getattr(own_parts, name), name)


DETACHED = "target is detached: gradient with targets held still"
SLOPE = "a row's gradient is the slope of its loss"


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("adaptive", {SLOPE: "a factor without gradient, of which only the direction is checked"}),
        (
            "own_loss",
            {
                DETACHED: "does not call its distance",
                "r = a asks no network at r": "asks a network at r",
                "a known data point has loss 0": "what it is at best is not known",
            },
        ),
    ],
)
def test_what_cannot_be_seen_of_a_method_is_no_mistake_of_it(name, reasons, capsys):
    """A weight without gradient, and a loss of its own."""
    results = list(run(target.checks_of(getattr(own_parts, name), name)))
    assert [r.name for r in results if r.passed is False] == []
    unknown = {r.name.split(": ", 1)[1]: r.problem for r in results if r.passed is None}
    assert unknown.keys() == reasons.keys()
    assert all(reason in unknown[check] for check, reason in reasons.items())
    assert main(["verify", "--target", f"{OWN}:{name}"]) == 0
    assert f", {len(reasons)} cannot be checked," in capsys.readouterr().out


@pytest.mark.parametrize("name", ["over_the_batch", "one_number"])
def test_what_rests_on_rows_that_are_apart_is_not_checkable_where_they_are_not(name):
    """A mean over the batch is one mistake, and told once."""
    results = run(target.checks_of(getattr(own_parts, name), name))
    verdicts = {result.name.split(": ", 1)[1]: result for result in results}
    assert verdicts["a batch is its items"].passed is False
    for check in ("a batch is its items, under dropout", "labels reach the rows they belong to"):
        assert verdicts[check].passed is None
        assert verdicts[check].problem == '"a batch is its items" does not hold: mend that first'


def test_an_exception_is_shown_with_its_line_and_without_a_guess_at_another_cause():
    results = run(target.checks_of(own_parts.wrong_name, "wrong_name"))
    (problem,) = {result.problem for result in results} - {""}  # in every check the same
    assert re.fullmatch(
        r"AttributeError: 'Times' object has no attribute 'gap' \(own_parts.py, line \d+\); see"
        r" wrong_name",
        problem,
    )


def test_where_nothing_holds_the_shape_is_mentioned(capsys):
    assert main(["verify", "--target", f"{OWN}:of_colours"]) == 1
    assert "name it: --shape" in capsys.readouterr().out.splitlines()[-1]
    assert main(["verify", "--target", f"{OWN}:of_colours", "--shape", "3", "8", "8"]) == 0


def test_a_target_from_the_command_line(capsys):
    assert main(["verify", "--target", f"{OWN}:method"]) == 0
    assert f"{OWN}:method: a batch is its items" in capsys.readouterr().out
    assert main(["verify", "--target", f"{OWN}:draws", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert not all(row["passed"] for row in document["checks"])


SMALL = {
    "mlp": {"width": 8, "depth": 1, "dropout": 0.3},
    "song_unet": {"width": 8, "mult": (1,), "blocks": 1, "attention": ()},
    "dit": {"width": 16, "depth": 1, "heads": 2, "patch": 4},
}


@pytest.mark.parametrize("name", SMALL)
def test_our_networks_are_right_targets(name):
    def factory(shape, classes):
        return getattr(fs.networks, name)(shape, classes, **SMALL[name])

    assert failures(factory, name) == []


def test_our_trained_generator_is_a_right_teacher():
    digits = fs.load("digits")
    for subject in (digits, digits.denoiser):
        assert failures(lambda subject=subject: subject, "digits") == []


def test_the_example_of_the_page_is_right_and_its_mistakes_are_caught(
    tmp_path, monkeypatch, capsys
):
    page = (Path(__file__).parents[2] / "docs" / "verify.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(code.splitlines()) <= 20
    messages = re.findall(r"```text\nmine:(.*?)\s{2}.*?\n(.*?)mine:method\n", page)
    swaps = ((".flatten(1).mean(1)", ".mean()"), (".log1p()", ".add(1).log()"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_right.py").write_text(code)
    assert main(["verify", "--target", "mine_right:method"]) == 0
    for number, ((right, wrong), (name, problem)) in enumerate(zip(swaps, messages, strict=True)):
        assert right in code
        (tmp_path / f"mine_{number}.py").write_text(code.replace(right, wrong))
        assert main(["verify", "--target", f"mine_{number}:method"]) == 1
        lines = capsys.readouterr().out.splitlines()
        (row,) = [i for i, line in enumerate(lines) if line.startswith(f"mine_{number}:{name} ")]
        assert lines[row].endswith("FAILED")
        assert lines[row + 1].startswith(problem)
