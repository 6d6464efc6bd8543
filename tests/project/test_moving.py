"""docs/moving: the commands are runs, and the tables name options and defaults that there are."""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import fields
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fewstep import methods, networks
from fewstep.base.options import checked_options, choose
from fewstep.cli import VERBS, main
from fewstep.cli import eval as eval_verb
from fewstep.cli import sample as sample_verb
from fewstep.cli.arguments import options_in
from fewstep.cli.train_options import Launch
from fewstep.run.config import Run
from tests.docs.pages import pieces
from tests.support.commands import run_of

FOLDER = Path(__file__).parents[2] / "docs" / "moving"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")
HEADINGS = [
    "The same run",
    "Word by word",
    "What behaves differently",
    "Weights, samples, numbers",
    "Not here",
]
NONE = "\u2013"  # a cell without a counterpart
LAUNCH = {option.name: option.default for option in options_in(Launch)}
DEFAULTS = {
    "sample": {f.name: f.default for f in fields(sample_verb.Args)},
    "eval": {f.name: f.default for f in fields(eval_verb.Args)},
}


class Row(NamedTuple):
    """A line of a table, and the command whose defaults it has."""

    page: str
    command: str
    there: str
    default_there: str
    here: str
    default_here: str
    differs: str


def rows_of(page: Path) -> list[Row]:
    """The rows of the page's tables of settings."""
    result = []
    for is_table, lines in groupby(page.read_text().splitlines(), lambda s: s.startswith("|")):
        if not is_table:
            continue
        head, _, *body = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
        if head[0] == "there" and len(head) == 5:
            command = re.search(r"`(.+)`", head[3])[1]
            result += [Row(page.stem, command, *cells) for cells in body]
    return result


ROWS = [row for page in PAGES for row in rows_of(page)]
TRAININGS = [
    (page, piece.text)
    for page in [*PAGES, FOLDER / "README.md"]
    for piece in pieces(page)
    if piece.kind == "shell" and piece.text.startswith("fewstep train ")
]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@cache
def run_of_header(command: str) -> Run:
    return run_of(f"fewstep train {command}")


def value_of(command: str, option: str) -> Any:
    """The value of an option of train, or of `fewstep VERB --option`, where it is not typed."""
    if option.startswith("fewstep "):
        _, verb, option = option.split()
        return DEFAULTS[verb][option.removeprefix("--").replace("-", "_")]
    kind, *inside = option.removeprefix("--").replace("-", "_").split(".")
    run = run_of_header(command)
    if not inside:
        return getattr(run, kind) if hasattr(run, kind) else LAUNCH[kind.replace("_", "-")]
    module = {"method": methods, "network": networks}[kind]
    function = choose(kind, module, getattr(run, kind))
    value: Any = checked_options(kind, function, getattr(run, f"{kind}_options"))
    for name in inside:
        value = value[name]
    return value


def says(text: str, value: Any) -> bool:
    """Whether a cell's text is the value: none, yes, no, numbers, or a name."""
    if value is None or value == ():
        return text == "none"
    if isinstance(value, bool):
        return text == ("yes" if value else "no")
    if isinstance(value, tuple):
        parts = text.split(",")
        return len(parts) == len(value) and all(map(says, map(str.strip, parts), value))
    if isinstance(value, int | float):
        is_number = re.fullmatch(r"[-\d.e]+", text) is not None
        return is_number and math.isclose(float(text), value, rel_tol=1e-4)
    return text == str(value)


def test_there_are_pages_and_each_is_listed():
    links = re.findall(r"\]\((\w+\.md)\)", (FOLDER / "README.md").read_text())
    assert sorted(set(links)) == [page.name for page in PAGES]
    assert len(PAGES) == 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_its_parts_and_says_the_commit(page):
    text = page.read_text()
    assert re.findall(r"^## (.+)", text, re.M) == HEADINGS
    assert re.search(r"commit `[0-9a-f]{7,40}`", text.partition("## ")[0])
    links = re.findall(r"https://github\.com/[\w-]+/[\w-]+/blob/(\w+)", text)
    assert links
    assert all(len(commit) == 40 for commit in links)
    assert rows_of(page)


def test_options_of_the_tables_exist_with_these_defaults():
    wrong = []
    for row in ROWS:
        options = [name for name in quoted(row.here) if "--" in name]
        texts = quoted(row.default_here)
        place = f"{row.page}: {row.there} -> {row.here} ({row.command})"
        if len(options) != len(texts):
            wrong.append(f"{place}: {len(options)} options, {len(texts)} defaults")
            continue
        for option, text in zip(options, texts, strict=True):
            try:
                value = value_of(row.command, option)
            except (KeyError, AttributeError):
                wrong.append(f"{place}: no option {option}")
                continue
            if not says(text, value):
                wrong.append(f"{place}: {option} is {value!r}, the page says {text}")
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_cell_is_empty_and_no_word_of_theirs_stands_twice(page):
    rows = rows_of(page)
    assert [row for row in rows if not all(row[2:])] == []
    assert [row for row in rows if row.here == NONE and row.default_here != NONE] == []
    words = [row.there for row in rows if row.there != NONE]
    assert sorted(set(words)) == sorted(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_words_of_their_command_are_explained(page):
    """Each flag or key of the blocks of theirs is in a table, or in the text as it stands."""
    text = page.read_text()
    blocks = "".join(re.findall(r"```(?:text|yaml)\n(.*?)```", text, re.S))
    rest = re.sub(r"```\w+\n.*?```", "", text, flags=re.S)
    flags = set(re.findall(r"(?<!\S)(--?[a-zA-Z][\w-]*)", blocks))
    flags |= set(re.findall(r"^ *(\w+): ", blocks, re.M))
    flags |= {name.rpartition(".")[2] for name in re.findall(r"([a-z]\w*(?:\.\w+)+)=", blocks)}
    flags -= {"-n", "--nproc_per_node"}  # of the launcher
    assert flags
    assert [flag for flag in flags if not re.search(rf"`[^`]*{re.escape(flag)}\b", rest)] == []


@pytest.mark.parametrize(
    ("page", "line"), TRAININGS, ids=lambda one: one.stem if isinstance(one, Path) else None
)
def test_the_commands_of_the_pages_are_runs(page, line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = [p.text for p in pieces(page) if p.kind == "python" and "def method()" in p.text]
    if own:
        (tmp_path / "mine.py").write_text(own[0])
    run = run_of(line)
    if ":" not in run.method:
        function = choose("method", methods, run.method)
        options = checked_options("method", function, run.method_options)
        if "sigma_data" in inspect.signature(function).parameters:
            options["sigma_data"] = 0.5
        function(**options)  # its options fit each other


def test_options_of_other_verbs_exist(capsys):
    helps: dict[str, str] = {}
    for page in [*PAGES, FOLDER / "README.md"]:
        for piece in pieces(page):
            words = piece.text.split()
            if piece.kind != "shell" or words[:2] == ["fewstep", "train"]:
                continue
            assert words[0] == "fewstep", piece.place
            verb = words[1]
            assert verb in VERBS, piece.place
            if verb not in helps:
                with pytest.raises(SystemExit):
                    main([verb, "--help"])
                helps[verb] = capsys.readouterr().out
            options = [word for word in words if word.startswith("--")]
            assert [one for one in options if one not in helps[verb]] == [], piece.place
