"""When a claim is reproduced: paired differences over seeds, and the side of their interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fewstep.analysis.metrics.protocol import students_t
from fewstep.base.errors import require

REPRODUCED, OPEN, CONTRADICTED = "reproduced", "not reproduced at this scale", "contradicted"
TONES = {REPRODUCED: "good", OPEN: "open", CONTRADICTED: "bad"}

RULE = (
    "Every statement is a difference that the paper says is positive, taken seed by seed: within a"
    " seed all arms see the same data, noise and initial weights. It is reproduced where the 95 %"
    " Student interval of its mean over the seeds lies wholly above 0, contradicted where it lies"
    " wholly below, and otherwise not reproduced at this scale. A claim has the worst verdict of"
    " its main statements; the others are controls. There is no correction for the number of"
    " statements."
)

Seeds = Mapping[str, Mapping[str, Any]]  # the measures of a row by seed


class Interval(NamedTuple):
    """A mean over seeds and its 95 % interval; unbounded for a single seed."""

    mean: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """mean +- t std / sqrt(n), Student's t with n - 1 degrees of freedom.

    Raises UserError without values.
    """
    require(len(values) > 0, "values", list(values), "at least one")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Interval(mean, -math.inf, math.inf)
    square = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    half = students_t(len(values) - 1) * math.sqrt(square / len(values))
    return Interval(mean, mean - half, mean + half)


def verdict(estimate: Interval) -> str:
    """The side of 0 that the interval lies on; above is what the paper claims."""
    if estimate.low > 0:
        return REPRODUCED
    return CONTRADICTED if estimate.high < 0 else OPEN


@dataclass(frozen=True)
class Statement:
    """A difference that the paper says is positive, seed by seed.

    main: it decides the claim's verdict. exact: it is one exact number, without seeds.
    """

    text: str
    values: tuple[float, ...]
    main: bool = True
    exact: bool = False

    @property
    def estimate(self) -> Interval:
        if self.exact:
            return Interval(self.values[0], self.values[0], self.values[0])
        return interval(self.values)

    @property
    def verdict(self) -> str:
        return verdict(self.estimate)

    def to_json(self) -> dict[str, Any]:
        mean, *ends = self.estimate
        return {
            "text": self.text,
            "main": self.main,
            "verdict": self.verdict,
            "mean": mean,
            "interval": [end if math.isfinite(end) else None for end in ends],
            "values": list(self.values),
            "exact": self.exact,
        }


def overall(statements: Sequence[Statement]) -> str:
    """The worst verdict of the main statements."""
    verdicts = {one.verdict for one in statements if one.main}
    return next(one for one in (CONTRADICTED, OPEN, REPRODUCED) if one in verdicts)


def common_seeds(*rows: Seeds) -> list[str]:
    """The seeds that all rows have."""
    return sorted(set.intersection(*(set(row) for row in rows)), key=int)


def excess(of: Seeds, over: Seeds, measure: str) -> tuple[float, ...]:
    """of - over, seed by seed."""
    return tuple(of[seed][measure] - over[seed][measure] for seed in common_seeds(of, over))
