"""The search for the noise levels of the later steps: refined until they are settled or the budget
is spent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fewstep.analysis.frontier.levels import Bounds, Levels, rounded

_FIRST, _LAST = 0.8, 0.05  # the first and the finest move of a level, in ln(sigma)


@dataclass(frozen=True)
class Found:
    """The levels of the lowest score, that score, and every candidate with its own, in the order of
    scoring.
    """

    levels: Levels
    value: float
    tried: tuple[tuple[Levels, float], ...]

    @property
    def candidates(self) -> int:
        """How many sets of levels were scored."""
        return len(self.tried)


def _moves(count: int) -> Iterator[tuple[float, ...]]:
    """Directions in ln(sigma): all levels together, then each of them."""
    for sign in (1.0, -1.0):
        if count > 1:
            yield (sign,) * count
    for i in range(count):
        for sign in (1.0, -1.0):
            yield tuple(sign if j == i else 0.0 for j in range(count))


def search(
    score: Callable[[Levels], float], first: Sequence[Levels], bounds: Bounds, budget: int
) -> Found:
    """Minimises score(levels) over decreasing levels: the best start, then moves that halve when
    none helps.

    Coordinate search in ln(sigma) (Hooke & Jeeves, 1961): the first move that is better is taken.
    Each set of levels is scored once, at most `budget` of them; the same scores give the same
    answer.
    """
    scored: dict[Levels, float] = {}

    def of(levels: Levels) -> float:
        if levels not in scored:
            value = score(levels)
            scored[levels] = value if math.isfinite(value) else math.inf
        return scored[levels]

    best = min(list(first)[:budget], key=of)
    step = _FIRST
    while step >= _LAST and len(scored) < budget:
        better = _better(of, scored, best, step, bounds, budget)
        best, step = (best, step / 2) if better is None else (better, step)
    return Found(best, scored[best], tuple(scored.items()))


def _better(
    of: Callable[[Levels], float],
    scored: dict[Levels, float],
    best: Levels,
    step: float,
    bounds: Bounds,
    budget: int,
) -> Levels | None:
    """The first neighbour of lower score, None where there is none or the budget does not reach it."""
    for move in _moves(len(best)):
        trial = tuple(rounded(x * math.exp(step * d)) for x, d in zip(best, move, strict=True))
        if not bounds.allow(trial) or (trial not in scored and len(scored) >= budget):
            continue
        if of(trial) < scored[best]:
            return trial
    return None
