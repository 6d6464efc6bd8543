"""The site: its pages are all in the navigation, show something measured, and load nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import fewstep as fs
from fewstep.base.options import names_of
from tests.project.site import elsewhere

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


class Settings(yaml.SafeLoader):
    """Of mkdocs.yml; what it names of Python is left out."""


Settings.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
SETTINGS = yaml.load((ROOT / "mkdocs.yml").read_text(), Settings)


# What makes pictures beside the scripts of docs/pictures.
ELSEWHERE = {"quality": "benchmarks/quality.py", "status": "tests/project/status.py"}


def leaves(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value
    return [leaf for one in inner for leaf in leaves(one)]


def test_every_page_is_once_in_the_navigation():
    assert sorted(leaves(SETTINGS["nav"])) == PAGES


def test_nothing_of_the_theme_comes_from_elsewhere():
    assert SETTINGS["theme"]["font"] is False
    assert not [text for text in leaves(SETTINGS["extra"]["polyfills"]) if "//" in text]


PICTURE = re.compile(r"!\[[^]]{20,}\]\(\S+\.png\)")
# First words of a block of text that is typed, not printed.
TYPED = ("accelerate", "bash", "git", "mpiexec", "python", "torchrun", "twine")
# Measured: a decimal, an interval, a count with its unit; a setting stands in backquotes.
UNITS = r"%|s|ms|h|min|kB|MB|GB|MiB|GiB|kills|mutations"
MEASURED = re.compile(rf"^\**[<-]?(\d*\.\d+|\d[\d,]*\.?\d* ?({UNITS})(?!\w)|\d[\d.,]* ± )")


def blocks_of_output(text: str) -> list[str]:
    """What commands printed, of the blocks of a page that are text."""
    blocks = re.findall(r"^ *```text\n(.*?)^ *```", text, re.S | re.M)
    return [one for one in blocks if re.search(r"\d", one) and not one.split()[0].startswith(TYPED)]


def has_measured_column(text: str) -> bool:
    """Whether a table has a column, but the first, of two numbers or more that were measured.

    Of a table of published numbers with a column of ours that one alone counts.
    """
    for table in re.findall(r"(?:^ *\|.*\|\n)+", without_blocks(text), re.M):
        head, *rows = [
            [cell.strip() for cell in line.strip().strip("|").split("|")]
            for line in table.splitlines()
        ]
        for name, *cells in zip(head[1:], *(row[1:] for row in rows[1:]), strict=False):
            counts = name == "ours" if "ours" in head else "default" not in name
            if counts and sum(bool(MEASURED.match(cell)) for cell in cells) >= 2:
                return True
    return False


def without_blocks(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M)


def shows(text: str) -> bool:
    """Whether a page has a picture, output or measured numbers, or is one of the reference."""
    is_reference = re.search(r"^::: ", text, re.M) is not None
    has_picture = PICTURE.search(without_blocks(text)) is not None
    return is_reference or has_picture or bool(blocks_of_output(text)) or has_measured_column(text)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_a_picture_or_a_number(name):
    """Pages of the reference show what the code says instead."""
    assert shows((DOCS / name).read_text())


NOTHING = {
    "a version": "Python 3.11 and torch 2.13 are needed.",
    "a number in a sentence": "It took 3.5 s on one core.",
    "a picture without words": "![](pictures/data.png)",
    "a picture in a block": "```md\n![the rows by noise level](pictures/data.png)\n```",
    "commands": "```console\nfewstep train digits --lr 0.1\n```",
    "commands of others": "```text\ntorchrun train.py --lr=0.1\n```",
    "settings": "| option | default |\n|---|---|\n| `--lr` | 0.1 |\n| `--ema` | 0.9 |\n",
    "numbers of others": "| a | FID | ours |\n|---|---|---|\n| b | 1.97 | not measured |\n"
    "| c | 1.98 | not measured |\n",
    "words": "| a | b |\n|---|---|\n| 1.0 | 2 of them |\n| 2.0 | `0.5` |\n",
}
SOMETHING = {
    "a picture": "![the rows by noise level](pictures/data.png)",
    "output": "```text\nenergy@1 0.0105\n```",
    "a table": "| a | time |\n|---|---|\n| one | 26 s |\n| two | 204 s, most of it waiting |\n",
    "intervals": "| a | score |\n|---|---|\n| one | **7.3 ± .4** |\n| two | .0017 ± .0002 |\n",
    "reference": "# Errors\n\n::: fewstep.errors\n",
}


@pytest.mark.parametrize("text", NOTHING.values(), ids=NOTHING)
def test_what_shows_nothing(text):
    assert not shows(text)


@pytest.mark.parametrize("text", SOMETHING.values(), ids=SOMETHING)
def test_what_shows_something(text):
    assert shows(text)


def test_every_picture_is_shown_and_has_a_script():
    texts = [path.read_text() for path in [*DOCS.rglob("*.md"), ROOT / "CONTRIBUTING.md"]]
    scripts = [path.read_text() for path in (DOCS / "pictures").glob("*.py")]
    for picture in (DOCS / "pictures").rglob("*.png"):
        name, stem = picture.relative_to(DOCS).as_posix(), picture.stem
        assert any(f"{name})" in text for text in texts), name
        if stem in ELSEWHERE:
            assert (ROOT / ELSEWHERE[stem]).exists()
            continue
        is_named = (f'{stem}.png"', f'"{stem}"', f"def {stem}(")
        is_made = any(name in text for text in scripts for name in is_named)
        is_of_a_method = picture.parent.name == "times" and (DOCS / f"methods/{stem}.md").exists()
        assert is_made or is_of_a_method or picture.with_suffix(".py").exists(), name


def test_the_start_page_names_every_method():
    text = (DOCS / "index.md").read_text()
    rows = re.findall(r"^\| (?:methods|flow maps) \| (.*)$", text, re.M)
    assert set(names_of(fs.methods)) <= set(re.findall(r"`(\w+)`", "".join(rows)))


def test_the_table_of_the_theory_is_that_of_the_methods():
    text = (DOCS / "theory.md").read_text()
    rows = re.findall(r"^\| \[`(\w+)`\]\(\S+\) \| (.*) \|$", text, re.M)
    assert len(rows) == 7
    for name, cells in rows:
        method = getattr(fs.methods, name)()
        parts = ("times", "coupling", "target", "distance", "weight")
        said = [cell.strip("` ").replace("\N{EN DASH}", "None") for cell in cells.split(" | ")]
        assert said == [name_of(getattr(method, part)) for part in parts], name


def name_of(part: object) -> str:
    if part is None:
        return "None"
    return getattr(part, "__name__", None) or type(part).__name__


def test_numbers_of_the_scientists_start_are_those_of_the_examples():
    start, tables = ((DOCS / name).read_text() for name in ("start/scientist.md", "science.md"))
    numbers = re.findall(r"\d+\.\d+", start.partition("## ")[0])
    assert len(numbers) == 9
    kept = set(re.findall(r"\d+\.\d+", tables))
    assert [number for number in numbers if number not in kept] == []


def test_what_is_loaded_from_elsewhere_is_found(tmp_path):
    (tmp_path / "here.css").write_text('@import "https://a.org/b.css"; a {background: url(c.png)}')
    (tmp_path / "c.png").write_bytes(b"")
    (tmp_path / "index.html").write_text(
        '<link rel="stylesheet" href="here.css"><a href="https://a.org">a link to follow</a>'
        '<script src="//a.org/d.js"></script><img src="lost.png"><img src="data:image/png;,">'
        '<link rel="canonical" href="https://a.org">'
    )
    assert elsewhere(tmp_path) == [
        "here.css: https://a.org/b.css",
        "index.html: //a.org/d.js",
        "index.html: lost.png",
    ]


WITH_LINKS = sorted([*ROOT.glob("*.md"), *ROOT.glob("examples/*.md"), *DOCS.rglob("*.md")])


@pytest.mark.parametrize("page", WITH_LINKS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page):
    """Also where mkdocs does not look: in the README and the examples."""
    for link, anchor in re.findall(r"\]\(([^)#\s:]*)(?:#([^)\s]+))?\)", without_code(page)):
        path = (page.parent / link).resolve() if link else page
        assert path.exists(), link
        if anchor and path.suffix == ".md":
            assert anchor in headings(path), f"{link}#{anchor}"


def without_code(page: Path) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.S)


def headings(page: Path) -> set[str]:
    """The anchors of a page, as code hosts and the site make them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}
