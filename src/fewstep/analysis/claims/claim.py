"""A claim as a value: what a paper says, the rows that test it, and what their numbers become."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fewstep.analysis.claims.measurements import Row
from fewstep.analysis.claims.verdicts import Seeds, Statement, interval
from fewstep.analysis.report import Figure

Found = Mapping[str, Seeds]  # row -> seed -> measure -> number

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

    says: the paper's sentence; setting: what was run. measures: columns of the table, by name of
    the measure.
    statements, words, figure: functions of what was measured.
    """

    title: str
    says: str
    setting: str
    rows: Mapping[str, Row]
    measures: Mapping[str, str]
    statements: Callable[[Found], Sequence[Statement]]
    words: Callable[[Found], Sequence[str]]
    figure: Callable[[Found], Figure]
    usual: bool = True  # measured unless others are asked for


def number(value: float) -> str:
    """Four digits, and no exponent where it can be helped."""
    return (
        f"{value:.0f}"
        if abs(value) >= 1000
        else f"{value:.4g}"
        if abs(value) >= 1e-4 or value == 0
        else f"{value:.2e}"
    )


def pm(values: Sequence[float]) -> str:
    """Mean ± half of the 95 % interval, to two digits of the latter."""
    mean, low, high = interval(values)
    half = (high - low) / 2
    if half == 0 or half == float("inf"):
        return number(mean)
    places = min(8, max(0, 1 - int(f"{half:e}".partition("e")[2])))
    return f"{mean:.{places}f} ± {half:.{places}f}"


def column(row: Seeds, measure: str) -> list[float]:
    """A measure by seed; empty where the row has none."""
    return [
        one[measure]
        for _, one in sorted(row.items(), key=lambda item: int(item[0]))
        if measure in one
    ]


def between(low: float, high: float) -> str:
    return f"[{number(low)}, {number(high)}]"
