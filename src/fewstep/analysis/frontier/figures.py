"""The figure: quality against evaluations and latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fewstep.analysis import report
from fewstep.analysis.frontier.points import MULTISTEP, OWN, Judge, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

_MARKS = "os^DvP"


def frontier(points: Sequence[Point], judge: Judge, about: str) -> Drawing:
    """Two plots of the metric with 95 % intervals: by evaluations (filled: `worth`), by latency."""
    drawing, (left, right) = report.axes(2, width=9.0, height=4.0)
    _plot(left, points, judge.metric, lambda p: p.evaluations, lambda p: p.worth)
    _plot(right, points, judge.metric, lambda p: p.one.median, lambda p: p.quick)
    better = "lower" if judge.sign > 0 else "higher"
    left.set(xlabel="network evaluations", ylabel=f"{judge.metric} ({better} is better)")
    right.set(xlabel="milliseconds for one sample", ylim=left.get_ylim())
    right.tick_params(labelleft=False)
    handles, labels = left.get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    drawing.suptitle(about, fontsize=9)
    return drawing


def _plot(
    ax: Axes,
    points: Sequence[Point],
    metric: str,
    cost: Callable[[Point], float],
    is_filled: Callable[[Point], bool],
) -> None:
    """A line for each subject (colour) and sampler (mark), and the floor with its interval."""
    results = {p: p.results[metric] for p in points}
    subjects = list(dict.fromkeys(p.subject.name for p in points))
    samplers = list(dict.fromkeys(p.sampler for p in points))
    for name in dict.fromkeys(p.name for p in points):
        line = sorted((p for p in points if p.name == name), key=lambda p: p.evaluations)
        colour = report.COLOURS[subjects.index(line[0].subject.name) % len(report.COLOURS)]
        mark = _MARKS[samplers.index(line[0].sampler) % len(_MARKS)]
        x, y = [cost(p) for p in line], [results[p].value for p in line]
        ends = [results[p].interval or (results[p].value,) * 2 for p in line]
        bars = np.abs(np.array(ends).T - y)
        style: dict[str, Any] = {"color": colour, "marker": mark, "markersize": 5}
        dash = "-" if line[0].sampler in (MULTISTEP, OWN) else ":"
        ax.errorbar(
            x, y, bars, label=name, linestyle=dash, linewidth=1, markerfacecolor="white", **style
        )
        for p in filter(is_filled, line):
            place = cost(p), results[p].value
            ax.plot(*place, zorder=3, **style)
            ax.annotate(str(p.evaluations), place, (5, 5), textcoords="offset points")
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    floor = next(iter(results.values()))
    if floor.floor_interval is not None:
        band: dict[str, Any] = {"color": "#999999", "alpha": 0.16, "linewidth": 0}
        ax.axhspan(*floor.floor_interval, label="held-out data, 95 %", **band)
    if floor.floor is not None:
        ax.axhline(floor.floor, color="#777777", linewidth=0.8)
    values = [r.value for r in results.values()]
    if min(values) <= 0:
        # Values inside the floor's interval do not differ, so that the axis is linear there.
        ax.set_yscale("symlog", linthresh=max(1e-3, *(floor.floor_interval or (0,))))
    elif max(values) >= 6 * min(values):
        ax.set_yscale("log")
        ax.set_ylim(min(values) / 1.8, max(values) * 1.6)
