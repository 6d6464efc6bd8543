"""The reading that fits a network's output: every one is tried on the same rows of data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from fewstep.adapters.candidates import Guesser, Raw, candidates
from fewstep.adapters.linear_bound import Linear
from fewstep.adapters.rows import Rows, bound
from fewstep.base.errors import UserError
from fewstep.core.conventions import Convention
from fewstep.core.distances import mse
from fewstep.core.process import edm

ROWS = 128  # that the readings are tried on
COUNT = 8  # levels
DENOISER = 1.1  # scores up to it are a denoiser's
# A score above it is a simple denoiser's: all there is of Gaussian data, too little of other data.
PLAIN = 0.98
TIE = 1.01  # scores within this factor of the best are equal: the plainer reading is named
BETTER = 1.05  # a reading counts as another one if its score is below the declared one's by this
SURE = 4.0  # standard errors of that difference


class Result(NamedTuple):
    """Errors per row of one reading `[L, n]`, each in units of its level's bound."""

    reading: Convention
    relative: Tensor

    @property
    def score(self) -> float:
        """1 is as good as the best simple denoiser at every level."""
        return float(self.relative.mean())


def levels_of(std: float, count: int = COUNT) -> tuple[float, ...]:
    """From a twentieth of the data's deviation to ten of it: there a guess depends on its law."""
    return tuple((std * torch.logspace(-1.3, 1, count, dtype=torch.float64)).tolist())


def bounds(linear: Linear, rows: Rows, levels: Sequence[float]) -> Tensor:
    """Each level's bound `[L, 1]` on these rows."""
    process = edm()
    values = [bound(linear, process, rows, level).double().cpu() for level in levels]
    return torch.stack(values).mean(1, keepdim=True)


def errors(
    reading: Convention, rows: Rows, levels: tuple[float, ...], guesser: Guesser
) -> Tensor | None:
    """||D - x0||^2 / d `[L, n]` of a reading; NaN counts as infinite.

    None if the reading has no times for these levels.
    """
    guesses = guesser.guess(reading, rows, levels)
    if guesses is None:
        return None
    values = torch.stack([mse(guess, rows.x0).double().cpu() for guess in guesses])
    return torch.where(values.isnan(), torch.inf, values)


@dataclass(frozen=True)
class Trial:
    """A network asked on rows of its data, as declared and by every reading."""

    network: Raw
    reading: Convention
    rows: Rows
    linear: Linear  # of the training rows
    x0: Tensor  # training rows
    count: int = COUNT  # levels

    def few(self, rows: int, count: int) -> Trial:
        """The same on so many rows and levels."""
        part = self.rows.first(rows)
        return replace(self, rows=part, count=count)

    def own(self) -> Result | None:
        """The declared reading's; None where its process has no times for these levels."""
        return self.result(self.reading)

    def result(self, reading: Convention) -> Result | None:
        """That of a reading."""
        return self._result_of(reading, Guesser(self.network))

    def ranking(self) -> list[Result]:
        """Those of all readings, the best first."""
        guesser = Guesser(self.network)

        def result_of(reading: Convention) -> Result | None:
            return self._result_of(reading, guesser)

        results = {}
        for reading in candidates(self.reading, self.x0):
            try:
                result = result_of(reading)
            except UserError:  # it refuses this label; at its declared one it has answered
                continue
            if result is not None:
                results[str(reading)] = result
        return rank(list(results.values()), result_of)

    def finalists(self, ranking: Sequence[Result]) -> list[Result]:
        """The readings of another trial's results on these rows and levels, the best first."""
        results = (self.result(one.reading) for one in ranking)
        return sorted((one for one in results if one is not None), key=lambda one: one.score)

    @cached_property
    def _levels(self) -> tuple[float, ...]:
        return levels_of(float(self.x0.double().std()), self.count)

    @cached_property
    def _bounds(self) -> Tensor:
        return bounds(self.linear, self.rows, self._levels)

    def _result_of(self, reading: Convention, guesser: Guesser) -> Result | None:
        values = errors(reading, self.rows, self._levels, guesser)
        return None if values is None else Result(reading, values / self._bounds)


def rank(
    results: Sequence[Result], result_of: Callable[[Convention], Result | None]
) -> list[Result]:
    """The results by score, with the best sigma_data; among equals of the best the plainer first.

    The plainer one is earlier among the candidates, whose order the sort keeps.
    """
    ranking = list(results)
    edm_results = [one for one in ranking if one.reading.sigma_data is not None]
    if edm_results:
        ranking.append(fit_sigma_data(min(edm_results, key=lambda one: one.score), result_of))
    tie = TIE * min(one.score for one in ranking)
    return sorted(ranking, key=lambda one: max(one.score, tie))


def fit_sigma_data(best: Result, result_of: Callable[[Convention], Result | None]) -> Result:
    """The same reading at the sigma_data that fits best, by a search around it."""
    for factor in (1.15, 1.05, 1.02):
        middle = best.reading.sigma_data or 1.0
        for power in (-3, -2, -1, 1, 2, 3):
            other = result_of(best.reading.with_sigma_data(middle * factor**power))
            if other is not None and other.score < best.score:
                best = other
    return best


def certain(worse: Result, better: Result, factor: float = BETTER) -> bool:
    """By this factor, and by `SURE` standard errors of the paired difference over the rows."""
    difference = (worse.relative - better.relative).mean(0)
    error = float(difference.std()) / len(difference) ** 0.5
    return worse.score > factor * better.score and not float(difference.mean()) < SURE * error


def another(own: Result, ranking: Sequence[Result]) -> str:
    """Where another reading than the declared one is certainly better: it, and by how much."""
    best = ranking[0]
    like = "reads like"
    if best.score >= PLAIN:
        like = "is nearest to, but no better than a linear denoiser as,"
    message = (
        f"this teacher {like} {best.reading}: read so, its error is {best.score:.3g} of the"
        f" bound, as declared ({own.reading}) {own.score:.3g}"
    )
    for other in ranking:
        new = str(other.reading) != str(best.reading)
        if new and other.score <= DENOISER and not certain(other, best, TIE):
            return (
                f"{message}; {other.reading} ({other.score:.3g}) cannot be distinguished from it"
                " here"
            )
    return message
