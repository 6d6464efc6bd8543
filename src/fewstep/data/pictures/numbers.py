"""Rows of numbers by matplotlib: histograms, bars and scatter of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fewstep.data.columns import Column
from fewstep.data.pictures.look import Look, Rows
from fewstep.data.pictures.panels import (
    Result,
    colours,
    dots,
    ends,
    how_many,
    left_out,
    sheet,
    short,
    ticks,
    wider,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 6  # of a table that are drawn
DOTS = 1000  # of each group in a pair of columns
BINS = 40  # at most, and fewer of few rows
VALUES = 20  # whole numbers up to which each has a bar
TAIL = 0.005  # of the samples on each side may lie outside the axes, where the data end before
_STEPS = 0.6180339887, 0.7548776662  # multiples of these, modulo 1, are even and look random
FAR = 1.5  # times the range that an axis has without them: less is no reason to cut


def limits(values: Sequence[np.ndarray], groups: Sequence[Rows]) -> tuple[float, float]:
    """The ends of an axis: all of the data, and the samples but a few that lie far away."""
    low, high = ends(*values)
    inner = []
    for x, rows in zip(values, groups, strict=True):
        x = x[~np.isnan(x)]
        inner.append(x if rows.is_data or not x.size else np.quantile(x, (TAIL, 1 - TAIL)))
    least, most = ends(*inner)
    if high - low > FAR * (most - least):
        low, high = wider(least, most, 0.1)
    return wider(low, high)


def outside(arrays: Sequence[np.ndarray], groups: Sequence[Rows], reach: np.ndarray) -> list[str]:
    """How many rows of each group lie outside the axes; reach `[D, 2]`."""
    words = []
    for x, rows in zip(arrays, groups, strict=True):
        far = int(((x < reach[:, 0]) | (x > reach[:, 1])).any(1).sum())
        if far:
            words.append(f"{far:,} of {rows.name} lie outside the axes")
    return words


def pairs(groups: Sequence[Rows], look: Look) -> Result:
    """Histograms of the columns on the diagonal, bars of categories, and dots of pairs below."""
    columns = look.columns[:COLUMNS]
    d = len(columns)
    arrays = [look.values(rows)[:, :d] for rows in groups]
    axes_of = [_Axis.of([x[:, k] for x in arrays], groups, columns[k]) for k in range(d)]
    shades = colours(groups)
    counts = dots(arrays, DOTS)
    size = {1: 4.2, 2: 2.4, 3: 1.9}.get(d, 1.4)
    cell = (size, 2.6 if d == 1 else size)
    drawing, grid = sheet(d, d, cell, gap=(0.12, 0.12), right=0.15 if d > 1 else 1.1)
    for row in range(d):
        for column in range(row + 1):
            ax = drawing.add_subplot(grid[row, column])
            if row == column:
                axes_of[row].bars(ax, [x[:, row] for x in arrays], shades)
            else:
                both = axes_of[column], axes_of[row]
                pair = [x[:n, (column, row)] for x, n in zip(arrays, counts, strict=True)]
                _scatter(ax, pair, both, shades)
            _label(ax, axes_of, row, column)
    _legend(drawing, groups, shades)
    about = [how_many(rows, len(x)) for rows, x in zip(groups, arrays, strict=True)]
    if look.is_set:
        about = [f"{rows.name}: elements of {len(rows.x)} sets" for rows in groups]
    if d > 1 and max(map(len, arrays)) > max(counts):
        about.append(f"dots: the first {max(counts):,}")
    about += outside(arrays, groups, np.array([one.reach for one in axes_of]))
    return drawing, [*about, *left_out(look, COLUMNS, "columns")]


@dataclass(frozen=True, eq=False)
class _Axis:
    """One column: where its values are on an axis, and its bars."""

    column: Column
    reach: tuple[float, float]
    marks: np.ndarray | None  # the values, where each has a bar

    @staticmethod
    def of(values: Sequence[np.ndarray], groups: Sequence[Rows], column: Column) -> _Axis:
        low, high = limits(values, groups)
        marks = None
        if column.type == "category":
            marks = np.arange(len(column.categories))
        elif column.type in ("int", "bool") and high - low <= VALUES:
            marks = np.arange(np.ceil(low), np.floor(high) + 1)
        if marks is not None and len(marks):
            return _Axis(column, (marks[0] - 0.6, marks[-1] + 0.6), marks)
        return _Axis(column, (low, high), None)

    def bars(self, ax: Axes, values: Sequence[np.ndarray], shades: Sequence[str]) -> None:
        """Shares of the values: the last group as a line, the others filled; or bars by value."""
        n = len(values)
        for k, (x, colour) in enumerate(zip(values, shades, strict=True)):
            x = x[~np.isnan(x)]
            total = max(len(x), 1)
            if self.marks is not None:
                share = np.array([(np.rint(x) == mark).sum() for mark in self.marks]) / total
                ax.bar(self.marks + 0.8 * ((k + 0.5) / n - 0.5), share, 0.8 / n, color=colour)
                continue
            bins = int(np.clip(np.sqrt(min(map(len, values))), 10, BINS))
            counts, edges = np.histogram(x, bins, self.reach)
            is_line = k == n - 1 and n > 1
            style: Any = {"fill": not is_line, "alpha": 1.0 if is_line else 0.55}
            ax.stairs(counts / total, edges, color=colour, lw=1.2, **style)
        ax.set_xlim(self.reach)
        ax.set_ylim(bottom=0)

    def beside(self, x: np.ndarray, group: int, n: int, step: float) -> np.ndarray:
        """The values of a group beside its neighbours', spread where they would be one dot."""
        if self.marks is None:
            return x
        spread = (np.arange(len(x)) * step % 1 - 0.5) * 0.6 / n
        return np.rint(x) + 0.8 * ((group + 0.5) / n - 0.5) + spread

    def set_ticks(self, axis: Any) -> None:
        from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator

        axis.set_major_locator(MaxNLocator(4, integer=self.marks is not None))
        if self.column.type == "category" and self.marks is not None and len(self.marks) <= 8:
            axis.set_major_locator(FixedLocator(self.marks.tolist()))
            axis.set_major_formatter(
                FixedFormatter([short(name, 8) for name in self.column.categories])
            )


