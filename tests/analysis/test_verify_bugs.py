"""A wrong implementation is caught, by the check that has the equation's name; the right one passes
it.
"""

from __future__ import annotations

import pytest

from fewstep.analysis.verify import all_checks
from fewstep.analysis.verify.check import outcome
from tests.planted import BUGS


def named(name: str):
    (check,) = [check for check in all_checks() if check.name == name]
    return check


@pytest.mark.parametrize("bug", BUGS, ids=[bug.what for bug in BUGS])
def test_a_planted_bug_is_caught_by_the_name_of_its_equation(bug, monkeypatch):
    assert outcome(named(bug.caught)).passed
    if isinstance(bug.holder, dict):
        monkeypatch.setitem(bug.holder, bug.name, bug.make(bug.holder[bug.name]))
    else:
        monkeypatch.setattr(bug.holder, bug.name, bug.make(getattr(bug.holder, bug.name)))
    found = outcome(named(bug.caught))
    assert not found.passed
    assert "see " in found.problem or "fewstep." in found.problem
    assert not found.problem.startswith(
        ("TypeError", "AttributeError", "NameError")
    )  # the bug's own fault
