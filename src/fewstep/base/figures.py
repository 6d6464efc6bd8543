"""Figures by matplotlib, in one style: no global state, and the same bytes for the same numbers."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fewstep.base.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

INK = "#333333"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a51a3", "#8c6d31")
"""Distinct also for the colour-blind (Okabe and Ito's, in an order of contrast)."""

_STYLE: Any = {
    "font.size": 9.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "errorbar.capsize": 2.5,
    "svg.hashsalt": "fewstep",
}


@contextmanager
def style(more: Any = None) -> Iterator[Any]:
    """matplotlib, in this style and with more of its settings; UserError where it is not there."""
    try:
        import matplotlib as mpl
        from cycler import cycler
    except ImportError:
        raise UserError("figures need matplotlib: pip install 'fewstep[report]'") from None
    colours: Any = {"axes.prop_cycle": cycler(color=COLOURS)}
    with mpl.rc_context({**_STYLE, **colours, **(more or {})}):
        yield mpl


def axes(
    columns: int = 1, *, width: float = 7.2, height: float = 3.2
) -> tuple[Drawing, list[Axes]]:
    """A drawing of `width` x `height` inches, plots side by side; UserError without matplotlib."""
    with style():
        from matplotlib.figure import Figure as Drawing

        drawing = Drawing(figsize=(width, height), layout="constrained")
        return drawing, list(drawing.subplots(1, columns, squeeze=False)[0])


def svg(drawing: Drawing) -> bytes:
    """The drawing as SVG, with letters as paths, so that it looks the same everywhere."""
    file = io.BytesIO()
    with style():
        drawing.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def png(drawing: Drawing, path: Path | IO[bytes], dpi: int = 200) -> None:
    """Writes the drawing at so many dots per inch; letters that the font lacks are boxes."""
    with style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        drawing.savefig(path, format="png", dpi=dpi, metadata={"Software": None})
