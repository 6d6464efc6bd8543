"""What the claims' figures have in common: a line with its band over seeds, and the caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fewstep.analysis.claims.claim import Seeds, interval
from fewstep.analysis.report import Figure, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAND = "Lines and points are means over the seeds, bands and bars their 95 % Student intervals."


def line(
    ax: Axes, x: Sequence[float], columns: Sequence[Sequence[float]], label: str, **style: Any
) -> None:
    """The mean of each column over the seeds against x, and the band of its interval."""
    estimates = [interval(values) for values in columns]
    means = [one.mean for one in estimates]
    (curve,) = ax.plot(x, means, label=label, **{"marker": "o", **style})
    if len(columns[0]) > 1:
        low = [one.low for one in estimates]
        high = [one.high for one in estimates]
        ax.fill_between(x, low, high, color=curve.get_color(), alpha=0.18, linewidth=0)


def by_step(seeds: Seeds, measure: str) -> tuple[list[float], list[list[float]]]:
    """(steps, the measure's values over the seeds at each) of a row's curve."""
    curves = [one["curve"] for one in seeds.values()]
    steps = [point["step"] for point in curves[0]]
    return steps, [[curve[i][measure] for curve in curves] for i in range(len(steps))]


def as_figure(drawing: Any, alt: str, caption: str, legend: str = BAND) -> Figure:
    """The drawing with its caption; `legend` says what lines, points and bands are."""
    return Figure(svg(drawing), alt, f"{caption} {legend}")
