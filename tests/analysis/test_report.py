"""Pages load nothing, escape all text, and are the same bytes for the same numbers."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from fewstep.analysis.report import (
    Figure,
    Section,
    Table,
    axes,
    page,
    pictures,
    png,
    svg,
    text_table,
    write,
)
from fewstep.base.errors import UserError


def svg_bytes() -> bytes:
    drawing, (left, right) = axes(2)
    left.plot([1, 2, 3], [3.0, 1.0, 2.0], label="a < b")
    left.legend()
    right.set_xlabel("noise level")
    return svg(drawing)


class Reader(HTMLParser):
    """The open tags, the addresses and the words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.addresses, self.words = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def whole() -> str:
    section = Section(
        title="One & two",
        verdict=("open", "not reproduced at this scale"),
        text=["error < 0.1 <script>alert(1)</script>"],
        figures=[Figure(svg_bytes(), alt='a "falling" line', caption="what it shows")],
        tables=[Table(["arm", "error"], [["a", "0.1"], ["b", "0.2"]], strong=frozenset({1}))],
        points=["a point"],
        commands=["fewstep train --c '<1>'"],
    )
    return page("Title <b>", ["lead"], [section], note="made by hand")


def test_a_page_is_well_formed_and_fetches_nothing():
    reader = Reader(whole())
    assert reader.open == []
    assert len(reader.addresses) == 1
    assert all(a.startswith("data:image/") for a in reader.addresses)
    assert not re.search(r"(https?:|url\(|@import|<script|<link)", whole())


def test_what_is_given_is_text():
    words = Reader(whole()).words
    assert "error < 0.1 <script>alert(1)</script>" in words
    assert "Title <b>" in words
    assert "fewstep train --c '<1>'" in words


def test_every_part_is_there_and_a_strong_row_is_marked():
    text = whole()
    parts = ["not reproduced at this scale", "what it shows", "a point", "made by hand"]
    for part in (*parts, 'id="one-two"'):
        assert part in text
    assert re.findall(r'<tr class="strong"><td class="words">(\w)</td>', text) == ["b"]


def test_numbers_are_set_to_the_right_and_words_to_the_left():
    table = Table(
        ["arm", "error", "verdict", "note"],
        [["1st", "0.1 ± 0.2", "open", ""], ["b", "(-.3)", "", "1"], ["c", "-"]],
    )
    assert table.columns == ["words", "number", "words", "number"]
    assert Table(["a", "b"], [["inf", "info"], ["nan", "1"]]).columns == ["number", "words"]


def test_a_table_for_the_terminal_has_columns_as_wide_as_needed():
    rows = [["one", "0.5", "fine"], ["another", "-", "no"], ["speed", "12.25"]]
    assert text_table(rows, ["name", "value", "verdict"]).splitlines() == [
        "name     value  verdict",
        "one        0.5  fine",
        "another      -  no",
        "speed    12.25",
    ]


def test_the_same_numbers_give_the_same_bytes():
    assert whole() == whole()
    assert svg_bytes() == svg_bytes()


def test_writing_replaces_a_page_whole(tmp_path):
    path = tmp_path / "deep" / "report.html"
    write(path, "one")
    assert write(path, "two") == path
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_a_png_can_be_written_and_taken_into_a_page(tmp_path):
    drawing, (ax,) = axes()
    ax.plot([1, 2])
    png(drawing, tmp_path / "a.png")
    assert pictures(tmp_path / "a.png", "a line").source.startswith("data:image/png;base64,iVBOR")


@pytest.mark.parametrize(
    ("missing", "make"), [("matplotlib", axes), ("jinja2", lambda: page("t", [], []))]
)
def test_without_its_library_one_line_names_the_extra(missing, make, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    with pytest.raises(UserError, match=r"fewstep\[report\]"):
        make()


def test_drawing_leaves_the_users_own_style_alone():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    svg_bytes()
    assert dict(mpl.rcParams) == before
