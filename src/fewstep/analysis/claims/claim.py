"""A claim as a value: what a paper says, the rows that test it, and what their numbers become."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fewstep.analysis.report import Figure
from fewstep.statistics.intervals import Interval, interval, number

REPRODUCED, OPEN, CONTRADICTED = "reproduced", "not reproduced at this scale", "contradicted"
NOT_MET = "premise not met"

Seeds = Mapping[str, Mapping[str, Any]]  # the measures of a row by seed
Results = Mapping[str, Seeds]  # row -> seed -> measure -> number
Measure = Callable[[Path, int], dict[str, Any]]  # (folder of common files, seed) -> numbers

PICTURES = {
    "feature_frechet": "feature Fréchet",
    "stretched_frechet": "stretched",
    "pixel_frechet": "pixel Fréchet",
    "energy_x1000": "energy x 1000",
    "variance_ratio": "variance ratio",
}
"""Columns of arms that are trained on real data."""
COST = {"cpu_seconds": "CPU s"}


@dataclass(frozen=True)
class Row:
    """A measurement by seed.

    measure: a function of a module or a partial of one, since it crosses to another process.
    settings: all that the numbers depend on, as JSON; numbers under other settings do not count.
    needs: rows that are measured first, since this one reads their files.
    cost: CPU seconds, about. by_seed: False for an exact number, which has seed 0 alone.
    """

    measure: Measure
    settings: dict[str, Any]
    command: str
    cost: float = 1.0
    needs: tuple[Row, ...] = ()
    by_seed: bool = True

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def depth(self) -> int:
        """How many rows have to be measured before it, one after the other."""
        return 1 + max((row.depth for row in self.needs), default=-1)

    def seeds(self, count: int) -> range:
        return range(1, count + 1) if self.by_seed else range(1)


def verdict(estimate: Interval) -> str:
    """The side of 0 that the interval lies on; above is what the paper claims."""
    if estimate.low > 0:
        return REPRODUCED
    return CONTRADICTED if estimate.high < 0 else OPEN


@dataclass(frozen=True)
class Statement:
    """A difference that the paper says is positive, seed by seed.

    main: it decides the claim's verdict. exact: it is one exact number, without seeds.
    premise: the paper's claim is about trainings of which this holds, and about no others.
    """

    text: str
    values: tuple[float, ...]
    main: bool = True
    exact: bool = False
    premise: bool = False

    @property
    def estimate(self) -> Interval:
        return Interval(*self.values * 3) if self.exact else interval(self.values)

    @property
    def verdict(self) -> str:
        return verdict(self.estimate)

    def __str__(self) -> str:
        """Mean and interval."""
        mean, low, high = map(number, self.estimate)
        if self.exact:
            return mean
        return f"{mean} (one seed)" if len(self.values) == 1 else f"{mean} [{low}, {high}]"

    def to_json(self) -> dict[str, Any]:
        mean, *ends = self.estimate
        limits = [end if math.isfinite(end) else None for end in ends]
        return {**vars(self), "verdict": self.verdict, "mean": mean, "interval": limits}


def controls(differences: Mapping[str, tuple[float, ...]]) -> list[Statement]:
    """Statements that do not decide the verdict, by their texts."""
    return [Statement(text, values, main=False) for text, values in differences.items()]


def overall(statements: Sequence[Statement]) -> str:
    """The worst verdict of the main statements, if every premise holds."""
    if any(one.premise and one.verdict != REPRODUCED for one in statements):
        return NOT_MET
    verdicts = {one.verdict for one in statements if one.main}
    return next(one for one in (CONTRADICTED, OPEN, REPRODUCED) if one in verdicts)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of one paper.

    says: the paper's sentence. setting: what was run. fair: why that tests the sentence.
    measures: columns of the table, by name of the measure.
    statements, figure: functions of the rows' results.
    lesson: what was learned from them, in a paragraph. long: it takes hours. most_seeds: however
    many are asked for.
    """

    title: str
    says: str
    setting: str
    fair: str
    rows: Mapping[str, Row]
    measures: Mapping[str, str]
    statements: Callable[[Results], Sequence[Statement]]
    lesson: Callable[[Results], str]
    figure: Callable[[Results], Figure]
    long: bool = False
    most_seeds: int = 100

    def seeds(self, row: Row, count: int) -> range:
        """Which seeds of a row it takes, where so many are asked for."""
        return row.seeds(min(count, self.most_seeds))

    def hours(self, seeds: int) -> float:
        """CPU hours of its rows, about, without those that they need."""
        rows = self.rows.values()
        return sum(row.cost * len(self.seeds(row, seeds)) for row in rows) / 3600


def common_seeds(*rows: Seeds) -> list[str]:
    """The seeds that all rows have."""
    return sorted(set.intersection(*(set(row) for row in rows)), key=int)


def excess(of: Seeds, over: Seeds, measure: str) -> tuple[float, ...]:
    """of - over, seed by seed."""
    return tuple(of[seed][measure] - over[seed][measure] for seed in common_seeds(of, over))


def column(row: Seeds, measure: str) -> list[float]:
    """A measure by seed; empty where the row has none."""
    return [row[seed][measure] for seed in sorted(row, key=int) if measure in row[seed]]
