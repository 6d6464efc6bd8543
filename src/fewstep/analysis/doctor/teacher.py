"""A teacher with data: its denoising loss by noise level, the bounds of theory, and what it reads
like.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep import exact
from fewstep.analysis.doctor.interpretations import Raw, Reading, Tried, at_sigma_data, candidates
from fewstep.analysis.doctor.levels import Rows, bound, rows_of
from fewstep.analysis.doctor.linear_bound import linear_of
from fewstep.analysis.doctor.loss import overfitting
from fewstep.analysis.doctor.verdicts import Measure, Severity, Verdict, judged
from fewstep.base.errors import UserError
from fewstep.core import abilities
from fewstep.core.distances import mse
from fewstep.core.process import edm
from fewstep.data import Dataset

COUNT, ROWS = 8, 256  # levels, and rows of each split
SEARCHED = 128  # rows that the readings are tried on
POINTS = 2000  # training rows of the empirical denoiser
# a score above it is a simple denoiser's: all there is of Gaussian data, too little of other data
PLAIN = 0.98
TIE = 1.01  # scores within this factor of the best are its equals: the plainer reading is named
BETTER = 1.05  # a reading's score below the declared one's by this factor is another reading
SURE = 4.0  # standard errors of that difference

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Teacher:
    """A network with what it is declared to say, and the data that it should denoise."""

    name: str
    network: Raw
    reading: Reading
    dataset: Dataset
    truth: Any = None
    seed: int = 0
    device: torch.device = CPU

    def split(self, name: str, count: int = ROWS) -> Rows:
        return rows_of(self.dataset, name, self.seed, count, device=self.device)

    def levels(self) -> tuple[float, ...]:
        """From a twentieth of the data's deviation to ten of it: where a guess depends on the
        data's law.
        """
        std = float(self.dataset.train.x0.double().std())
        return tuple((std * torch.logspace(-1.3, 1, COUNT, dtype=torch.float64)).tolist())


class Guessed(NamedTuple):
    """Errors per row of one reading, level by level `[L, n]`, each in units of that level's bound."""

    reading: Reading
    relative: Tensor

    @property
    def score(self) -> float:
        """1 is as good as the best simple denoiser at every level."""
        return float(self.relative.mean())


def errors(reading: Reading, rows: Rows, levels: tuple[float, ...], tried: Tried) -> Tensor | None:
    """||D - x0||^2 / d `[L, n]` of a reading; None where it has no times for these levels."""
    guesses = tried.guess(reading, rows, levels)
    if guesses is None:
        return None
    found = torch.stack([mse(guess, rows.x0).double().cpu() for guess in guesses])
    return torch.where(
        found.isnan(), torch.inf, found
    )  # a reading that gives NaN is the worst there is


def denoising(teacher: Teacher) -> Measure:
    """The table of the declared reading, whether it is a denoiser, and whether it knows its
    training rows by heart.
    """
    linear, levels, process = linear_of(teacher.dataset.train.x0), teacher.levels(), edm()
    train, held = teacher.split("train"), teacher.split("validation")
    points = exact.Empirical(
        torch.cat([train.x0.cpu(), teacher.dataset.train.x0[:POINTS]]).unique(dim=0)
    )
    lost = [errors(teacher.reading, rows, levels, Tried(teacher.network)) for rows in (train, held)]
    if lost[0] is None or lost[1] is None:
        return Measure(
            "denoising by noise level",
            "",
            missing="the declared process has no times for these levels",
        )
    limit = torch.stack([bound(linear, process, held, level).double().cpu() for level in levels])
    rows: list[tuple[float | None, ...]] = []
    for i, level in enumerate(levels):
        x_t = train.at(process, level).cpu()
        empirical = float(mse(points(x_t, level), train.x0.cpu()).mean())
        posterior = None
        if teacher.truth is not None:
            cond = held.cond if teacher.truth.classes else None
            posterior = float(
                teacher.truth.posterior_variance(held.at(process, level), level, cond).mean()
            )
        rows.append((level, float(lost[0][i].mean()), float(lost[1][i].mean()), float(limit[i].mean()), posterior,
                     empirical))  # fmt: skip
    scale = limit.mean(1, keepdim=True)
    verdicts = (
        judge_denoiser(lost[1] / scale, levels),
        overfitting(lost[0] / scale, lost[1] / scale, levels),
    )
    return Measure(
        "denoising by noise level",
        "E||D(x_t, t) - x0||^2 / d; bound, above: the least of the noise left in, the data's mean"
        " and the best linear denoiser, on the same held-out rows; posterior, below: its variance,"
        " of an exact law; by heart: the denoiser that knows only training rows, on training rows",
        ("level", "error train", "error held out", "bound", "posterior", "by heart"),
        rows,
        verdicts,
    )


