"""Self-contained HTML pages with figures and tables: nothing is fetched, no script runs, one file
is the report.
"""

from fewstep.analysis.report.figures import COLOURS, INK, axes, png, svg
from fewstep.analysis.report.page import Figure, Section, Table, page, pictures, write

__all__ = [
    "COLOURS",
    "INK",
    "Figure",
    "Section",
    "Table",
    "axes",
    "page",
    "pictures",
    "png",
    "svg",
    "write",
]
