"""docs/status.md is what the checks, the claims and docs/papers.md say now."""

from __future__ import annotations

from tests.project.status import GRADES, PAGE, page, papers


def test_the_page_is_current():
    assert PAGE.read_text() == page(), "python -m tests.project.status writes it anew"


def test_every_row_of_the_papers_has_a_grade():
    rows = papers()
    assert len(rows) > 50
    assert [row for row in rows if not row.grades] == []
    assert {grade for row in rows for grade in row.grades} == set(GRADES)
