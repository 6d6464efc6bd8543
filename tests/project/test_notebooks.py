"""The notebooks: valid, without outputs, on what a reader has; `python -m tests.docs` runs them."""

from __future__ import annotations

import ast
import re
import sys

import pytest

from tests.docs import notebooks
from tests.docs.pages import ROOT

KEYS = {
    "code": {"cell_type", "execution_count", "id", "metadata", "outputs", "source"},
    "markdown": {"cell_type", "id", "metadata", "source"},
}
ALL = pytest.mark.parametrize("path", notebooks.NOTEBOOKS, ids=lambda path: path.stem)


@ALL
def test_a_notebook_is_valid_and_holds_no_output(path):
    """nbformat 4.5, written so that a changed line of a cell is a changed line of the file."""
    book = notebooks.read(path)
    assert book == notebooks.cleared(book), (
        f"clear its outputs: jupyter nbconvert --clear-output --inplace {path.name}"
    )
    assert path.read_text(encoding="utf-8") == notebooks.write(book)
    assert set(book) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    names = [cell["id"] for cell in book["cells"]]
    assert len(set(names)) == len(names)
    for cell in book["cells"]:
        assert set(cell) == KEYS[cell["cell_type"]]
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
        lines = "".join(cell["source"]).splitlines(keepends=True)
        assert cell["source"] == lines, "a line of the cell is an item of its source"


@ALL
def test_a_notebook_needs_no_jupyter_and_its_links_lead_somewhere(path):
    known = {"fewstep", "matplotlib", "torch", *sys.stdlib_module_names}
    for cell in notebooks.read(path)["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            for link in re.findall(r"\]\(([^)#]+)", text):
                assert (path.parent / link).exists(), link
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                assert {name.name.partition(".")[0] for name in node.names} <= known
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] in known


def test_a_cell_gives_the_html_of_its_last_value(tmp_path):
    class Page:
        def _repr_html_(self):
            return "<b>here</b>"

    piece = notebooks.Piece(tmp_path / "a.ipynb", 7, "cell", "x = 2\npage")
    scope = {"page": Page()}
    assert notebooks.run_cell(piece, scope) == "<b>here</b>"
    assert scope["x"] == 2
    with pytest.raises(ZeroDivisionError) as caught:
        notebooks.run_cell(piece._replace(text="x = 1\nx / 0"), scope)
    assert caught.traceback[-1].lineno == 7  # counted from 0: the file's line 8


def test_the_method_of_the_story_is_under_60_lines():
    path = ROOT / "notebooks" / "your_method.ipynb"
    texts = [piece.text for piece in notebooks.pieces(path)]
    own = next(text for text in texts if "class AllGaps" in text)
    assert len([line for line in own.splitlines() if line.strip()]) < 60
