"""Every command of the overview of methods trains."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

import fewstep as fs
from fewstep.cli import main
from fewstep.cli.train import read
from fewstep.run.recipes import RECIPES
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


@pytest.mark.parametrize("recipe", ["toy", "digits"])
def test_every_method_of_a_recipe_is_a_command(recipe):
    """Its options are the recipe's, as a run's are."""
    for name in fs.methods.__all__:
        _, run, _, _ = read([recipe, "--method", name])
        assert run.method == name
        given = RECIPES[recipe](method=name).method_options
        given = {option: value for option, value in given.items() if option != "base"}
        assert all(run.method_options[option] == value for option, value in given.items())


def test_options_of_a_part_are_json(tmp_path, capsys):
    line = ["train", "toy", "--method", "vct", *TINY, "--out", str(tmp_path / "run"), "--quiet"]
    assert main([*line, "--method.encoder-options", '{"width": 16}']) == 0
    options = json.loads((tmp_path / "run" / "run.json").read_text())["method_options"]
    assert options["encoder_options"] == {"width": 16}
    for word, message in (("3", "3 is no JSON object"), ('{"widht": 3}', "'widht': did you mean")):
        assert main([*line, "--out", str(tmp_path / "2"), "--method.encoder-options", word]) == 2
        assert message in capsys.readouterr().err


def test_there_are_commands():
    assert len(COMMANDS) >= 9
