"""Every command of the overview of methods trains."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fewstep.cli import main
from tests.support.toys import TINY

OVERVIEW = Path(__file__).parents[2] / "docs" / "methods" / "README.md"
COMMANDS = sorted(set(re.findall(r"`(--method [^`]+)`", OVERVIEW.read_text())))


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """A diffusion model, and a model of ict, by the predictor that asks for it."""
    folder = tmp_path_factory.mktemp("teachers")
    for method in ("diffusion", "ict"):
        line = ["train", "toy", "--method", method, "--out", str(folder / method), "--quiet"]
        assert main([*line, *TINY]) == 0
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_overview_trains(command, teachers, tmp_path):
    name = "ict" if "predictor" in command else "diffusion"
    words = shlex.split(command.replace("RUN", str(teachers / name)))
    assert main(["train", "toy", *words, "--out", str(tmp_path / "run"), "--quiet", *TINY]) == 0


def test_there_are_commands():
    assert len(COMMANDS) >= 9
