"""When a claim counts as reproduced: paired differences over seeds, their Student interval, and the
side it lies on.
"""

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


class Interval(NamedTuple):
    """A mean over seeds and its 95 % interval, mean +- t std / sqrt(n); unbounded for a single
    seed.
    """

    mean: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """Student's with n - 1 degrees of freedom. Raises UserError without values."""
    require(len(values) > 0, "values", list(values), "at least one")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Interval(mean, -math.inf, math.inf)
    square = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    half = students_t(len(values) - 1) * math.sqrt(square / len(values))
    return Interval(mean, mean - half, mean + half)


def verdict(found: Interval) -> str:
    """On which side of 0 the interval lies; above is the claimed one."""
    if found.low > 0:
        return REPRODUCED
    return CONTRADICTED if found.high < 0 else OPEN


@dataclass(frozen=True)
class Statement:
    """A difference that is claimed to be positive, seed by seed.

    main: it decides the claim's verdict. sure: it is exact, a number without seeds.
    """

    text: str
    values: tuple[float, ...]
    main: bool = True
    sure: bool = False

    @property
    def found(self) -> Interval:
        return (
            Interval(self.values[0], self.values[0], self.values[0])
            if self.sure
            else interval(self.values)
        )

    @property
    def verdict(self) -> str:
        return verdict(self.found)

    def to_json(self) -> dict[str, Any]:
        mean, *ends = self.found
        told = [end if math.isfinite(end) else None for end in ends]
        kept = {
            "text": self.text,
            "main": self.main,
            "verdict": self.verdict,
            "mean": mean,
            "interval": told,
        }
        return {**kept, "values": list(self.values), "exact": self.sure}


def overall(statements: Sequence[Statement]) -> str:
    """The worst verdict of the main statements."""
    order = (CONTRADICTED, OPEN, REPRODUCED)
    found = {one.verdict for one in statements if one.main}
    return next(one for one in order if one in found)


Seeds = Mapping[str, Mapping[str, Any]]  # what a row measured, by seed


def shared(*rows: Seeds) -> list[str]:
    """The seeds that all rows have."""
    return sorted(set.intersection(*(set(row) for row in rows)), key=int)


def excess(of: Seeds, over: Seeds, measure: str) -> tuple[float, ...]:
    """of - over, seed by seed."""
    return tuple(of[seed][measure] - over[seed][measure] for seed in shared(of, over))
