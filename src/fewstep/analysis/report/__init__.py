"""Self-contained HTML pages with figures and tables, in one file without scripts or downloads."""

from fewstep.analysis.report.line import line
from fewstep.analysis.report.page import Figure, Section, Table, page, pictures, write
from fewstep.analysis.report.samples import Origin, samples
from fewstep.base.figures import COLOURS, INK, axes, png, svg
from fewstep.base.table import text_table

__all__ = [
    "COLOURS",
    "INK",
    "Figure",
    "Origin",
    "Section",
    "Table",
    "axes",
    "line",
    "page",
    "pictures",
    "png",
    "samples",
    "svg",
    "text_table",
    "write",
]
