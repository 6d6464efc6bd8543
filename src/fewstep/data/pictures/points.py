"""Points by matplotlib: of the plane, and of sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fewstep.data.pictures.look import Look, Rows
from fewstep.data.pictures.numbers import limits, outside
from fewstep.data.pictures.panels import (
    Result,
    colours,
    dots,
    ends,
    how_many,
    sheet,
    short,
    ticks,
    wider,
)

POINTS = 5000  # of each group in the plane
SETS = 10  # of a group


def plane(groups: Sequence[Rows], look: Look) -> Result:
    """The points of each group in a panel of its own, all on the same axes."""
    arrays = [look.values(rows) for rows in groups]
    reach = [limits([x[:, axis] for x in arrays], groups) for axis in (0, 1)]
    wide, high = (high - low for low, high in reach)
    is_even = 0.1 < wide / high < 10
    cell = (3.0, float(np.clip(3.0 * high / wide, 1.2, 4.5)) if is_even else 3.0)
    counts = dots(arrays, POINTS)
    drawing, grid = sheet(1, len(groups), cell)
    for k, (x, colour) in enumerate(zip(arrays, colours(groups), strict=True)):
        ax = drawing.add_subplot(grid[0, k])
        ax.plot(*x[: counts[k]].T, ".", color=colour, markersize=2.6, mew=0, alpha=0.5)
        ax.set(xlim=reach[0], ylim=reach[1], xlabel=look.columns[0].name)
        if is_even:
            ax.set_aspect("equal")
        ax.set_title(groups[k].name, loc="left", fontweight="bold")
        ticks(ax)
        ax.tick_params(labelleft=k == 0, length=2)
        if k == 0:
            ax.set_ylabel(look.columns[1].name)
    about = [how_many(rows, n) for rows, n in zip(groups, counts, strict=True)]
    return drawing, [*about, *outside(arrays, groups, np.array(reach))]


def sets(groups: Sequence[Rows], look: Look) -> Result:
    """Small panels with the points of a set each, as many rows of them for each group."""
    arrays = [look.values(rows)[:SETS] for rows in groups]
    per_row = 5
    lines = [-(-len(x) // per_row) for x in arrays]
    drawing, grid = sheet(sum(lines), per_row, (1.3, 1.3), gap=(0.1, 0.1))
    limits = [wider(*ends(*(x[..., axis] for x in arrays)), 0.06) for axis in (0, 1)]
    shades = colours(groups)
    top = 0
    for k, x in enumerate(arrays):
        for number, points in enumerate(x):
            row, column = top + number // per_row, number % per_row
            ax = drawing.add_subplot(grid[row, column])
            ax.plot(points[:, 0], points[:, 1], ".", color=shades[k], markersize=3)
            ax.set(xlim=limits[0], ylim=limits[1])
            ax.spines[:].set_visible(True)
            ax.grid(False)
            ticks(ax, 3 * (row == sum(lines) - 1), 3 * (column == 0))
            size = int((~np.isnan(points[:, 0])).sum())
            ax.text(0.97, 0.97, f"{size}", transform=ax.transAxes, ha="right", va="top", size=6)
            if column == 0:
                ax.set_ylabel(f"{short(groups[k].name, 18)}\n{short(look.columns[1].name, 18)}")
            if row == sum(lines) - 1:
                ax.set_xlabel(short(look.columns[0].name, 18))
        top += lines[k]
    about = [how_many(rows, len(x)) for rows, x in zip(groups, arrays, strict=True)]
    if len(look.columns) > 2:
        about.append(f"the first two of {len(look.columns)} coordinates")
    return drawing, [*about, "in the corners: points of the set"]
