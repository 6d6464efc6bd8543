"""The search for the noise levels of the later steps, until nothing helps or the budget ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fewstep.run.levels import Bounds, Levels, round_level

# The first and the finest move of a level, in ln(sigma).
_FIRST = 0.8
_LAST = 0.05


@dataclass(frozen=True)
class SearchResult:
    """The levels of the lowest score, that score, and all scores in the order of the search."""

    levels: Levels
    value: float
    scores: tuple[tuple[Levels, float], ...]

    @property
    def candidates(self) -> int:
        """How many sets of levels were scored."""
        return len(self.scores)


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
) -> SearchResult:
    """Minimises score(levels) over decreasing levels: the best start, then ever smaller moves.

    Coordinate search in ln(sigma) (Hooke & Jeeves, 1961): it takes the first move that is better,
    and halves the moves when none is. Each set of levels is scored once, at most `budget` of them;
    the same scores give the same answer.
    """
    scores: dict[Levels, float] = {}

    def score_once(levels: Levels) -> float:
        if levels not in scores:
            value = score(levels)
            scores[levels] = value if math.isfinite(value) else math.inf
        return scores[levels]

    best = min(list(first)[:budget], key=score_once)
    step = _FIRST
    while step >= _LAST and len(scores) < budget:
        better = _better(score_once, scores, best, step, bounds, budget)
        if better is None:
            step = step / 2
        else:
            best = better
    return SearchResult(best, scores[best], tuple(scores.items()))


def _better(
    score_once: Callable[[Levels], float],
    scores: dict[Levels, float],
    best: Levels,
    step: float,
    bounds: Bounds,
    budget: int,
) -> Levels | None:
    """The first neighbour of lower score; None where there is none within the budget."""
    for move in _moves(len(best)):
        trial = tuple(round_level(x * math.exp(step * d)) for x, d in zip(best, move, strict=True))
        if not bounds.allow(trial) or (trial not in scores and len(scores) >= budget):
            continue
        if score_once(trial) < scores[best]:
            return trial
    return None
