"""What the claims' figures have in common: curves over seeds, and the caption."""

from __future__ import annotations

from typing import Any

from fewstep.analysis.claims.claim import Seeds
from fewstep.analysis.report import Figure, svg

BAND = "Lines and points are means over the seeds, bands and bars their 95 % Student intervals."


def by_step(seeds: Seeds, measure: str) -> tuple[list[float], list[list[float]]]:
    """(steps, the measure's values over the seeds at each) of a row's curve."""
    curves = [one["curve"] for one in seeds.values()]
    steps = [point["step"] for point in curves[0]]
    return steps, [[curve[i][measure] for curve in curves] for i in range(len(steps))]


def as_figure(drawing: Any, alt: str, caption: str, legend: str = BAND) -> Figure:
    """The drawing with its caption; `legend` says what lines, points and bands are."""
    return Figure(svg(drawing), alt, f"{caption} {legend}")
