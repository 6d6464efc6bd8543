"""Pictures of samples beside the data they should be like, drawn by the kind of data they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from torch import Tensor

from fewstep.base import figures
from fewstep.base.errors import UserError
from fewstep.data.pictures import fields, numbers, panels, points, series, sketch
from fewstep.data.pictures.look import Look, Rows, rows_of_data
from fewstep.data.units import Units

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

__all__ = ["DPI", "HINT", "Look", "Rows", "draw", "figure", "rows_of_data"]

DPI = 110
_STYLE: Any = {
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.formatter.useoffset": False,  # 101325, and not 325 beside "+1.01e5"
    "axes.formatter.limits": (-4, 6),
    "text.parse_math": False,  # a column may be called "$"
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
}
_DRAWINGS = {
    "tiles": fields.tiles,
    "fields": fields.fields,
    "series": series.series,
    "sets": points.sets,
    "numbers": numbers.pairs,
    "plane": points.plane,
}
HINT = "no axes and no data beside: pip install 'fewstep[report]' draws them"


def draw(path: Path | IO[bytes], groups: Sequence[Rows], look: Look) -> str:
    """Writes samples, and what stands beside them, as one PNG; what it shows, for a message.

    Pictures are tiles without a frame, as many as there are. Without matplotlib it is a sketch of
    the first group. Raises ValueError for NaN and infinity.
    """
    samples = groups[0]
    _check(groups)
    if look.black_and_white is not None:
        sketch.save(path, _to_greys(samples.x, look))
        return ""
    try:
        drawing, about = figure(groups, look)
    except (UserError, ImportError):  # matplotlib is not there, or does not work
        return f"{_sketch(path, samples.x, look)}{HINT}"
    figures.png(drawing, path, DPI)
    return about


def figure(groups: Sequence[Rows], look: Look) -> tuple[Drawing, str]:
    """The groups as a drawing by matplotlib, and what it shows in words.

    Raises UserError without matplotlib, ValueError for NaN and infinity.
    """
    _check(groups)
    if look.black_and_white is not None:
        groups = [replace(rows, x=_to_greys(rows.x, look)) for rows in groups]
    with figures.style(_STYLE):
        drawing, about = _DRAWINGS[look.kind](groups, look)
        if look.kind != "tiles":
            panels.entitle(drawing, about)
        return drawing, "; ".join(about)


def _check(groups: Sequence[Rows]) -> None:
    if not all(bool(rows.x.isfinite().all()) for rows in groups):
        raise ValueError("the samples hold NaN or infinity")


def _to_greys(x: Tensor, look: Look) -> Tensor:
    """Samples with black at -1 and white at 1."""
    assert look.black_and_white is not None
    low, high = look.black_and_white
    return Units((low + high) / 2, (high - low) / 2).to_model(x)


def _sketch(path: Path | IO[bytes], x: Tensor, look: Look) -> str:
    """Writes the samples without axes; what is to be known of them."""
    if sketch.is_tiles(x):
        low, high = float(x.min()), float(x.max())
        sketch.save(path, (2 * (x - low) / ((high - low) or 1.0) - 1).float())
        return f"black is {low:.4g} and white {high:.4g}, the lowest and highest value; "
    sketch.save(path, look.units.to_model(x))
    is_cut = x[0].numel() > 2 and len(x) > sketch.CURVES
    return f"{sketch.CURVES} of {len(x)} samples are shown; " if is_cut else ""