def judge_denoiser(relative: Tensor, levels: Sequence[float]) -> Verdict:
    """The level at which it is furthest above its bound."""
    means = relative.mean(1)
    at = int(means.argmax())
    above = [
        f"{level:.2g}" for level, mean in zip(levels, means.tolist(), strict=True) if mean > 1.1
    ]
    return judged(
        "no-denoiser",
        float(means[at]),
        1.1,
        2.0,
        against="1 is the best simple denoiser on the same rows",
        fine=(
            f"it denoises: at most {float(means[at]):.2f} of what simple denoisers lose, at level"
            f" {levels[at]:.2g}"
        ),
        ill=(
            f"under these settings it is no denoiser of this data: at level {levels[at]:.2g} it"
            f" loses {float(means[at]):.3g} times what the best simple one does (above it at"
            f" {', '.join(above)})"
        ),
    )


def reading_of(teacher: Teacher) -> Measure:
    """Every reading on the same rows, the best by name, and whether the declared one is it."""
    rows, tried, levels = (
        teacher.split("validation", SEARCHED),
        Tried(teacher.network),
        teacher.levels(),
    )
    linear, process = linear_of(teacher.dataset.train.x0), edm()
    scale = torch.stack(
        [bound(linear, process, rows, level).double().cpu().mean() for level in levels]
    )[:, None]

    def guessed(reading: Reading) -> Guessed | None:
        lost = errors(reading, rows, levels, tried)
        return None if lost is None else Guessed(reading, lost / scale)

    given = guessed(teacher.reading)
    if given is None:
        return Measure("reading", "", missing="the declared process has no times for these levels")

    def possible(reading: Reading) -> Guessed | None:
        try:
            return guessed(reading)
        except (
            UserError
        ):  # it refuses labels that no time of its own has; as declared it has answered
            return None

    others = candidates(teacher.reading, teacher.dataset.train.x0)
    found = {str(one.reading): one for one in filter(None, map(possible, others))}
    fits = [one for one in found.values() if sigma_data_of(one.reading) is not None]
    ranked = list(found.values())
    if fits:
        ranked.append(refined(min(fits, key=lambda one: one.score), guessed))
    ranked = plainest(sorted(ranked, key=lambda one: one.score), list(found))
    best = ranked[0] if certain(given, ranked[0]) else given
    told = {str(one.reading): one.score for one in (best, *ranked[:4])}
    table = [*told.items(), (f"as declared: {given.reading}", given.score)]
    return Measure(
        "reading",
        "held-out error in units of the bound, mean over levels, for each way to understand the"
        " network: prediction, process, time label, sign, range and sigma_data",
        ("reading", "score"),
        table,
        (judge_reading(given, best, ranked), judge_sigma_data(teacher, best)),
    )


def plainest(ranked: list[Guessed], order: list[str]) -> list[Guessed]:
    """By score, but where nothing decides between the best ones the plainer first: earlier among
    the candidates.
    """
    ties = [one for one in ranked if one.score <= TIE * ranked[0].score]
    place = {name: i for i, name in enumerate(order)}
    ties.sort(key=lambda one: place.get(str(one.reading), len(order)))
    return [*ties, *ranked[len(ties) :]]


