"""A teacher with data: its denoising loss by noise level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep import exact
from fewstep.adapters.candidates import Guesser, Raw
from fewstep.adapters.linear_bound import linear_of
from fewstep.adapters.reading import COUNT, DENOISER, bounds, errors, levels_of
from fewstep.adapters.rows import Rows
from fewstep.analysis.doctor.levels import rows_of
from fewstep.analysis.doctor.loss import overfitting
from fewstep.analysis.doctor.verdicts import Measure, Verdict, judge
from fewstep.core.conventions import Convention
from fewstep.core.distances import mse
from fewstep.core.process import edm
from fewstep.data import Dataset

ROWS = 256  # of each split
POINTS = 2000  # training rows of the empirical denoiser

CPU = torch.device("cpu")
NO_TIMES = "the declared process has no times for these levels"


@dataclass(frozen=True)
class Teacher:
    """A network with its declared reading, and the data that it should denoise."""

    name: str
    network: Raw
    reading: Convention
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
        return levels_of(self.std)


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
    limits = bounds(linear_of(teacher.dataset.train.x0), held_out, levels)
    columns = (
        levels,
        error_train.mean(1).tolist(),
        error.mean(1).tolist(),
        limits.flatten().tolist(),
        posterior_variances(teacher, held_out),
        errors_by_heart(teacher, train),
    )
    verdicts = (
        judge_denoiser(error / limits, levels),
        overfitting(error_train / limits, error / limits, levels),
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
