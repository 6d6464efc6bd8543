"""docs/reproduce.md: its commands are runs of its recipes, its budgets are theirs."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from fewstep.run.build import with_defaults
from fewstep.run.recipes import PAPERS
from tests.support.commands import run_of

REPRODUCE = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text()
TRAININGS = [line for line in REPRODUCE.splitlines() if line.startswith("fewstep train ")]
BUDGETS = re.findall(r"^\| `([\w-]+)` \| ([\d.]+)k x (\d+) \| ([\d.]+) M \|", REPRODUCE, re.M)


@pytest.mark.parametrize("line", TRAININGS)
def test_the_commands_of_the_page_are_runs(line):
    run = run_of(line)
    words = shlex.split(line)
    plain = with_defaults(PAPERS[words[2]](method=run.method))
    options = {
        word[2:].replace("-", "_").partition(".")[0] for word in words if word.startswith("--")
    }
    for field in fields(run):  # everything else is the recipe's
        if field.name not in options and field.name.removesuffix("_options") not in options:
            assert getattr(run, field.name) == getattr(plain, field.name)


def test_the_budgets_of_the_page_are_the_recipes():
    assert sorted(name for name, *_ in BUDGETS) == sorted(PAPERS)
    assert {line.split()[2] for line in TRAININGS} == PAPERS.keys()
    for name, thousands, batch, millions in BUDGETS:
        run = PAPERS[name]()
        assert (run.iterations, run.batch) == (round(1000 * float(thousands)), int(batch))
        assert run.iterations * run.batch / 1e6 == pytest.approx(float(millions), abs=0.051)
