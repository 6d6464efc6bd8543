"""A claim as a value: what a paper says, the rows that test it, and what their numbers become."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fewstep.analysis.claims.measurements import Row
from fewstep.analysis.claims.verdicts import Seeds, Statement, interval
from fewstep.analysis.report import Figure

Results = Mapping[str, Seeds]  # row -> seed -> measure -> number

QUALITY = {
    "ode_error": "ODE error",
    "feature_frechet": "feature Fréchet",
    "pixel_frechet": "pixel Fréchet",
    "energy_x1000": "energy x 1000",
    "variance_ratio": "variance ratio",
}
"""Columns of arms that are trained, by name of the measure."""
COST = {"cpu_seconds": "CPU s"}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of one paper.

    says: the paper's sentence. setting: what was run.
    measures: columns of the table, by name of the measure.
    statements, comments, figure: functions of the rows' results.
    """

    title: str
    says: str
    setting: str
    rows: Mapping[str, Row]
    measures: Mapping[str, str]
    statements: Callable[[Results], Sequence[Statement]]
    comments: Callable[[Results], Sequence[str]]
    figure: Callable[[Results], Figure]


def number(value: float) -> str:
    """Four digits, with an exponent only below 1e-4."""
    if abs(value) >= 1000:
        return f"{value:.0f}"
    if abs(value) >= 1e-4 or value == 0:
        return f"{value:.4g}"
    return f"{value:.2e}"


def pm(values: Sequence[float]) -> str:
    """Mean ± half of the 95 % interval, to two digits of the latter."""
    mean, low, high = interval(values)
    half = (high - low) / 2
    if half == 0 or half == float("inf"):
        return number(mean)
    exponent = int(f"{half:e}".partition("e")[2])
    places = min(8, max(0, 1 - exponent))
    return f"{mean:.{places}f} ± {half:.{places}f}"


def column(row: Seeds, measure: str) -> list[float]:
    """A measure by seed; empty where the row has none."""
    return [row[seed][measure] for seed in sorted(row, key=int) if measure in row[seed]]
