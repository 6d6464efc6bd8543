"""How a page's commands and code are made short, and what they suppose is made up."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy
import torch
from PIL import Image

import fewstep as fs
from fewstep.cli import main
from fewstep.cli import train as train_verb
from fewstep.cli.train_options import last_value
from fewstep.data import Units
from fewstep.run.build import build_method, build_student, with_defaults
from fewstep.run.facts import Facts
from tests.docs import notebooks
from tests.docs.pages import Piece, pieces

STEPS = "5"
# Appended to a verb's words.
SHORTER = {
    "train": ("--iterations", STEPS, "--device", "cpu", "--quiet"),
    "eval": ("--n", "64", "--draw", "32", "--device", "cpu", "--quiet"),
    "bench": ("--batch", "32", "--repeats", "6", "--device", "cpu", "--quiet"),
    "sweep": ("--iterations", STEPS, "--n", "64", "--device", "cpu", "--jobs", "1", "--quiet"),
    "frontier": (
        *("--n", "64", "--draw", "32", "--search-n", "64", "--candidates", "1", "--repeats", "3"),
        *("--steps", "1,2", "--device", "cpu", "--quiet"),
    ),
}
# What stands for something of the reader's.
NAMES = {
    "SEED": "1",
    "METHOD": "ect",
    "SETTINGS": "",
    "...": "digits",
    "RUN…": "RUN",
    "RECIPE": "digits",
    "WHAT": "digits",
    "DATA": "digits",
}
BRACKETS = {"N": "64", "K": "1", "A,B": "energy", "DIR": "page"}  # of options in [brackets]
# Of options in brackets whose values are files that are not here.
FOREIGN = ("--extractor", "--reference", "--teacher")
SIDES = {"cifar10": 32, "imagenet32": 32, "imagenet128": 128}
# What a page's Python supposes besides torch, fs and replace.
PRELUDES = {
    "data.md": "points = torch.randn(200, 5, 2)\nlengths = torch.arange(200) % 5 + 1",
    "direct_cm.md": "import dataclasses",
}
_scopes: dict[Path, dict[str, Any]] = {}


def prepare(page: Path) -> None:
    """Writes the files that the page's commands name, in the current folder."""
    noise = torch.Generator().manual_seed(0)
    numpy.save("series.npy", torch.randn(200, 16, generator=noise).numpy())
    Path("photos").mkdir()
    for i in range(40):
        pixels = torch.randint(256, (70, 72, 3), generator=noise).byte().numpy()
        Image.fromarray(pixels).save(f"photos/{i}.png")
    own = [
        piece.text
        for piece in pieces(page)
        if piece.kind == "python" and re.search(r"def (method|network|meanflow)\(", piece.text)
    ]
    sys.modules.pop("mine", None)  # the page's before
    if own:
        Path("mine.py").write_text(own[0])


def short(words: list[str], piece: Piece) -> list[str]:
    """The words of a command with what it supposes made, and options that make it short."""
    verb, *rest = [NAMES.get(word, word) for word in words]
    rest = [word for word in without_brackets(rest) if word]
    for before, word in zip(["", *rest], rest, strict=False):
        is_teacher = before in ("--teacher", "--init")
        names_a_run = (
            word.startswith("runs/") or (word.isupper() and word.isalpha()) or "-TEACHER" in word
        )
        if before != "--out" and names_a_run:
            make_run(word, of_diffusion=is_teacher and "predictor" not in piece.text)
    if verb == "sweep" and "--iterations" in rest:  # there twice is a sweep
        place = rest.index("--iterations")
        del rest[place : place + 2]
    rest += SHORTER.get(verb, ())
    if verb == "train":
        # Commands without --resume are alternatives: a later one begins anew.
        words = train_verb.with_recipe_first(rest)
        recipe = "digits" if words[0].startswith("-") else words[0]
        run = train_verb.run_of(recipe, last_value(words, "--method"))
        folder = train_verb.out_folder(run, words)
        if "--resume" not in rest:
            shutil.rmtree(folder, ignore_errors=True)
        if "--extend" in rest:
            rest += ["--extend", STEPS]
        if "song_unet" in rest:
            rest += ["--network.width", "16", "--batch", "32"]
    if verb == "sample" and "--n" not in rest:
        rest += ["--n", "20"]
    return [verb, *rest]


