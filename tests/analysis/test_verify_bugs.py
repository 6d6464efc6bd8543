"""A wrong implementation is caught by the check with the equation's name; the right one passes."""

from __future__ import annotations

from functools import cache

import pytest

from fewstep.analysis.verify import all_checks
from fewstep.analysis.verify.check import outcome
from tests.planted import BUGS

CHECKS = {check.name: check for check in all_checks()}


@cache
def passes(name: str) -> bool:
    """Whether the check passes without a bug; the test calls it before it plants one."""
    return outcome(CHECKS[name]).passed


@pytest.mark.parametrize("bug", BUGS, ids=[bug.what for bug in BUGS])
def test_a_planted_bug_is_caught_by_the_name_of_its_equation(bug, monkeypatch):
    assert passes(bug.check)
    if isinstance(bug.holder, dict):
        monkeypatch.setitem(bug.holder, bug.name, bug.make(bug.holder[bug.name]))
    else:
        monkeypatch.setattr(bug.holder, bug.name, bug.make(getattr(bug.holder, bug.name)))
    result = outcome(CHECKS[bug.check])
    assert not result.passed
    assert "see " in result.problem or "fewstep." in result.problem
    # The bug must not fail by a mistake of its own.
    assert not result.problem.startswith(("TypeError", "AttributeError", "NameError"))
