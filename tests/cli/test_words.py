"""Where a recipe stands, how a list is written, and what the help shows."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from typing import Annotated

import pytest
import tyro

from fewstep.base.errors import UserError
from fewstep.base.options import checked_options
from fewstep.cli import main, train
from fewstep.cli.arguments import arrange, options_in
from fewstep.cli.parse import parse
from fewstep.cli.train_options import FIRST, Launch
from fewstep.networks import dit
from fewstep.run.config import Run


@dataclass(frozen=True)
class Args:
    run: Annotated[str, tyro.conf.Positional]
    """A run."""
    steps: tuple[int, ...] = ()
    """Numbers of steps."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Two numbers."""
    later_sigmas: tuple[float, ...] | None = None
    """Levels."""
    metrics: tuple[str, ...] = ()
    """Names."""
    n: int = 1
    """A number."""
    patch: int | tuple[int, ...] = 2
    """A number, or several."""
    labels: bool = True
    """A flag."""


def read(line: str) -> Args:
    return parse(Args, line.split(), verb="test", description="")


@pytest.mark.parametrize("steps", ["1,2,4", "1 2 4", "1, 2, 4", "1,2 4"])
@pytest.mark.parametrize("line", ["x --steps {}", "--steps {} x", "--n 3 --steps {} x --n 1"])
def test_a_list_is_written_as_one_likes(line, steps):
    assert read(line.format(steps)) == Args("x", steps=(1, 2, 4))


@pytest.mark.parametrize("metrics", ["a,b", "a b", "a, b"])
@pytest.mark.parametrize("line", ["x --metrics {}", "--metrics {} x", "--metrics {} --n 1 x"])
def test_a_list_of_texts_leaves_the_positional_word_alone(line, metrics):
    assert read(line.format(metrics)) == Args("x", metrics=("a", "b"))


def test_other_values_stay_as_they_are():
    values = read("--betas 0.5,0.6 x --no-labels --later_sigmas 0.8 0.3 --n -2")
    assert values == Args("x", betas=(0.5, 0.6), labels=False, later_sigmas=(0.8, 0.3), n=-2)
    assert read("x --later-sigmas None") == Args("x")
    assert read("--steps=1,2 x") == read("--steps=1 2 x") == Args("x", steps=(1, 2))


@pytest.mark.parametrize(("words", "patch"), [("3", 3), ("3,4", (3, 4)), ("3 4", (3, 4))])
def test_one_number_or_a_list(words, patch):
    """As words and as values out of a file."""
    assert read(f"x --patch {words} --n 1") == Args("x", patch=patch)
    stored = list(patch) if isinstance(patch, tuple) else patch
    options = checked_options("network", dit, {"patch": stored})
    assert options["patch"] == patch
    assert type(options["patch"]) is type(patch)
    for bad in ([1.5], "3", None, True):
        with pytest.raises(UserError, match=r"patch = .*: expected int"):
            checked_options("network", dit, {"patch": bad})


def test_an_old_name_is_read_as_the_new_one():
    assert read("x --middle-times 0.8").later_sigmas == (0.8,)
    assert arrange(["--middle-times", "1"], []) == ([], ["--middle-times", "1"])


LINES = [
    "toy --seed 3 --averages power:0.05",
    "--seed 3 toy --averages power:0.05",
    "--averages power:0.05 --seed 3 toy",
    "--seed 3 --averages power:0.05 toy",
    "--no-labels --labels toy --seed=3 --averages=power:0.05",
    "--resume --no-resume toy --seed 3 --averages power:0.05",
]


@pytest.mark.parametrize("line", LINES)
def test_the_recipe_stands_anywhere(line, monkeypatch):
    runs = []
    monkeypatch.setattr(train, "start", lambda run, *rest, **launch: runs.append(run) or 0)
    assert main(["train", *line.split()]) == 0
    assert (runs[0].recipe, runs[0].seed, runs[0].averages) == ("toy", 3, ("power:0.05",))


def test_a_recipe_is_written_with_dashes_or_underscores(monkeypatch):
    runs = []
    monkeypatch.setattr(train, "start", lambda run, *rest, **launch: runs.append(run) or 0)
    words = shlex.split("--network.mult 1 2 digits_unet --network dit --network song_unet")
    assert main(["train", "digits-unet"]) == main(["train", "digits_unet"]) == 0
    assert main(["train", *words]) == 0
    assert {run.recipe for run in runs} == {"digits-unet"}
    assert runs[2].network_options["mult"] == (1, 2)


def help_of(line: str, capsys) -> str:
    with pytest.raises(SystemExit):
        main(line.split())
    return capsys.readouterr().out


@pytest.mark.parametrize("recipe", ["", "toy", "digits-unet", "imagenet64-mcm-large"])
def test_the_help_of_train_fits_a_screen(recipe, capsys):
    lines = help_of(f"train {recipe} --help", capsys).splitlines()
    assert 24 <= len(lines) <= 40
    assert max(map(len, lines)) <= 100
    assert any("--help-all" in line for line in lines)


def test_all_help_has_every_option_once(capsys):
    text = help_of("train toy --method diffusion --network dit --help-all", capsys)
    words = [line.split()[0].rstrip(",") for line in text.splitlines() if line.startswith("  ")]
    for field in fields(Launch):
        if field.name not in ("recipe", "method_options", "network_options", "convention"):
            assert words.count(f"--{field.name.replace('_', '-')}") == 1, field.name
    assert "--method.p-mean NUMBER" in text
    assert "--method.stages" not in text
    assert "options of method diffusion:" in text
    assert "options of network dit:" in text
    assert "(default: -1.2)" in text
    assert "--averages TEXT,TEXT,.." in text


def test_every_option_has_a_text():
    assert [option.name for option in options_in(Launch) if not option.help] == []
    assert set(FIRST) <= {field.name for field in fields(Launch)}
    assert {field.name for field in fields(Run)} <= {field.name for field in fields(Launch)}