def _scatter(
    ax: Axes, pairs: Sequence[np.ndarray], axes: tuple[_Axis, _Axis], shades: Sequence[str]
) -> None:
    n = len(pairs)
    for k in reversed(range(n)):  # samples above data
        x, y = (axis.beside(pairs[k][:, i], k, n, _STEPS[i]) for i, axis in enumerate(axes))
        alpha = 0.45 if n > 1 else 0.6
        ax.plot(x, y, ".", color=shades[k], ms=2.6, mew=0, alpha=alpha)
    ax.set(xlim=axes[0].reach, ylim=axes[1].reach)


def _label(ax: Axes, axes: Sequence[_Axis], row: int, column: int) -> None:
    """Names and numbers at the sheet's edges, shares beside the histograms."""
    d = len(axes)
    lowest, first = row == d - 1, column == 0
    ticks(ax, 0, 0)
    ax.tick_params(length=2)
    if lowest:
        axes[column].set_ticks(ax.xaxis)
        ax.set_xlabel(short(axes[column].column.name))
    if first and row:
        axes[row].set_ticks(ax.yaxis)
        ax.set_ylabel(short(axes[row].column.name))
    if row == column:
        ax.spines["left"].set_visible(False)
        ax.set_ylabel("share" if first else "")


def _legend(drawing: Any, groups: Sequence[Rows], shades: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    height = drawing.get_size_inches()[1]
    handles = [Patch(color=shade, label=g.name) for g, shade in zip(groups, shades, strict=True)]
    drawing.legend(handles=handles, loc="upper right", bbox_to_anchor=(1, 1 - 0.45 / height))
