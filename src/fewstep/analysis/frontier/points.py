"""The measured points, and which of them are worth what they cost."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fewstep.analysis.frontier.latency import Timing
from fewstep.analysis.frontier.models import Subject
from fewstep.analysis.metrics import Result, compare
from fewstep.run.levels import Levels

MULTISTEP, OWN = "multistep", "own"  # the sampler of a student's own method


@dataclass(frozen=True, kw_only=True, eq=False)
class Point:
    """A subject at a number of steps: its scores on the test split, and what a sample costs."""

    subject: Subject
    sampler: str
    steps: int
    levels: Levels = ()  # of the later steps, chosen on the validation split
    validation: Result | None = None  # the score it was chosen by; None: there was no choice
    results: dict[str, Result]
    evaluations: int  # of the network for each sample, as counted
    one: Timing  # a call for one sample
    many: Timing  # a call for a batch
    on_offer: bool = True  # of a solver: no cheaper setting scored better on the validation split
    worth: bool = False  # better, beyond chance, than every such point of fewer evaluations
    quick: bool = False  # better, beyond chance, than every such point of lower latency

    @property
    def name(self) -> str:
        """Subject and sampler, such as "digits" or "exact:ring8, heun"."""
        if self.sampler in (MULTISTEP, OWN):
            return self.subject.name
        return f"{self.subject.name}, {self.sampler}"

    @property
    def label(self) -> str:
        """The name and the number of evaluations."""
        return f"{self.name} with {self.evaluations}"

    @property
    def busy(self) -> bool:
        """Whether the calls differ so much that something else was running."""
        return self.one.high > 1.5 * self.one.low

    def command(self, cond: str = "") -> str:
        """The command that samples like this point; empty for teachers that are no run.

        cond: the option with the conditions, where the data have any but labels.
        """
        path = self.subject.source
        if path.startswith("exact:") or path.endswith(".safetensors"):
            return ""
        words = [
            f"fewstep sample {shlex.quote(path)}{self.subject.options}{cond} --steps {self.steps}"
        ]
        if self.subject.kind == "solver":
            words.append(f"--sampler {self.sampler}")
        if self.levels:
            words += ["--later-sigmas", *(f"{level:g}" for level in self.levels)]
        return " ".join(words)


@dataclass(frozen=True)
class Judge:
    """Compares points by one metric on the test split.

    sign: -1 where higher is better. gain: the least share of the value that counts as better.
    """

    metric: str
    sign: float = 1.0
    gain: float = 0.0

    def value(self, point: Point) -> float:
        """The point's value, lower for better."""
        return self.sign * point.results[self.metric].value

    def better(self, a: Point, b: Point) -> bool:
        """Whether a is better than b by `gain`, and 0 is outside the interval of their difference.

        Without an interval, of a single draw, by `gain` alone.
        """
        difference = compare(a.results[self.metric], b.results[self.metric])
        if self.sign * difference.value >= -self.gain * abs(self.value(b)):
            return False
        low, high = difference.interval or (difference.value, difference.value)
        return high < 0 if self.sign > 0 else low > 0


def worth(points: Sequence[Point], judge: Judge, cost: Callable[[Point], float]) -> list[Point]:
    """The points, by cost, that are better beyond chance than every cheaper one of this list.

    So small gains add up: a point that is no better than its neighbour may still be better than the
    last one of the list.
    """
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (cost(p), judge.value(p))):
        if all(judge.better(point, other) for other in best):
            best.append(point)
    return best


def judge_points(points: Sequence[Point], judge: Judge) -> list[Point]:
    """The points with `worth` and `quick` set, among those on offer."""
    on_offer = [point for point in points if point.on_offer]
    by_evaluations = worth(on_offer, judge, lambda p: p.evaluations)
    by_latency = worth(on_offer, judge, lambda p: p.one.low)
    return [replace(p, worth=p in by_evaluations, quick=p in by_latency) for p in points]
