"""Series by matplotlib: curves, or bands of an ensemble, a panel for each channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fewstep.base.figures import COLOURS
from fewstep.data.pictures.look import Look, Rows, are_paired
from fewstep.data.pictures.panels import (
    CHANNELS,
    Result,
    colours,
    ends,
    how_many,
    left_out,
    sheet,
    short,
    span,
    ticks,
    wider,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = 8  # of a panel
PAIRED = 4  # of them where each has a colour
PLACES = 2000  # of a curve
ENSEMBLE = 20  # samples of one condition that make bands
FEW = 3  # rows of data that are lines on the bands


def series(groups: Sequence[Rows], look: Look) -> Result:
    """A panel for each channel and group: curves, or bands where all samples have one condition."""
    arrays = [look.values(rows) for rows in groups]
    length = arrays[0].shape[-1]
    arrays = [x[..., :PLACES] for x in arrays]
    count = min(len(look.columns), CHANNELS)
    samples = groups[0]
    is_ensemble = bool(samples.common) and len(samples.x) >= ENSEMBLE
    paired = are_paired(groups, PAIRED)
    most = PAIRED if paired else LINES
    # A few rows of data under the samples' one condition are what the bands are about.
    joint = is_ensemble and len(groups) == 2 and len(groups[1].x) <= FEW
    columns = 1 if joint else len(groups)
    drawing, grid = sheet(count, columns, (3.4, 2.2 if count == 1 else 1.3), gap=(0.2, 0.3))
    shades = colours(groups)
    for channel in range(count):
        low, high = _reach(arrays, channel, most, is_ensemble)
        for place in range(columns):
            ax = drawing.add_subplot(grid[channel, place])
            x = arrays[place][:, channel]
            if is_ensemble and len(x) > FEW:
                _bands(ax, x, shades[place])
            lines = x[: 3 if is_ensemble else most]
            _lines(ax, lines, shades[place], paired)
            if joint:
                _lines(ax, arrays[1][:, channel], shades[1], False, width=1.8)
            ax.set(xlim=(0, max(x.shape[1] - 1, 1)), ylim=(low, high))
            _edge(ax, channel == count - 1, place == 0, look.columns[channel].name)
            ax.set_title(f"all {len(x):,}: {span(x)}", loc="right", fontsize=6.5)
            if channel == 0:
                ax.set_title(groups[place].name, loc="left", fontweight="bold")
    about = _words_of_series(groups, look, is_ensemble, joint, most)
    if length > PLACES:
        about.append(f"places 0 to {PLACES - 1} of {length}")
    return drawing, [*about, *(["same colour: same condition"] if paired else [])]


def _words_of_series(
    groups: Sequence[Rows], look: Look, is_ensemble: bool, joint: bool, most: int
) -> list[str]:
    about = []
    for rows in groups:
        if is_ensemble and len(rows.x) > FEW:
            words = f"{len(rows.x):,} of one condition: median, 50 % and 90 %, 3 of them as lines"
            about.append(f"{rows.name}: {words}")
        else:
            about.append(how_many(rows, min(len(rows.x), most)))
    if joint:
        about[-1] += " of that condition, the red lines"
    return [*about, *left_out(look, CHANNELS, "channels")]


def _reach(
    arrays: Sequence[np.ndarray], channel: int, most: int, is_ensemble: bool
) -> tuple[float, float]:
    """The ends of the axis: of all that is drawn."""
    visible = []
    for x in arrays:
        if is_ensemble and len(x) > FEW:
            visible += [*_quantiles(x[:, channel], (0.05, 0.95)), x[:3, channel]]
        else:
            visible.append(x[:most, channel])
    return wider(*ends(*visible), 0.05)


def _quantiles(x: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Of each place, NaN where no row has it."""
    if not np.isnan(x).any():
        return np.quantile(x, levels, axis=0)
    result = np.full((len(levels), x.shape[1]), np.nan)
    there = ~np.isnan(x).all(0)
    result[:, there] = np.nanquantile(x[:, there], levels, axis=0)
    return result


def _bands(ax: Axes, x: np.ndarray, colour: str) -> None:
    lowest, low, middle, high, highest = _quantiles(x, (0.05, 0.25, 0.5, 0.75, 0.95))
    where = np.arange(x.shape[1])
    ax.fill_between(where, lowest, highest, color=colour, alpha=0.18, linewidth=0)
    ax.fill_between(where, low, high, color=colour, alpha=0.3, linewidth=0)
    ax.plot(where, middle, color=colour, linewidth=1.8)


def _lines(ax: Axes, x: np.ndarray, colour: str, paired: bool, width: float = 0.8) -> None:
    for k, line in enumerate(x):
        shade = COLOURS[k] if paired else colour
        ax.plot(line, color=shade, linewidth=width, alpha=0.8, marker="." if line.size < 8 else "")


def _edge(ax: Axes, is_lowest: bool, is_first: bool, name: str) -> None:
    """Ticks of a panel; their numbers and names stand at the sheet's left and lower edge alone."""
    ticks(ax, 4 if is_lowest else 0)
    ax.tick_params(labelleft=is_first)
    if is_lowest:
        ax.set_xlabel("place")
    if is_first:
        ax.set_ylabel(short(name, 24))
