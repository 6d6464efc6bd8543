"""examples/distill_your_own.md: every command of the page, in its order, with few steps."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from fewstep.cli import main

FOLDER = Path(__file__).parents[2] / "examples"
PAGE = FOLDER / "distill_your_own.md"
SHORT = {"train": ["--iterations", "2", "--quiet"], "sample": ["--n", "4", "--quiet"]}
FEW = {"distill_teacher.py": "2", "distill_table.py": "16"}  # the argument of a script


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.S)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.long
def test_every_command_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = commands()
    assert sum("export" in line for line in lines) == 2
    for line in lines:
        words = shlex.split(line)
        if words[0] == "python":
            monkeypatch.setattr(sys, "argv", [words[1], FEW[words[1]]])
            runpy.run_path(str(FOLDER / words[1]), run_name="__main__")
        else:
            assert words[0] == "fewstep"
            assert main([*words[1:], *SHORT.get(words[1], [])]) == 0, line
    output = capsys.readouterr().out
    assert "eps-prediction on the ddpm process, label t - 1" in output
    for name in ("teacher, DDIM", "one-step student", "four-step student"):
        assert re.search(rf"{name} +\d+ +[\d.]+ +[\d.]+", output), output
    scheduler = (tmp_path / "one-pipeline/scheduler/scheduler_config.json").read_text()
    assert "LCMScheduler" in scheduler


@pytest.mark.parametrize("name", FEW)
def test_the_page_names_its_scripts(name):
    assert name in PAGE.read_text()
    assert (FOLDER / name).is_file()
