"""The noise levels that later steps of a multistep sampler may take, and those that were chosen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fewstep.core.denoiser import Truncated
from fewstep.core.sampling import multistep_grid

if TYPE_CHECKING:
    from fewstep.run.generator import Generator

Levels = tuple[float, ...]  # sigma / alpha of the later steps, decreasing

MOST_STEPS = 1000  # that levels may be chosen for

_DIGITS = 4  # of a level, so that the printed levels are those that were scored
_LEAST_RATIO = 1.02  # of neighbouring levels
_PLACES = 6  # at which a further level is tried first, over all gaps
# EDM's levels in standard deviations of the data, where a process has no end of its own.
_RANGE = (0.004, 160.0)


@dataclass(frozen=True)
class LevelChoice:
    """Levels that were chosen on held-out data when training ended, and the scores they reached."""

    levels: Mapping[int, Levels] = field(default_factory=dict)  # by the number of steps
    scores: Mapping[int, float] = field(default_factory=dict)  # the lower the better; of 1 step too

    def of(self, steps: int, bounds: Bounds) -> Levels | None:
        """Those for so many steps; where none were chosen, the nearest fewer or more, stretched."""
        numbers = self.scores.keys() - {1}
        if steps in numbers or steps < 2 or not numbers:
            return self.levels.get(steps)
        near = min(numbers, key=lambda other: (other > steps, abs(other - steps)))
        if near not in self.levels:
            return None  # the method's own did better there
        levels = stretch(self.levels[near], steps - 1, bounds)
        return levels if bounds.allow(levels) else None

    def to_json(self) -> dict[str, Any]:
        """As JSON's own types."""
        levels = {str(steps): list(one) for steps, one in self.levels.items()}
        return {"levels": levels, "scores": {str(k): score for k, score in self.scores.items()}}

    @staticmethod
    def is_one(values: Any) -> bool:
        """Whether the values are what `to_json` gave."""
        return LevelChoice.from_json(values) is not None

    @staticmethod
    def from_json(values: Any) -> LevelChoice | None:
        """The levels that `to_json` gave; None for what is none."""
        if not isinstance(values, dict) or values.keys() != {"levels", "scores"}:
            return None
        levels, scores = values["levels"], values["scores"]
        if not (isinstance(levels, dict) and isinstance(scores, dict)):
            return None
        if not all(_is_steps(key) for key in (*levels, *scores)):
            return None
        if not all(_are_levels(one, int(key) - 1) for key, one in levels.items()):
            return None
        if not all(type(score) is float for score in scores.values()):
            return None
        return LevelChoice(
            {int(key): tuple(one) for key, one in levels.items()},
            {int(key): score for key, score in scores.items()},
        )


def _is_steps(key: str) -> bool:
    return key.isascii() and key.isdigit() and 1 <= int(key[:4]) <= MOST_STEPS and len(key) <= 4


def _are_levels(values: Any, count: int) -> bool:
    if not isinstance(values, list) or len(values) != count:
        return False
    fine = all(type(level) is float and 0 < level < math.inf for level in values)
    return fine and all(a > b for a, b in pairwise(values))


def round_level(level: float, towards: int = 0) -> float:
    """The level to four digits; towards 1 up, -1 down, 0 the nearest."""
    unit = 10.0 ** (math.floor(math.log10(level)) - _DIGITS + 1)
    units = level / unit
    if towards > 0:
        whole = math.ceil(units - 1e-9)
    elif towards < 0:
        whole = math.floor(units + 1e-9)
    else:
        whole = round(units)
    return float(f"{whole * unit:.{_DIGITS}g}")


@dataclass(frozen=True)
class Bounds:
    """The lowest and highest level of a later step."""

    low: float
    high: float

    def allow(self, levels: Sequence[float]) -> bool:
        """Whether the levels lie inside, decreasing and apart from each other."""
        inside = all(self.low <= level <= self.high for level in levels)
        return inside and all(a >= b * _LEAST_RATIO for a, b in pairwise(levels))

    def even(self, count: int) -> Levels:
        """`count` levels inside, even in the logarithm."""
        return tuple(round_level(x) for x in _between(self.high, self.low, count))


def bounds_of(generator: Generator) -> Bounds:
    """From the lowest level the student was trained for, or the process has, to that of t_max."""
    process = generator.method.process
    sigma = generator.facts.sigma_data
    is_composite = isinstance(generator.denoiser, Truncated)
    least = 0.0 if is_composite else generator.method.trained_from
    low = float(process.level(max(process.t_min, least)))
    high = float(process.level(process.t_max))
    low = low if low > 0 else _RANGE[0] * sigma
    high = high if math.isfinite(high) else _RANGE[1] * sigma
    return Bounds(round_level(low, 1), round_level(high / _LEAST_RATIO, -1))


def _between(high: float, low: float, count: int) -> Iterator[float]:
    """`count` numbers inside (low, high), decreasing, even in the logarithm."""
    for i in range(1, count + 1):
        yield high * (low / high) ** (i / (count + 1))


def own_levels(generator: Generator, steps: int, bounds: Bounds) -> Levels:
    """The sampler's own levels; even in the logarithm where its student has not learned these."""
    process = generator.method.process
    grid = multistep_grid(process, steps, generator.levels_of(steps))[1:-1]
    levels = tuple(round_level(float(process.level(t))) for t in grid)
    return levels if bounds.allow(levels) else bounds.even(steps - 1)


def stretch(levels: Levels, count: int, bounds: Bounds) -> Levels:
    """`count` levels along the broken line, in the logarithm, through the ends and the levels."""
    line = [math.log(x) for x in (bounds.high, *levels, bounds.low)]
    results = []
    for i in range(1, count + 1):
        place = i / (count + 1) * (len(line) - 1)
        before = min(int(place), len(line) - 2)
        slope = line[before + 1] - line[before]
        results.append(round_level(math.exp(line[before] + (place - before) * slope)))
    return tuple(results)


def insert(levels: Levels, bounds: Bounds) -> Iterator[Levels]:
    """The levels with a further one in each gap, at about six places in all."""
    ends = (bounds.high, *levels, bounds.low)
    each = max(1, round(_PLACES / (len(levels) + 1)))
    for place, (above, below) in enumerate(pairwise(ends)):
        for level in _between(above, below, each):
            yield (*levels[:place], round_level(level), *levels[place:])


def starts(generator: Generator, steps: int, bounds: Bounds, best: Levels | None) -> list[Levels]:
    """The first candidates: the sampler's own levels, then the best of fewer steps with one more.

    best: the result for the next smaller number of steps of the study, None where there is none.
    """
    fewer = () if best is None else best
    if len(fewer) < steps - 2:
        fewer = stretch(fewer, steps - 2, bounds)
    candidates = [own_levels(generator, steps, bounds), *insert(fewer, bounds)]
    return [levels for levels in dict.fromkeys(candidates) if bounds.allow(levels)]