def without_brackets(words: list[str]) -> list[str]:
    """The words with the options that stand in [brackets], but for foreign files."""
    result: list[str] = []
    skips = False
    for word in words:
        opens, closes = word.startswith("["), word.endswith("]")
        name = word.strip("[]")
        if opens:
            skips = name in FOREIGN
        if not skips:
            value = BRACKETS.get(name, name) if closes and not opens else name
            result.append(value)
        skips = skips and not closes
    return result


def make_run(name: str, *, of_diffusion: bool) -> None:
    """A run of that name where there is none: of a method that its name ends with, or ect."""
    if Path(name).exists() or Path(name).name == "best":  # of a run before
        return
    method = Path(name).name
    if method not in ("ict", "ect", "tcm", "gc"):
        method = "diffusion" if of_diffusion else "ect"
    assert main(["train", "digits", "--method", method, "--out", name, *SHORTER["train"]]) == 0


def check_training(words: list[str], *, build: bool) -> None:
    """Reads the command as a run; `build`: its method and, on the meta device, its network."""
    runs: list[fs.Run] = []
    words = [NAMES.get(word, word) for word in words]
    with (
        mock.patch("fewstep.cli.train.start", lambda run, *_, **__: runs.append(run) or 0),
        mock.patch("fewstep.cli.train.check_data_name"),  # the data are not here
    ):
        code = main(words)
    if code:
        raise ValueError(f"exit code {code}")
    if not build:
        return
    run = with_defaults(runs[0])
    side = SIDES.get(run.recipe.partition("-")[0], 64)
    side = run.data_size or (32 if run.recipe in ("glyphs", "hanzi") else side)
    facts = Facts((3, side, side), 1000 if run.labels else 0, run.sigma_data or 0.5, Units(), "")
    method = build_method(run, facts)
    with torch.device("meta"):
        build_student(run, facts, method)


@contextlib.contextmanager
def trainings() -> Iterator[None]:
    """Inside, `fs.train` makes a few steps and `fs.trajectories` solves a few trajectories."""
    train, trajectories = fs.train, fs.trajectories

    def few(run: fs.Run, *args: Any, **options: Any) -> Any:
        options["progress"] = False
        return train(replace(run, iterations=int(STEPS)), *args, **options)

    def some(run: fs.Run, count: int, *args: Any, **options: Any) -> Any:
        return trajectories(run, 200, *args, **options)

    with mock.patch.object(fs, "train", few), mock.patch.object(fs, "trajectories", some):
        yield


def run_python(piece: Piece) -> None:
    """Runs a block in the scope of its page, which the blocks before it have filled."""
    if piece.kind == "cell":
        # A notebook supposes nothing; its classes look for their module by name.
        notebooks.run_cell(piece, _scopes.setdefault(piece.page, {"__name__": "__main__"}))
        return
    if piece.page not in _scopes:
        scope: dict[str, Any] = {"torch": torch, "fs": fs, "replace": replace}
        exec(PRELUDES.get(piece.page.name, ""), scope)
        _scopes[piece.page] = scope
    lines = "\n" * (piece.line - 1)  # so that a traceback names the page's line
    with contextlib.redirect_stdout(None):
        exec(
            compile(lines + piece.text, str(piece.page), "exec"),
            _scopes[piece.page],
        )


def line_of(error: Exception, piece: Piece) -> int:
    """The page's line that raised an error, or the piece's."""
    frames = traceback.extract_tb(error.__traceback__)
    return (
        next((one.lineno for one in reversed(frames) if one.filename == str(piece.page)), None)
        or piece.line
    )
