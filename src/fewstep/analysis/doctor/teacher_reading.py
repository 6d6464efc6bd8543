"""The reading that fits a teacher's output: every one is tried on the same held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from fewstep.analysis.doctor.interpretations import Guesser, Reading, candidates
from fewstep.analysis.doctor.teacher import DENOISER, NO_TIMES, Teacher, errors
from fewstep.analysis.doctor.verdicts import Measure, Severity, Verdict, judge
from fewstep.base.errors import UserError

ROWS = 128  # that the readings are tried on
# A score above it is a simple denoiser's: all there is of Gaussian data, too little of other data.
PLAIN = 0.98
TIE = 1.01  # scores within this factor of the best are equal: the plainer reading is named
BETTER = 1.05  # a reading counts as another one if its score is below the declared one's by this
SURE = 4.0  # standard errors of that difference


class Result(NamedTuple):
    """Errors per row of one reading `[L, n]`, each in units of its level's bound."""

    reading: Reading
    relative: Tensor

    @property
    def score(self) -> float:
        """1 is as good as the best simple denoiser at every level."""
        return float(self.relative.mean())


def find_reading(teacher: Teacher) -> Measure:
    """Every reading on the same rows, the best by name, and whether the declared one is it."""
    rows, levels = teacher.split("validation", ROWS), teacher.levels()
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
    ranking = rank(list(results.values()), result_of)
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


def rank(results: Sequence[Result], result_of: Callable[[Reading], Result | None]) -> list[Result]:
    """The results by score, with the best sigma_data; among equals of the best the plainer first.

    The plainer one is earlier among the candidates, whose order the sort keeps.
    """
    ranking = list(results)
    edm_results = [one for one in ranking if one.reading.sigma_data is not None]
    if edm_results:
        ranking.append(fit_sigma_data(min(edm_results, key=lambda one: one.score), result_of))
    tie = TIE * min(one.score for one in ranking)
    return sorted(ranking, key=lambda one: max(one.score, tie))


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
        f"this teacher {like} {best.reading}: read so, its error is {best.score:.3g} of the"
        f" bound, as declared ({own.reading}) {own.score:.3g}: load it so"
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
