"""Whether more steps are worth their time: each number of steps beside the best of fewer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fewstep.analysis.metrics.metric import JOINT
from fewstep.analysis.metrics.protocol import Result, compare
from fewstep.analysis.metrics.registry import METRICS
from fewstep.statistics.intervals import estimate, students_t

Change = Literal["better", "no better", "worse"]

LEVEL = 0.01  # of all comparisons of one number of steps together


@dataclass(frozen=True)
class Gain:
    """What more steps change in a metric, and which others are better or worse then."""

    steps: int
    fewer: int
    metric: str
    value: float
    value_of_fewer: float
    change: Change
    better_in: tuple[str, ...]
    worse_in: tuple[str, ...]

    def sentence(self) -> str:
        """The gain in words."""
        values = f"in {self.metric}: {self.value:.4f} after {self.value_of_fewer:.4f}"
        text = f"{self.steps} steps are {self.change} than {self.fewer} beyond chance, {values}"
        for word, names in (("better", self.better_in), ("worse", self.worse_in)):
            text += f"; they are {word} in {', '.join(names)}" if names else ""
        return text

    @property
    def pays(self) -> bool:
        """Whether the main metric is better, and no other one worse."""
        return self.change == "better" and not self.worse_in


def main_metric(results: Sequence[Result]) -> str | None:
    """The metric that decides: of sample and condition together, else energy, else the first."""
    names = [r.metric for r in results if _better(r) != "one"]
    usual = METRICS["energy"]
    for name in (usual.name_in(None, JOINT), usual.name_in(None)):
        if name in names:
            return name
    return names[0] if names else None


def gains(results: Sequence[Result]) -> list[Gain]:
    """Of each number of steps what it changes against the best of fewer; none of single draws.

    By the metrics of the registry alone: of others it is not known what is better.
    """
    results = [result for result in results if result.protocol["statistic"] in METRICS]
    name = main_metric(results)
    counts = sorted({result.steps for result in results})
    table = {(result.steps, result.metric): result for result in results}
    if name is None or table[counts[0], name].error is None:
        return []
    metrics = list(dict.fromkeys(result.metric for result in results))
    changes = []
    best = counts[0]
    for steps in counts[1:]:
        pairs = {m: (table[steps, m], table[best, m]) for m in metrics}
        by_metric = {m: _change(*pair, len(metrics)) for m, pair in pairs.items()}
        better, worse = (
            tuple(m for m in metrics if m != name and by_metric[m] == change)
            for change in ("better", "worse")
        )
        values = pairs[name][0].value, pairs[name][1].value
        changes.append(Gain(steps, best, name, *values, by_metric[name], better, worse))
        if by_metric[name] == "better":
            best = steps
    return changes


def _change(more: Result, fewer: Result, comparisons: int) -> Change:
    """Whether the difference is beyond chance, and its direction."""
    difference = compare(_distance(more), _distance(fewer))
    if difference.error is None:
        return "no better"
    least = students_t(len(more.values) - 1, 1 - LEVEL / comparisons) * difference.error
    if abs(difference.value) <= least:
        return "no better"
    return "worse" if difference.value > 0 else "better"


def _distance(result: Result) -> Result:
    """The result with values that are the lower the better."""
    better = _better(result)
    if better == "lower":
        return result
    values = [-v if better == "higher" else abs(v - 1) for v in result.values]
    score = estimate(values)
    return replace(result, value=score.value, error=score.error, values=tuple(values))


def _better(result: Result) -> str:
    return METRICS[result.protocol["statistic"]].better
