"""The page of every method holds its composition: the code there makes the very method."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fewstep as fs
from fewstep.analysis.verify.papers import TOGETHER
from fewstep.base.options import names_of

PAGES = Path(__file__).parents[2] / "docs" / "methods"


@pytest.mark.parametrize("name", names_of(fs.methods))
def test_the_code_of_its_page_makes_the_method(name):
    page = (PAGES / f"{TOGETHER.get(name, name)}.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code is not None
    scope: dict[str, object] = {"fs": fs}
    exec(code[1], scope)
    assert scope[name if name in TOGETHER else "method"] == getattr(fs.methods, name)()


def test_every_row_of_the_overview_names_a_method_and_its_page():
    text = (PAGES / "README.md").read_text()
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|.*\((\w+)\.md\) \|$", text, re.MULTILINE)
    pages = {(name, page) for names, page in rows for name in re.findall(r"\w+", names)}
    assert pages <= {(name, TOGETHER.get(name, name)) for name in names_of(fs.methods)}
    assert len(pages) >= 11
