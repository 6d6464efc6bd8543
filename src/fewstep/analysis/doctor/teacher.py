"""A teacher with data: its denoising loss by noise level, and the reading that fits its output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep import exact
from fewstep.analysis.doctor.interpretations import Guesser, Raw, Reading, candidates
from fewstep.analysis.doctor.levels import Rows, bound, rows_of
from fewstep.analysis.doctor.linear_bound import linear_of
from fewstep.analysis.doctor.loss import overfitting
from fewstep.analysis.doctor.verdicts import Measure, Severity, Verdict, judge
from fewstep.base.errors import UserError
from fewstep.core.distances import mse
from fewstep.core.process import edm
from fewstep.data import Dataset

COUNT, ROWS = 8, 256  # levels, and rows of each split
SEARCH_ROWS = 128  # rows that the readings are tried on
POINTS = 2000  # training rows of the empirical denoiser
DENOISER = 1.1  # scores up to it are a denoiser's
# A score above it is a simple denoiser's: all there is of Gaussian data, too little of other data.
PLAIN = 0.98
TIE = 1.01  # scores within this factor of the best are equal: the plainer reading is named
BETTER = 1.05  # a reading counts as another one if its score is below the declared one's by this
SURE = 4.0  # standard errors of that difference

CPU = torch.device("cpu")
NO_TIMES = "the declared process has no times for these levels"


@dataclass(frozen=True)
class Teacher:
    """A network with its declared reading, and the data that it should denoise."""

    name: str
    network: Raw
    reading: Reading
    dataset: Dataset
    truth: Any = None
    seed: int = 0
    device: torch.device = CPU

    @property
    def std(self) -> float:
        """The deviation of the training split."""
        return float(self.dataset.train.x0.double().std())

    def split(self, name: str, count: int = ROWS) -> Rows:
        return rows_of(self.dataset, name, self.seed, count, device=self.device)

    def levels(self) -> tuple[float, ...]:
        """From a twentieth of the data's deviation to ten of it.

        There a guess depends on the data's law.
        """
        return tuple((self.std * torch.logspace(-1.3, 1, COUNT, dtype=torch.float64)).tolist())

    def bounds(self, rows: Rows) -> Tensor:
        """Each level's bound `[L, 1]` on these rows."""
        linear, process = linear_of(self.dataset.train.x0), edm()
        errors = [bound(linear, process, rows, level).double().cpu() for level in self.levels()]
        return torch.stack(errors).mean(1, keepdim=True)


class Result(NamedTuple):
    """Errors per row of one reading `[L, n]`, each in units of its level's bound."""

    reading: Reading
    relative: Tensor

    @property
    def score(self) -> float:
        """1 is as good as the best simple denoiser at every level."""
        return float(self.relative.mean())


def errors(
    reading: Reading, rows: Rows, levels: tuple[float, ...], guesser: Guesser
) -> Tensor | None:
    """||D - x0||^2 / d `[L, n]` of a reading; NaN counts as infinite.

    None if the reading has no times for these levels.
    """
    guesses = guesser.guess(reading, rows, levels)
    if guesses is None:
        return None
    values = torch.stack([mse(guess, rows.x0).double().cpu() for guess in guesses])
    return torch.where(values.isnan(), torch.inf, values)


def denoising(teacher: Teacher) -> Measure:
    """The table of the declared reading, whether it is a denoiser, and whether it overfits."""
    levels = teacher.levels()
    train, held_out = teacher.split("train"), teacher.split("validation")
    error_train, error = (
        errors(teacher.reading, rows, levels, Guesser(teacher.network))
        for rows in (train, held_out)
    )
    if error_train is None or error is None:
        return Measure("denoising by noise level", "", missing=NO_TIMES)
    bounds = teacher.bounds(held_out)
    columns = (
        levels,
        error_train.mean(1).tolist(),
        error.mean(1).tolist(),
        bounds.flatten().tolist(),
        posterior_variances(teacher, held_out),
        errors_by_heart(teacher, train),
    )
    verdicts = (
        judge_denoiser(error / bounds, levels),
        overfitting(error_train / bounds, error / bounds, levels),
    )
    return Measure(
        "denoising by noise level",
        "E||D(x_t, t) - x0||^2 / d; bound, above: the least of the noise left in, the data's mean"
        " and the best linear denoiser, on the same held-out rows; posterior, below: its variance,"
        " of an exact law; by heart: the denoiser that knows only training rows, on training rows",
        ("level", "error train", "error held out", "bound", "posterior", "by heart"),
        list(zip(*columns, strict=True)),
        verdicts,
    )


def posterior_variances(teacher: Teacher, rows: Rows) -> list[float | None]:
    """The least error by level, of data whose law is exact."""
    truth, process = teacher.truth, edm()
    if truth is None:
        return [None] * COUNT
    cond = rows.cond if truth.classes else None
    return [
        float(truth.posterior_variance(rows.at(process, level), level, cond).mean())
        for level in teacher.levels()
    ]


def errors_by_heart(teacher: Teacher, train: Rows) -> list[float]:
    """By level the error on training rows of the denoiser that knows only training rows."""
    x0, process = train.x0.cpu(), edm()
    points = exact.Empirical(torch.cat([x0, teacher.dataset.train.x0[:POINTS]]).unique(dim=0))
    return [
        float(mse(points(train.at(process, level).cpu(), level), x0).mean())
        for level in teacher.levels()
    ]


