"""Which noise levels the later steps of a multistep sampler may take, and where a search for them
starts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from fewstep.core.denoiser import Truncated
from fewstep.core.sampling import through_middle
from fewstep.run.generator import Generator

Levels = tuple[float, ...]  # sigma / alpha of the later steps, decreasing

_DIGITS = 4  # of a level: what is printed is what was scored
_APART = 1.02  # neighbouring levels are at least this factor apart
_INSERTED = 6  # places at which a further level is tried first, over all gaps
_RANGE = (
    0.004,
    160.0,
)  # of EDM's levels in standard deviations of the data, where a process has no end of its own


def rounded(level: float, towards: int = 0) -> float:
    """The level to four digits; towards 1 up, -1 down, 0 the nearest."""
    unit = 10.0 ** (math.floor(math.log10(level)) - _DIGITS + 1)
    counted = level / unit
    whole = (
        math.ceil(counted - 1e-9)
        if towards > 0
        else math.floor(counted + 1e-9)
        if towards < 0
        else round(counted)
    )
    return float(f"{whole * unit:.{_DIGITS}g}")


@dataclass(frozen=True)
class Bounds:
    """The lowest and highest level of a later step."""

    low: float
    high: float

    def allow(self, levels: Sequence[float]) -> bool:
        """Whether the levels lie inside, decreasing and apart from each other."""
        inside = all(self.low <= level <= self.high for level in levels)
        return inside and all(a >= b * _APART for a, b in pairwise(levels))

    def even(self, count: int) -> Levels:
        """`count` levels inside, even in the logarithm."""
        return tuple(rounded(x) for x in _between(self.high, self.low, count))


def bounds_of(generator: Generator) -> Bounds:
    """From the lowest level the student was trained for (the whole process's where it has no such
    end) to t_max's.
    """
    process, method = generator.method.process, generator.method
    sigma, whole = generator.facts.sigma_data, isinstance(generator.denoiser, Truncated)
    least = 0.0 if whole else method.trained_from
    low, high = (float(process.level(t)) for t in (max(process.t_min, least), process.t_max))
    low = low if low > 0 else _RANGE[0] * sigma
    high = high if math.isfinite(high) else _RANGE[1] * sigma
    return Bounds(rounded(low, 1), rounded(high / _APART, -1))


def _between(high: float, low: float, count: int) -> Iterator[float]:
    """`count` numbers inside (low, high), decreasing, even in the logarithm."""
    for i in range(1, count + 1):
        yield high * (low / high) ** (i / (count + 1))


def own_levels(generator: Generator, steps: int, bounds: Bounds) -> Levels:
    """What the sampler takes by itself; even in the logarithm where its student does not know these
    levels.
    """
    process, run = generator.method.process, generator.run
    middle = generator.method.later_sigmas if run.middle_times is None else run.middle_times
    grid = through_middle(process, steps, middle)[1:-1]
    levels = tuple(rounded(float(process.level(t))) for t in grid)
    return levels if bounds.allow(levels) else bounds.even(steps - 1)


def stretched(levels: Levels, count: int, bounds: Bounds) -> Levels:
    """`count` levels along the broken line, in the logarithm, through the ends and the given ones."""
    line = [math.log(x) for x in (bounds.high, *levels, bounds.low)]
    found = []
    for i in range(1, count + 1):
        place = i / (count + 1) * (len(line) - 1)
        before = min(int(place), len(line) - 2)
        found.append(
            rounded(math.exp(line[before] + (place - before) * (line[before + 1] - line[before])))
        )
    return tuple(found)


def inserted(levels: Levels, bounds: Bounds) -> Iterator[Levels]:
    """The levels with a further one in each gap, at about six places in all."""
    ends = (bounds.high, *levels, bounds.low)
    each = max(1, round(_INSERTED / (len(levels) + 1)))
    for place, (above, below) in enumerate(pairwise(ends)):
        for level in _between(above, below, each):
            yield (*levels[:place], rounded(level), *levels[place:])


def starts(generator: Generator, steps: int, bounds: Bounds, best: Levels | None) -> list[Levels]:
    """Where the search for `steps` begins: the sampler's own levels, then the best of fewer steps
    with one more.

    best: the levels found for the next smaller number of steps that was asked for, None where there
    is none.
    """
    fewer = () if best is None else best
    if len(fewer) < steps - 2:
        fewer = stretched(fewer, steps - 2, bounds)
    tried = [own_levels(generator, steps, bounds), *inserted(fewer, bounds)]
    return [levels for levels in dict.fromkeys(tried) if bounds.allow(levels)]