def refined(best: Guessed, guessed: Callable[[Reading], Guessed | None]) -> Guessed:
    """The same reading at the sigma_data that fits best, by a search around it."""
    for factor in (1.15, 1.05, 1.02):
        now = sigma_data_of(best.reading) or 1.0
        for power in (-3, -2, -1, 1, 2, 3):
            other = guessed(at_sigma_data(best.reading, now * factor**power))
            best = other if other is not None and other.score < best.score else best
    return best


def sigma_data_of(reading: Reading) -> float | None:
    return abilities.sigma_data(reading.scaling)


def certain(worse: Guessed, better: Guessed, factor: float = BETTER) -> bool:
    """By this factor, and by `SURE` standard errors of the paired difference over the rows."""
    apart = (worse.relative - better.relative).mean(0)
    error = float(apart.std()) / len(apart) ** 0.5
    return worse.score > factor * better.score and not float(apart.mean()) < SURE * error


def judge_reading(given: Guessed, best: Guessed, ranked: Sequence[Guessed]) -> Verdict:
    """As declared; or another, by name, where it is certain and makes it a denoiser; or nobody
    knows.
    """
    severity: Severity = "ok" if given.score <= 1.1 else "broken"
    if best is given:
        told = f"it reads as declared: {given.reading}, at {given.score:.3g} of the bound"
        if severity != "ok":
            told = (
                "no reading that was tried makes it a denoiser of this data: as declared it loses "
            )
            told += (
                f"{given.score:.3g} times the bound, and no other is better: is it this data, and"
                " is it trained?"
            )
    elif best.score > 1.1:
        severity, told = (
            "broken",
            f"it is no denoiser as declared ({given.score:.3g} times the bound), and of the ",
        )
        told += (
            f"readings tried the nearest is {best.reading}, {best.score:.3g} times the bound: none"
            " is right"
        )
    else:
        severity = "watch" if severity == "ok" else severity
        others = [one for one in ranked if one.score <= 1.1 and not certain(one, best, TIE)]
        others = [one for one in others if str(one.reading) != str(best.reading)]
        like = (
            "reads like"
            if best.score < PLAIN
            else "is nearest to, but no better than a linear denoiser as,"
        )
        told = (
            f"this teacher {like} {best.reading}: its loss so is {best.score:.3g} of the bound, as"
            " declared "
        )
        told += f"({given.reading}) {given.score:.3g}: load it so"
        told += (
            f"; {others[0].reading} ({others[0].score:.3g}) cannot be told from it here"
            if others
            else ""
        )
    against = (
        f"the best of the readings; {BETTER:g} and {SURE:g} standard errors of the paired"
        " difference"
    )
    return Verdict("wrong-reading", severity, given.score / best.score, BETTER, against, told)


def judge_sigma_data(teacher: Teacher, best: Guessed) -> Verdict:
    """The sigma_data that it was trained with against the data's own."""
    std = float(teacher.dataset.train.x0.double().std()) * best.reading.range.scale
    own = sigma_data_of(best.reading)
    apart = 1.0 if own is None else max(own / std, std / own)
    words = (
        "its output needs no sigma_data"
        if own is None
        else f"its sigma_data {own:.3g} is the data's, {std:.3g}"
    )
    return judged(
        "sigma-data",
        apart,
        1.2,
        1e9,
        against="the standard deviation of the training split, within 20 %",
        fine=words,
        ill=(
            f"its sigma_data is {own or 0:.3g}, the data's deviation {std:.3g}: it learns, but its"
            " output is not of unit variance; set --sigma-data, or scale the data"
        ),
    )


def teacher_measures(teacher: Teacher) -> dict[str, Any]:
    """The measures of a teacher, by name."""
    return {
        "denoising by noise level": lambda: denoising(teacher),
        "reading": lambda: reading_of(teacher),
    }
