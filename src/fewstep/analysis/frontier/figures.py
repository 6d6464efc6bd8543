"""The figures: quality against evaluations and latency, and what the samples look like."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from fewstep.analysis import report
from fewstep.analysis.frontier.points import MULTISTEP, Judge, Point
from fewstep.analysis.metrics import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

_MARKS = ("o", "s", "^", "D", "v", "P")
_ROOM = 1.12  # least ratio of neighbouring numbers below an axis


def frontier(points: Sequence[Point], judge: Judge, about: str) -> Drawing:
    """Two plots of the metric with its 95 % intervals; filled marks are worth their cost, the band
    is the floor.
    """
    drawing, (left, right) = report.axes(2, width=9.0, height=4.0)
    _plot(left, points, judge, lambda p: p.evaluations, lambda p: p.worth)
    _plot(right, points, judge, lambda p: p.one.median if p.one else math.nan, lambda p: p.quick)
    shown: list[int] = []
    for tick in sorted({p.evaluations for p in points}):
        if not shown or tick >= _ROOM * shown[-1]:
            shown.append(tick)
    left.set_xticks(shown, [str(t) for t in shown])
    left.set_xticks([], minor=True)
    left.set_xlabel("network evaluations for a sample")
    right.set_xlabel("milliseconds of a call for one sample")
    arrow = "lower" if judge.sign > 0 else "higher"
    left.set_ylabel(f"{judge.metric} ({arrow} is better)")
    right.set_ylim(left.get_ylim())
    right.tick_params(labelleft=False)
    handles, labels = left.get_legend_handles_labels()
    drawing.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(3, len(labels)),
        frameon=False,
        fontsize=8,
    )
    drawing.suptitle(about, fontsize=9)
    return drawing


def series(points: Sequence[Point]) -> list[list[Point]]:
    """The points that one line joins: of a subject and a sampler, by evaluations."""
    names = dict.fromkeys(p.name for p in points)
    return [
        sorted((p for p in points if p.name == name), key=lambda p: p.evaluations) for name in names
    ]


def _plot(
    ax: Axes,
    points: Sequence[Point],
    judge: Judge,
    cost: Callable[[Point], float],
    marked: Callable[[Point], bool],
) -> None:
    found = [p.results[judge.metric] for p in points]
    logarithmic(ax, found)
    subjects = list(dict.fromkeys(id(p.subject) for p in points))
    for line in series(points):
        colour = report.COLOURS[subjects.index(id(line[0].subject)) % len(report.COLOURS)]
        samplers = list(dict.fromkeys(p.sampler for p in points if p.subject is line[0].subject))
        mark = _MARKS[samplers.index(line[0].sampler) % len(_MARKS)]
        x, results = [cost(p) for p in line], [p.results[judge.metric] for p in line]
        solid = line[0].sampler == MULTISTEP
        style: dict[str, Any] = {
            "color": colour,
            "linestyle": "-" if solid else ":",
            "linewidth": 1.5 if solid else 1,
        }
        ax.plot(x, [r.value for r in results], alpha=1.0 if solid else 0.5, zorder=2, **style)
        sure = [(a, r) for a, r, p in zip(x, results, line, strict=True) if p.offered]
        bars = _bars(ax, [r for _, r in sure])
        ax.errorbar(
            [a for a, _ in sure],
            [r.value for _, r in sure],
            bars,
            fmt="none",
            ecolor=colour,
            elinewidth=0.8,
        )
        for place, r, p in zip(x, results, line, strict=True):
            face, size = (colour, 6.0) if marked(p) else ("white", 4.5)
            dot: dict[str, Any] = {
                "marker": mark,
                "color": colour,
                "markerfacecolor": face,
                "markersize": size,
            }
            ax.plot(place, r.value, alpha=1.0 if p.offered else 0.4, zorder=3, **dot)
        ax.plot([], [], marker=mark, markerfacecolor="white", label=line[0].name, **style)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(_plain)
    ax.xaxis.set_minor_formatter(_sparse)
    ax.tick_params(axis="x", which="minor", labelsize=7)
    _numbers(ax, [p for p in points if marked(p)], judge, cost)
    _band(ax, found[0])


def _plain(value: float, _: object = None) -> str:
    return f"{value:g}"


def _sparse(value: float, _: object = None) -> str:
    """The numbers of a logarithmic axis between its powers of ten: those of 2 and 5."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""


