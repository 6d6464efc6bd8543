"""The notebooks: their code cells as pieces to run, with the line of the file where each begins."""

from __future__ import annotations

import ast
import contextlib
import json
import warnings
from pathlib import Path
from typing import Any

from tests.docs.pages import ROOT, Piece

NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
SOURCE = '   "source": ['


def read(path: Path) -> dict[str, Any]:
    """The notebook, which is JSON as `write` writes it, so that differences are of a line each."""
    book: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return book


def write(book: dict[str, Any]) -> str:
    """What Jupyter writes too: one line of a cell on a line of the file."""
    return json.dumps(book, indent=1, ensure_ascii=False) + "\n"


def cleared(book: dict[str, Any]) -> dict[str, Any]:
    """The notebook without what running it has left."""
    empty = {"outputs": [], "execution_count": None}
    cells = [
        {**cell, **empty, "metadata": {}} if cell["cell_type"] == "code" else cell
        for cell in book["cells"]
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {**book, "cells": cells, "metadata": about}


def pieces(path: Path) -> list[Piece]:
    """The code cells, in their order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    starts = [number + 2 for number, line in enumerate(lines) if line == SOURCE]
    cells = read(path)["cells"]
    assert len(starts) == len(cells), f"{path}: expected as {__name__}.write has it"
    return [
        Piece(path, line, "cell", "".join(cell["source"]))
        for line, cell in zip(starts, cells, strict=True)
        if cell["cell_type"] == "code"
    ]


def run_cell(piece: Piece, scope: dict[str, Any]) -> str:
    """Runs a cell as Jupyter does; returns the HTML of its last value, an animation for instance.

    Printed lines and figures go nowhere.
    """
    tree = ast.parse("\n" * (piece.line - 1) + piece.text, str(piece.page))
    last = tree.body[-1] if tree.body else None
    with contextlib.redirect_stdout(None), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*cannot be shown")
        if not isinstance(last, ast.Expr):
            exec(compile(tree, str(piece.page), "exec"), scope)
            return ""
        tree.body.pop()
        exec(compile(tree, str(piece.page), "exec"), scope)
        value = eval(compile(ast.Expression(last.value), str(piece.page), "eval"), scope)
        html = getattr(value, "_repr_html_", None)
        return html() or "" if html else ""
