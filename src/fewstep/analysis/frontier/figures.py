"""The figures: quality against evaluations and latency, and samples."""

from __future__ import annotations

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
_LEAST_RATIO = 1.12  # of neighbouring numbers below an axis


def frontier(points: Sequence[Point], judge: Judge, about: str) -> Drawing:
    """Two plots of the metric with 95 % intervals: by evaluations (filled: `worth`), by latency."""
    drawing, (left, right) = report.axes(2, width=9.0, height=4.0)
    _plot(left, points, judge, lambda p: p.evaluations, lambda p: p.worth)
    _plot(right, points, judge, lambda p: p.one.median, lambda p: p.quick)
    ticks: list[int] = []
    for count in sorted({p.evaluations for p in points}):
        if not ticks or count >= _LEAST_RATIO * ticks[-1]:
            ticks.append(count)
    left.set_xticks(ticks, [str(tick) for tick in ticks])
    left.set_xticks([], minor=True)
    left.set_xlabel("network evaluations for a sample")
    right.set_xlabel("milliseconds of a call for one sample")
    better = "lower" if judge.sign > 0 else "higher"
    left.set_ylabel(f"{judge.metric} ({better} is better)")
    right.set_ylim(left.get_ylim())
    right.tick_params(labelleft=False)
    handles, labels = left.get_legend_handles_labels()
    columns = min(3, len(labels))
    drawing.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8
    )
    drawing.suptitle(about, fontsize=9)
    return drawing


def _plot(
    ax: Axes,
    points: Sequence[Point],
    judge: Judge,
    cost: Callable[[Point], float],
    is_filled: Callable[[Point], bool],
) -> None:
    """A line for each subject (colour) and sampler (mark), and the floor."""
    results = [p.results[judge.metric] for p in points]
    _scale(ax, results)
    colours: dict[int, str] = {}
    marks: dict[str, str] = {}
    for name in dict.fromkeys(p.name for p in points):
        line = sorted((p for p in points if p.name == name), key=lambda p: p.evaluations)
        subject, sampler = line[0].subject, line[0].sampler
        colour = colours.setdefault(id(subject), report.COLOURS[len(colours) % len(report.COLOURS)])
        mark = marks.setdefault(sampler, _MARKS[len(marks) % len(_MARKS)])
        is_solid = sampler == MULTISTEP
        style: dict[str, Any] = {
            "color": colour,
            "linestyle": "-" if is_solid else ":",
            "linewidth": 1.5 if is_solid else 1.0,
        }
        x = [cost(p) for p in line]
        y = [p.results[judge.metric].value for p in line]
        ax.plot(x, y, alpha=1.0 if is_solid else 0.5, zorder=2, **style)
        for p, place, value in zip(line, x, y, strict=True):
            _point(ax, p, (place, value), p.results[judge.metric], mark, colour, is_filled(p))
        ax.plot([], [], marker=mark, markerfacecolor="white", label=name, **style)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(_sparse)
    ax.tick_params(axis="x", which="minor", labelsize=7)
    _floor(ax, results[0])


def _point(
    ax: Axes,
    point: Point,
    place: tuple[float, float],
    result: Result,
    mark: str,
    colour: str,
    is_filled: bool,
) -> None:
    """A mark, filled and with its number of evaluations or empty; faint if it is not on offer."""
    ax.plot(
        *place,
        marker=mark,
        color=colour,
        markerfacecolor=colour if is_filled else "white",
        markersize=6.0 if is_filled else 4.5,
        alpha=1.0 if point.on_offer else 0.4,
        zorder=3,
    )
    if point.on_offer and result.interval is not None:
        low, high = result.interval
        bar = [[result.value - low], [high - result.value]]
        ax.errorbar(*place, bar, fmt="none", ecolor=colour, elinewidth=0.8)
    if is_filled:
        ax.annotate(
            str(point.evaluations), place, xytext=(5, 5), textcoords="offset points", fontsize=7.5
        )


def _sparse(value: float, _: object = None) -> str:
    """The numbers of a logarithmic axis between its powers of ten: those of 2 and 5."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""


def _scale(ax: Axes, results: Sequence[Result]) -> None:
    """Logarithmic for values far apart; linear around 0 where some are not above 0."""
    values = [r.value for r in results]
    low, high = min(values), max(values)
    if low > 0 and high >= 6 * low:
        ax.set_yscale("log")
        ax.set_ylim(low / 1.8, high * 1.6)
    elif low <= 0:
        # Values inside the floor's interval do not differ, so that the axis is linear there.
        error = float(np.median([r.error or 0.0 for r in results])) or 1e-3
        floor = results[0].floor_interval
        ax.set_yscale("symlog", linthresh=max(error, 1e-6, floor[1] if floor else 0.0))


def _floor(ax: Axes, result: Result) -> None:
    """What held-out data scores, and its 95 % interval as a band."""
    if result.floor is None:
        return
    if result.floor_interval is not None:
        band: dict[str, Any] = {"color": "#999999", "alpha": 0.16, "linewidth": 0, "zorder": 0}
        ax.axhspan(*result.floor_interval, label="held-out data, 95 %", **band)
    ax.axhline(result.floor, color="#777777", linewidth=0.8, zorder=1)


def grid(rows: Sequence[tuple[str, Tensor]]) -> Drawing:
    """Pictures `[N, C, H, W]` in [-1, 1], a row with its name for each entry."""
    strips = [_strip(x) for _, x in rows]
    sheet = np.concatenate(strips)
    high, wide = sheet.shape[:2]
    width = 8.0
    drawing, (ax,) = report.axes(1, width=width, height=0.4 + (width - 1.6) * high / wide)
    ax.imshow(sheet, interpolation="nearest")
    centres = [(i + 0.5) * len(strips[0]) for i in range(len(rows))]
    ax.set_yticks(centres, [name for name, _ in rows])
    ax.set_xticks([])
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return drawing


def _strip(x: Tensor) -> np.ndarray:
    """The pictures side by side, in colour, with white gaps: `[H, W, 3]`."""
    gap = max(1, x.shape[3] // 16)
    tiles = ((x.clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).double().cpu().numpy()
    tiles = np.pad(tiles, ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=1.0)
    return np.concatenate(list(tiles), axis=1).repeat(3 // x.shape[1], axis=2)


def clouds(rows: Sequence[tuple[str, Tensor]]) -> Drawing:
    """Points `[N, 2]` of each row in a plot of its own, all on the same axes."""
    drawing, plots = report.axes(len(rows), width=min(9.0, 1.8 * len(rows)), height=2.1)
    reach = 1.1 * max(float(x.abs().quantile(0.995)) for _, x in rows)
    dots: dict[str, Any] = {"linestyle": "none", "marker": ".", "markersize": 1.2}
    for ax, (name, x) in zip(plots, rows, strict=True):
        ax.plot(*x.double().cpu().numpy().T, color=report.INK, **dots)
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
        ax.set_title(name, fontsize=8)
    return drawing
