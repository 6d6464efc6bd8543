"""Tables of words and numbers for a terminal, and which columns are numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

MOST_LISTED = 12  # texts of a line
_NUMBER = re.compile(r"\(?[-+±\u2212]?(\.?\d|(inf|nan)\b)|-$")


def column_kinds(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The kind of each column: "number" where all its cells are numbers, else "words"."""
    kinds = []
    for i in range(len(head)):
        cells = [row[i] for row in rows if i < len(row) and row[i]]
        is_number = bool(cells) and all(_NUMBER.match(cell) for cell in cells)
        kinds.append("number" if is_number else "words")
    return kinds


def text_table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    """The rows below the head, in columns as wide as needed: numbers to the right, words left.

    A row may be shorter than the head. No spaces at the ends of lines.
    """
    columns = column_kinds(head, rows)
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines if i < len(line)) for i in range(len(head))]

    def pad(cell: str, i: int) -> str:
        return cell.rjust(widths[i]) if columns[i] == "number" else cell.ljust(widths[i])

    lines_of_cells = [[pad(cell, i) for i, cell in enumerate(line)] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in lines_of_cells)


def first_of(texts: list[str]) -> str:
    """The first of the texts in a line, and how many more there are."""
    more = len(texts) - MOST_LISTED
    line = ", ".join(texts[:MOST_LISTED])
    return f"{line} and {more} more" if more > 0 else line