def judge_denoiser(relative: Tensor, levels: Sequence[float]) -> Verdict:
    """The level at which it is furthest above its bound."""
    means = relative.mean(1).tolist()
    worst = max(means)
    level = levels[means.index(worst)]
    above = [f"{s:.2g}" for s, mean in zip(levels, means, strict=True) if mean > DENOISER]
    return judge(
        "no-denoiser",
        worst,
        DENOISER,
        2.0,
        against="1 is the best simple denoiser on the same rows",
        ok=(
            f"it denoises: its error is at most {worst:.2f} of a simple denoiser's, at level"
            f" {level:.2g}"
        ),
        fault=(
            f"under these settings it is no denoiser of this data: at level {level:.2g} its error"
            f" is {worst:.3g} times that of the best simple one (above it at {', '.join(above)})"
        ),
    )


def find_reading(teacher: Teacher) -> Measure:
    """Every reading on the same rows, the best by name, and whether the declared one is it."""
    rows, levels = teacher.split("validation", SEARCH_ROWS), teacher.levels()
    bounds, guesser = teacher.bounds(rows), Guesser(teacher.network)

    def result_of(reading: Reading) -> Result | None:
        values = errors(reading, rows, levels, guesser)
        return None if values is None else Result(reading, values / bounds)

    own = result_of(teacher.reading)
    if own is None:
        return Measure("reading", "", missing=NO_TIMES)
    results = {}
    for reading in candidates(teacher.reading, teacher.dataset.train.x0):
        try:
            result = result_of(reading)
        except UserError:  # the network refuses this label; at its declared label it has answered
            continue
        if result is not None:
            results[str(reading)] = result
    ranking = rank(results, result_of)
    best = ranking[0] if certain(own, ranking[0]) else own
    scores = {str(one.reading): one.score for one in (best, *ranking[:4])}
    return Measure(
        "reading",
        "held-out error in units of the bound, mean over levels, by each reading of the network's"
        " output: prediction, process, noise label, sign, range and sigma_data",
        ("reading", "score"),
        [*scores.items(), (f"as declared: {own.reading}", own.score)],
        (judge_reading(own, best, ranking), judge_sigma_data(teacher, best)),
    )


def rank(
    results: Mapping[str, Result], result_of: Callable[[Reading], Result | None]
) -> list[Result]:
    """The results by score, with the best sigma_data; among equals of the best the plainer first.

    The plainer one is earlier among the candidates.
    """
    ranking = list(results.values())
    edm_results = [one for one in ranking if one.reading.sigma_data is not None]
    if edm_results:
        ranking.append(fit_sigma_data(min(edm_results, key=lambda one: one.score), result_of))
    ranking.sort(key=lambda one: one.score)
    ties = [one for one in ranking if one.score <= TIE * ranking[0].score]
    place = {name: i for i, name in enumerate(results)}
    plain_first = sorted(ties, key=lambda one: place.get(str(one.reading), len(place)))
    return [*plain_first, *ranking[len(ties) :]]


def fit_sigma_data(best: Result, result_of: Callable[[Reading], Result | None]) -> Result:
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


def judge_reading(own: Result, best: Result, ranking: Sequence[Result]) -> Verdict:
    """As declared; or another, by name, if it is certain and a denoiser; or none is right."""
    severity: Severity = "ok" if own.score <= DENOISER else "broken"
    if best is not own and best.score > DENOISER:
        severity = "broken"
        message = (
            f"it is no denoiser as declared ({own.score:.3g} times the bound), and of the readings"
            f" tried the nearest is {best.reading}, {best.score:.3g} times the bound: none is right"
        )
    elif best is not own:
        severity = "watch" if severity == "ok" else severity
        message = _another(own, best, ranking)
    elif severity == "ok":
        message = f"it reads as declared: {own.reading}, at {own.score:.3g} of the bound"
    else:
        message = (
            "no reading that was tried makes it a denoiser of this data: as declared its error is"
            f" {own.score:.3g} times the bound, and no other is better: is it this data, and is it"
            " trained?"
        )
    against = (
        f"the best of the readings; {BETTER:g} and {SURE:g} standard errors of the paired"
        " difference"
    )
    return Verdict("wrong-reading", severity, own.score / best.score, BETTER, against, message)


def _another(own: Result, best: Result, ranking: Sequence[Result]) -> str:
    """The message where another reading is the right one."""
    like = "reads like"
    if best.score >= PLAIN:
        like = "is nearest to, but no better than a linear denoiser as,"
    message = (
        f"this teacher {like} {best.reading}: so its loss is {best.score:.3g} of the bound, as"
        f" declared ({own.reading}) {own.score:.3g}: load it so"
    )
    for other in ranking:
        new = str(other.reading) != str(best.reading)
        if new and other.score <= DENOISER and not certain(other, best, TIE):
            return (
                f"{message}; {other.reading} ({other.score:.3g}) cannot be distinguished from it"
                " here"
            )
    return message


def judge_sigma_data(teacher: Teacher, best: Result) -> Verdict:
    """The sigma_data that it was trained with against the data's own."""
    std = teacher.std * best.reading.range.scale
    own = best.reading.sigma_data
    ratio, ok, fault = 1.0, "its output needs no sigma_data", ""
    if own is not None:
        ratio = max(own / std, std / own)
        ok = f"its sigma_data {own:.3g} is the data's, {std:.3g}"
        fault = (
            f"its sigma_data is {own:.3g}, the data's deviation {std:.3g}: it learns, but its"
            " output is not of unit variance; set --sigma-data, or scale the data"
        )
    return judge(
        "sigma-data",
        ratio,
        1.2,
        1e9,
        against="the standard deviation of the training split, within 20 %",
        ok=ok,
        fault=fault,
    )


def teacher_measures(teacher: Teacher) -> dict[str, Callable[[], Measure]]:
    """The measures of a teacher, by name."""
    return {
        "denoising by noise level": partial(denoising, teacher),
        "reading": partial(find_reading, teacher),
    }
