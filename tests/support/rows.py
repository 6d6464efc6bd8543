"""Which rows of the table of methods every test run goes through."""

from __future__ import annotations

import pytest

from fewstep.analysis.verify.builtin import METHODS, build

# Of flow maps their defaults: other processes and options have the same parts, and `verify` has
# them all.
VARIANTS = {
    title
    for title, (name, options) in METHODS.items()
    if title != name and build(name, options).ends
}


def long_if(is_long: bool) -> list[pytest.MarkDecorator]:
    """The mark of a test that only the long suite has."""
    return [pytest.mark.long] * is_long
