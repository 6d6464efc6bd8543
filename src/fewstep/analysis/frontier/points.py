"""The measured points, and which of them are worth what they cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fewstep.analysis.frontier.latency import Timing
from fewstep.analysis.frontier.levels import Levels
from fewstep.analysis.frontier.models import Subject
from fewstep.analysis.metrics import Difference, Result, compare

MULTISTEP = "multistep"


@dataclass(frozen=True, kw_only=True)
class Point:
    """A subject at a number of steps: what it scored on the test split, and what that costs."""

    subject: Subject
    sampler: str
    steps: int
    levels: Levels = ()  # of the later steps, chosen on the validation split
    validation: Result | None = (
        None  # the chosen one's score, with the number of candidates; None: nothing was chosen
    )
    results: dict[str, Result]
    evaluations: int = 0  # of the network for each sample, as counted
    one: Timing | None = None  # a call for one sample
    many: Timing | None = None  # a call for a batch
    offered: bool = True  # of a solver: no cheaper setting scored better on the validation split
    worth: bool = False  # better, beyond chance, than every such point of fewer evaluations
    quick: bool = False  # better, beyond chance, than every such point of lower latency

    @property
    def name(self) -> str:
        """Who and how, such as "digits" or "exact:ring8, heun"."""
        return (
            self.subject.name
            if self.sampler == MULTISTEP
            else f"{self.subject.name}, {self.sampler}"
        )

    @property
    def kind(self) -> str:
        """The subject's: multistep, segments or solver."""
        return self.subject.kind

    @property
    def busy(self) -> bool:
        """Whether the calls took so unlike that something else was running."""
        return self.one is not None and self.one.high > 1.5 * self.one.low

    @property
    def candidates(self) -> int:
        """How many settings were scored on the validation split to choose this one."""
        return 0 if self.validation is None else int(self.validation.protocol["candidates"])

    def command(self) -> str:
        """The command that samples as this point was measured; none for teachers that are no run."""
        given = self.subject.given
        if given.startswith("exact:") or given.endswith(".safetensors"):
            return ""
        by = "" if self.sampler in (MULTISTEP, "segments") else f" --sampler {self.sampler}"
        times = (
            f" --later-sigmas {' '.join(f'{level:g}' for level in self.levels)}"
            if self.levels
            else ""
        )
        return f"fewstep sample {given}{self.subject.options} --steps {self.steps}{by}{times}"


@dataclass(frozen=True)
class Judge:
    """Compares points by one metric on the test split.

    sign: -1 where higher is better. gain: the least share of the value by which a point is called
    better.
    """

    metric: str
    sign: float = 1.0
    gain: float = 0.0

    def value(self, point: Point) -> float:
        """The point's value, lower for better."""
        return self.sign * point.results[self.metric].value

    def apart(self, a: Point, b: Point) -> Difference:
        """a - b on the test split."""
        return compare(a.results[self.metric], b.results[self.metric])

    def better(self, a: Point, b: Point) -> bool:
        """Whether a is better than b, by `gain` and beyond chance: the interval of their difference
        leaves 0 out.

        Without an interval, of a single draw, by `gain` alone.
        """
        found = self.apart(a, b)
        if self.sign * found.value >= -self.gain * abs(self.value(b)):
            return False
        low, high = found.interval or (found.value, found.value)
        return high < 0 if self.sign > 0 else low > 0


def worth(points: Sequence[Point], judge: Judge, cost: Callable[[Point], float]) -> list[Point]:
    """The points that are better, beyond chance, than every cheaper one that is so itself: in the
    order of their cost.

    Small gains add up so: a point that is no better than the one before may still be better than
    the last kept.
    """
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (cost(p), judge.value(p))):
        if all(judge.better(point, other) for other in kept):
            kept.append(point)
    return kept


def judged(points: Sequence[Point], judge: Judge) -> list[Point]:
    """The points with `worth` and `quick` set, among those that the validation split left on offer."""
    offered = [point for point in points if point.offered]
    kept = worth(offered, judge, lambda p: p.evaluations)
    fast = worth(offered, judge, lambda p: p.one.low if p.one else 0.0)

    def among(point: Point, some: list[Point]) -> bool:
        return any(point is other for other in some)

    return [replace(point, worth=among(point, kept), quick=among(point, fast)) for point in points]


def chosen_levels(point: Point) -> dict[str, Any]:
    """How the point's setting was chosen, for the JSON."""
    found = point.validation
    told = (
        None
        if found is None
        else {"value": found.value, "error": found.error, "protocol": found.protocol}
    )
    return {"levels": list(point.levels), "candidates": point.candidates, "validation": told}
