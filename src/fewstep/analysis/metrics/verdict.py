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

from fewstep.analysis.metrics.metric import Measure
from fewstep.analysis.metrics.prepared import Meter, Prepared, Spaces
from fewstep.analysis.metrics.protocol import Result
from fewstep.data import Arrays
from fewstep.statistics import ensembles
from fewstep.statistics.twosample import shuffled_weights

LEVEL = 0.01  # of the joint verdict
GROUPS = 20  # of held-out rows; of samples twice as many
LEAST_ROWS, MOST_ROWS = 5, 100  # of a group
LEAST_GROUPS = 8  # of fewer there are too few shuffles for a small p-value
SHUFFLES = 20_000


@dataclass(frozen=True)
class Groups:
    """Held-out data in groups of `size` rows, beside which samples are tested."""

    spaces: Spaces
    meters: list[Meter]  # all but the detector, which has a test of its own
    size: int
    count: int  # rows in all
    held_out: dict[str, Tensor]  # features of each space
    values: dict[str, list[float]]  # of the groups, by the metrics without a test of their own

    @property
    def most_samples(self) -> int:
        """How many samples are compared with them."""
        return 2 * self.count

    def p_values(self, samples: Arrays, *, pairs: bool) -> dict[str, float]:
        """The p-value of each metric but the detector's, for the first of these samples.

        pairs: sample i has the condition of held-out row i. None of too few samples.
        """
        if len(samples) < LEAST_GROUPS * self.size:
            return {}
        most = self.count if pairs else self.most_samples
        rows = samples.rows(torch.arange(min(len(samples), most)))
        features = self.spaces.features_of(rows, self.meters)
        p_values = {}
        for meter in self.meters:
            name, x, y = meter.metric, features[meter.space], self.held_out[meter.space]
            if meter.measure.p_value is not None:
                p_values[name] = meter.measure.p_value(x, y[: len(x)] if pairs else y, pairs)
            else:
                own, others = _of_groups(meter.measure, x, self.size), self.values[name]
                p_values[name] = p_value(own, others[: len(own)] if pairs else others, pairs=pairs)
        return p_values


def groups_of(prepared: Prepared, held_out: Arrays) -> Groups | None:
    """The groups of held-out rows; None where there are too few of them."""
    count = len(held_out) // prepared.size * prepared.size
    size = min(max(count // GROUPS, LEAST_ROWS), MOST_ROWS)
    if count // size < LEAST_GROUPS:
        return None
    count = min(count // size, GROUPS) * size
    rows = held_out.rows(torch.arange(count))
    meters = [meter for meter in prepared.meters if meter.measure.detect is None]
    features = prepared.spaces.features_of(rows, meters)
    values = {
        meter.metric: _of_groups(meter.measure, features[meter.space], size)
        for meter in meters
        if meter.measure.p_value is None
    }
    return Groups(prepared.spaces, meters, size, count, features, values)


def _of_groups(measure: Measure, x: Tensor, size: int) -> list[float]:
    """The values of each `size` rows."""
    return [measure.value(part) for part in x.split(size) if len(part) == size]


def p_value(a: Sequence[float], b: Sequence[float], *, pairs: bool = False) -> float:
    """P(means of a and b at least as far apart | exchangeable values), by 20,000 shuffles; exact.

    pairs: a_i and b_i alone are exchangeable. What was not measured (NaN) gives 1.
    Source: Phipson & Smyth, "Permutation p-values should never be zero", 2010.
    """
    values = torch.tensor([*a, *b], dtype=torch.float64)
    if not bool(torch.isfinite(values).all()):
        return 1.0
    values = values - values.mean()
    gaps = (_weights(len(a), len(b), pairs) @ values).abs()
    ties = 1e-9 * values.abs().mean()
    return int((gaps >= gaps[0] - ties).sum()) / SHUFFLES


@lru_cache(maxsize=8)
def _weights(first: int, second: int, pairs: bool) -> Tensor:
    """The weights of a difference of means in each shuffle `[20000, first + second]`."""
    sides = torch.tensor([1 / first] * first + [-1 / second] * second, dtype=torch.float64)
    return shuffled_weights(sides, SHUFFLES, pairs)


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
    against: str = "held-out data"

    def sentence(self) -> str:
        """The verdict in words."""
        start = f"{self.steps} step{'s' * (self.steps > 1)}: "
        count = len(self.p_values)
        by = f"level {self.level:g}" + (f" for {count} metrics together" if count > 1 else "")
        if not self.different:
            return f"{start}not distinguishable from {self.against} ({by})"
        # In the table's order, which no machine's rounding changes.
        names = ", ".join(name for name, p in self.p_values.items() if p <= self.level)
        return f"{start}different from {self.against} in {names} ({by})"


def verdicts(results: Sequence[Result], level: float = LEVEL) -> list[Verdict]:
    """The verdict of each number of steps, by the p-values of its results; none without any."""
    answers = []
    for steps in dict.fromkeys(result.steps for result in results):
        p_values = {
            r.metric: r.p_value for r in results if r.steps == steps and r.p_value is not None
        }
        if p_values:
            holm = ensembles.holm(torch.tensor([*p_values.values()], dtype=torch.float64))
            p_values = dict(zip(p_values, holm.tolist(), strict=True))
            is_data = all("teacher" not in r.protocol for r in results if r.p_value is not None)
            against = "held-out data" if is_data else "samples of the teacher"
            is_different = min(p_values.values()) <= level
            answers.append(Verdict(steps, is_different, p_values, level, against))
    return answers
