"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from fewstep.analysis.report.page import Table


def text_table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    """The rows below the head, in columns as wide as needed: numbers to the right, words left.

    A row may be shorter than the head. No spaces at the ends of lines.
    """
    columns = Table(head, rows).columns
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines if i < len(line)) for i in range(len(head))]

    def pad(cell: str, i: int) -> str:
        return cell.rjust(widths[i]) if columns[i] == "number" else cell.ljust(widths[i])

    lines_of_cells = [[pad(cell, i) for i, cell in enumerate(line)] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in lines_of_cells)
