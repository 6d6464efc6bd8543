"""A line with its band over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fewstep.statistics.intervals import interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
