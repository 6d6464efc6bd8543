"""What the drawings share: a sheet of panels, its title, names, ends of axes and ticks."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fewstep.base.errors import one_line
from fewstep.base.figures import COLOURS
from fewstep.data.pictures.look import Look, Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing
    from matplotlib.gridspec import GridSpec

CHANNELS = 6  # of series and fields that are drawn
LEAST_DOTS = 200  # of a group that has them, however few another has
ROOM = 0.02  # of the range: room beside the lowest and highest value

Result = tuple["Drawing", list[str]]


def sheet(
    rows: int,
    columns: int,
    cell: tuple[float, float],
    gap: tuple[float, float] = (0.2, 0.25),
    left: float = 0.85,
    right: float = 0.15,
    ratios: Sequence[float] | None = None,
) -> tuple[Drawing, GridSpec]:
    """A drawing and its grid: cells, gaps and margins in inches; the title has the top.

    By hand: matplotlib's own layouts draw everything twice or more.
    """
    from matplotlib.figure import Figure

    top, bottom = 0.62, 0.45
    across = cell[0] * (sum(ratios) if ratios else columns)
    width = left + right + across + gap[0] * (columns - 1)
    height = top + bottom + rows * cell[1] + (rows - 1) * gap[1]
    drawing = Figure(figsize=(width, height))
    grid = drawing.add_gridspec(
        rows,
        columns,
        left=left / width,
        right=1 - right / width,
        top=1 - top / height,
        bottom=bottom / height,
        wspace=gap[0] / (across / columns),
        hspace=gap[1] / cell[1],
        width_ratios=ratios,
    )
    return drawing, grid


def entitle(drawing: Drawing, about: Sequence[str]) -> None:
    """Writes above the panels what they show, on at most three lines."""
    width, height = drawing.get_size_inches()
    lines = textwrap.wrap("; ".join(about), int(width * 17), max_lines=3, placeholder=" ...")
    place: Any = {"x": 0.1 / width, "y": 1 - 0.08 / height, "ha": "left", "va": "top"}
    drawing.suptitle("\n".join(lines), fontsize=8, **place)


def short(name: str, most: int = 22) -> str:
    """A name of the user's that fits beside an axis."""
    name = one_line(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def colours(groups: Sequence[Rows]) -> list[str]:
    """Of each group: data have one of their own."""
    data, others = COLOURS[1], COLOURS[:1] + COLOURS[2:]
    return [data if g.is_data else others[k % len(others)] for k, g in enumerate(groups)]


def how_many(rows: Rows, n: int) -> str:
    """How many of how many are drawn."""
    total = max(rows.total, len(rows.x))
    return f"{rows.name}: {f'{n:,} of' if n < total else 'all'} {total:,}"


def left_out(look: Look, most: int, noun: str) -> list[str]:
    """Words that name what does not fit, where there is anything."""
    others = [short(column.name) for column in look.columns[most:]]
    if not others:
        return []
    names = ", ".join(others[:3]) + (", ..." if others[3:] else "")
    return [f"{most} of {len(look.columns)} {noun}, without {names}"]


def dots(arrays: Sequence[np.ndarray], most: int) -> list[int]:
    """How many dots each group has: as many as the others, so that clouds are equally dense."""
    least = max(LEAST_DOTS, min(map(len, arrays)))
    return [min(len(x), most, least) for x in arrays]


def ends(*arrays: np.ndarray) -> tuple[float, float]:
    """The lowest and highest value; of a constant, ends around it."""
    real = [part for part in arrays if part.size and not np.isnan(part).all()]
    if not real:
        return 0.0, 1.0
    low, high = min(map(np.nanmin, real)), max(map(np.nanmax, real))
    if high <= low:
        room = 0.5 * abs(low) or 0.5
        return float(low - room), float(high + room)
    return float(low), float(high)


def wider(low: float, high: float, by: float = ROOM) -> tuple[float, float]:
    return low - by * (high - low), high + by * (high - low)


def span(values: np.ndarray) -> str:
    """The range of the values in words."""
    if np.isnan(values).all():
        return "no value"
    return f"{np.nanmin(values):.4g} .. {np.nanmax(values):.4g}"


def ticks(ax: Axes, x: int = 4, y: int = 4) -> None:
    """About so many ticks of each axis; of none there are no lines either, and it is quick."""
    from matplotlib.ticker import MaxNLocator, NullLocator

    for axis, count in ((ax.xaxis, x), (ax.yaxis, y)):
        axis.set_major_locator(MaxNLocator(count) if count else NullLocator())
    ax.tick_params(length=2)