def _numbers(
    ax: Axes, points: Sequence[Point], judge: Judge, cost: Callable[[Point], float]
) -> None:
    """The number of evaluations beside each marked point."""
    for p in points:
        place = (cost(p), p.results[judge.metric].value)
        ax.annotate(
            str(p.evaluations), place, xytext=(5, 5), textcoords="offset points", fontsize=7.5
        )


def logarithmic(ax: Axes, results: Sequence[Result]) -> None:
    """A logarithmic axis where the values are above 0 and far apart; linear around 0 where some are
    not above it.
    """
    values = [r.value for r in results]
    if max(values) < 6 * max(min(values), 1e-300) and min(values) > 0:
        return
    if min(values) > 0:
        ax.set_yscale("log")
        ax.set_ylim(min(values) / 1.8, max(values) * 1.6)
    else:
        error = float(np.median([r.error or 0.0 for r in results])) or 1e-3
        told = results[0].floor_interval  # inside the floor's interval nothing is told apart
        ax.set_yscale("symlog", linthresh=max(error, 1e-6, told[1] if told else 0.0))


def _bars(ax: Axes, results: Sequence[Result]) -> list[list[float]]:
    """Down and up from each value to its interval; none of a single draw, and none below a
    logarithmic axis.
    """
    ends = [r.interval or (r.value, r.value) for r in results]
    least = ax.get_ylim()[0] if ax.get_yscale() == "log" else -math.inf
    down = [r.value - max(low, least) for r, (low, _) in zip(results, ends, strict=True)]
    return [
        [max(d, 0.0) for d in down],
        [high - r.value for r, (_, high) in zip(results, ends, strict=True)],
    ]


def _band(ax: Axes, result: Result) -> None:
    """The floor's 95 % interval, where there is one."""
    if result.floor is None:
        return
    bottom, top = ax.get_ylim()
    low, high = result.floor_interval or (result.floor, result.floor)
    kept = max(low, bottom) if ax.get_yscale() == "log" else low
    if high > kept:
        ax.axhspan(
            kept,
            high,
            color="#999999",
            alpha=0.16,
            zorder=0,
            linewidth=0,
            label="held-out data, 95 %",
        )
    if result.floor > (bottom if ax.get_yscale() == "log" else -math.inf):
        ax.axhline(result.floor, color="#777777", linewidth=0.8, zorder=1)
    if ax.get_yscale() == "log":
        ax.set_ylim(bottom, top)


def grid(rows: Sequence[tuple[str, Tensor]]) -> Drawing:
    """Pictures `[N, C, H, W]` in [-1, 1], a named row for each: column i began at the same noise in
    all.
    """
    first = rows[0][1]
    high, wide, gap = first.shape[2], first.shape[3], max(1, first.shape[3] // 16)
    sheet = np.ones((len(rows) * (high + gap), first.shape[0] * (wide + gap), 3))
    for i, (_, x) in enumerate(rows):
        tiles = ((x.clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).double().cpu().numpy()
        for j, tile in enumerate(tiles):
            top, left = i * (high + gap), j * (wide + gap)
            sheet[top : top + high, left : left + wide] = tile
    width = 8.0
    drawing, (ax,) = report.axes(
        1, width=width, height=0.4 + (width - 1.6) * sheet.shape[0] / sheet.shape[1]
    )
    ax.imshow(sheet, interpolation="nearest")
    ax.set_yticks(
        [i * (high + gap) + high / 2 for i in range(len(rows))], [name for name, _ in rows]
    )
    ax.set_xticks([])
    ax.grid(False)
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    return drawing


def clouds(rows: Sequence[tuple[str, Tensor]]) -> Drawing:
    """Points `[N, 2]` of each row in a plot of its own, all on the same axes."""
    drawing, plots = report.axes(len(rows), width=min(9.0, 1.8 * len(rows)), height=2.1)
    reach = 1.1 * max(float(x.abs().quantile(0.995)) for _, x in rows)
    for ax, (name, x) in zip(plots, rows, strict=True):
        ax.plot(
            *x.double().cpu().numpy().T,
            linestyle="none",
            marker=".",
            markersize=1.2,
            color=report.INK,
        )
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
        ax.set_title(name, fontsize=8)
    return drawing
