"""Whether samples can be told from held-out data at all: a p-value a metric, one joint verdict.

Each metric compares few rows with the reference: so many groups of samples, so many of held-out
rows. Under one law all groups are exchangeable, given the reference, and the difference of the
means is one of those that shuffled groups give: its p-value is exact for any metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from fewstep.analysis.metrics.prepared import Meter, Prepared
from fewstep.analysis.metrics.protocol import Result
from fewstep.base.randomness import generator
from fewstep.data import Arrays

LEVEL = 0.01  # of the joint verdict
GROUPS = 20  # of held-out rows; of samples twice as many
LEAST_ROWS, MOST_ROWS = 5, 100  # of a group
LEAST_GROUPS = 8  # of fewer there are too few shuffles for a small p-value
SHUFFLES = 20_000


@dataclass(frozen=True)
class Groups:
    """Held-out data in groups of `size` rows, with each metric's value of each of them."""

    prepared: Prepared
    size: int
    values: dict[str, list[float]]

    @property
    def most_samples(self) -> int:
        """How many samples are compared with them."""
        return 2 * GROUPS * self.size

    def p_values(self, samples: Arrays) -> dict[str, float]:
        """The p-value of each metric, for the first rows of these samples."""
        rows = samples.rows(torch.arange(min(len(samples.x0), self.most_samples)))
        return {
            name: p_value(own, self.values[name])
            for name, own in values_of_few(self.prepared, rows, self.size).items()
        }


def groups_of(prepared: Prepared, held_out: Arrays) -> Groups | None:
    """The groups of held-out rows; None where there are too few of them."""
    count = len(held_out.x0)
    size = min(max(count // GROUPS, LEAST_ROWS), MOST_ROWS)
    if count // size < LEAST_GROUPS:
        return None
    rows = held_out.rows(torch.arange(min(count // size, GROUPS) * size))
    return Groups(prepared, size, values_of_few(prepared, rows, size))


def values_of_few(prepared: Prepared, rows: Arrays, size: int) -> dict[str, list[float]]:
    """Each metric of each `size` rows; a metric that learns from samples has a test of its own."""
    meters = [meter for meter in prepared.meters if meter.measure.detect is None]
    spaces = prepared.spaces.features
    features = {space: spaces[space](rows) for space in {meter.space for meter in meters}}
    return {meter.metric: _of_groups(meter, features[meter.space], size) for meter in meters}


def _of_groups(meter: Meter, features: Tensor, size: int) -> list[float]:
    value = meter.measure.of_few or meter.measure.value
    return [value(part) for part in features.split(size) if len(part) == size]


def p_value(a: Sequence[float], b: Sequence[float]) -> float:
    """P(means of a and b at least as far apart | all exchangeable), by 20,000 shuffles; exact.

    Source: Phipson & Smyth, "Permutation p-values should never be zero", 2010.
    """
    values = torch.tensor([*a, *b], dtype=torch.float64)
    if not bool(torch.isfinite(values).all()):
        return 1.0  # nothing was measured
    values = values - values.mean()
    # A difference of means is the sum over a, times a constant.
    gap = values[: len(a)].sum().abs()
    sums = (_shuffles(len(a), len(values)) @ values).abs()
    ties = 1e-9 * values.abs().sum()
    return (int((sums >= gap - ties).sum()) + 1) / (SHUFFLES + 1)


@lru_cache(maxsize=8)
def _shuffles(first: int, count: int) -> Tensor:
    """Which of `count` values are among the first ones in each shuffle, `[20000, count]`."""
    chance = torch.rand(SHUFFLES, count, generator=generator(0, "shuffled groups"))
    return (chance.argsort(1) < first).double()


@dataclass(frozen=True)
class Verdict:
    """Whether samples of so many steps differ from held-out data, by all metrics together.

    p_values: by Holm's method: a metric differs where its own is at most `level`, and with one law
    for both sides none does but in a share `level` of all cases.
    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """

    steps: int
    different: bool
    p_values: dict[str, float]
    level: float = LEVEL

    def sentence(self) -> str:
        """The verdict in words."""
        start = f"{_steps(self.steps)}: "
        count = len(self.p_values)
        by = f"level {self.level:g}, Holm's method over {count} metric{'s' * (count > 1)}"
        if not self.different:
            return f"{start}not distinguishable from held-out data ({by})"
        worst = sorted(self.p_values.items(), key=lambda item: item[1])
        names = ", ".join(name for name, p in worst if p <= self.level)
        return f"{start}different from held-out data in {names} ({by})"


def verdicts(results: Sequence[Result], level: float = LEVEL) -> list[Verdict]:
    """The verdict of each number of steps, by the p-values of its results; none without any."""
    judged = []
    for steps in dict.fromkeys(result.steps for result in results):
        p_values = {
            r.metric: r.p_value for r in results if r.steps == steps and r.p_value is not None
        }
        if p_values:
            p_values = holm(p_values)
            judged.append(Verdict(steps, min(p_values.values()) <= level, p_values, level))
    return judged


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """p-values that hold for all together: (m - i) p of the i-th smallest of m, made increasing."""
    adjusted = {}
    largest = 0.0
    for i, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = min(max(largest, (len(p_values) - i) * p), 1.0)
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def _steps(count: int) -> str:
    return f"{count} step{'s' * (count > 1)}"
