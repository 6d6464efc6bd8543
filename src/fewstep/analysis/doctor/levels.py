"""Where a run is looked at: rows of its data, noise, and the noise levels that it trains on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.analysis.doctor.linear_bound import Linear
from fewstep.analysis.doctor.subject import Subject
from fewstep.base.conditions import Cond, masked
from fewstep.base.errors import UserError
from fewstep.base.randomness import SAMPLING_BLOCK, normal, shuffled_indices, uniform
from fewstep.core.distances import mse
from fewstep.core.process import Process
from fewstep.data import Dataset, each

COUNT = 10  # noise levels of a table
ROWS = 512  # of each split at each level
DRAWN = 4096  # times that tell which levels are trained on


@dataclass(frozen=True)
class Level:
    """A noise level of the run: its time, and the share of the training rows that are nearest to
    it.
    """

    level: float  # sigma / alpha, in units of the data
    t: float
    share: float


def spread(levels: Tensor, count: int = COUNT) -> Tensor:
    """At most `count` of the levels drawn, about evenly spaced in the logarithm over their inner 99
    %.
    """
    drawn = levels[(levels > 0) & torch.isfinite(levels)].log().sort().values
    low, high = (float(torch.quantile(drawn, q)) for q in (0.005, 0.995))
    even = torch.linspace(low, high, count, dtype=torch.float64)
    return drawn[(drawn[:, None] - even).abs().argmin(0)].unique().exp()


def trained_levels(subject: Subject, count: int = COUNT) -> list[Level]:
    """The levels that the last stage trains on, from the law of its times at the run's progress."""
    method, process = subject.method, subject.method.process
    u = uniform(subject.seed, "doctor time", 0, DRAWN, 2, SAMPLING_BLOCK)
    drawn_times = method.times(u, subject.progress, torch.arange(DRAWN)).t
    drawn = process.level(drawn_times)
    chosen = spread(drawn, count)
    apart = (
        drawn.clamp(1e-12, 1e12).log()[:, None] - chosen.log()
    ).abs()  # levels of 0 and infinity are far from all
    share = torch.bincount(apart.argmin(1), minlength=len(chosen)) / len(drawn)
    times = drawn_times[
        apart.argmin(0)
    ].double()  # not time_at(chosen): rounded up by a bit, a time of a grid is its own neighbour
    times = times.clamp(method.trained_from, process.t_max)
    return [
        Level(*one) for one in zip(chosen.tolist(), times.tolist(), share.tolist(), strict=True)
    ]


def up_to_the_top(subject: Subject) -> list[tuple[float, float]]:
    """The trained levels and their times, and where sampling starts, once."""
    process = subject.method.process
    top, below = (float(process.level(process.t_max)), process.t_max), process.t_max * (1 - 1e-9)
    return [*((one.level, one.t) for one in trained_levels(subject) if one.t < below), top]


@dataclass(frozen=True)
class Rows:
    """Samples of one split with the noise that they are always seen under."""

    x0: Tensor
    cond: Cond
    z: Tensor

    def at(self, process: Process, t: float | Tensor) -> Tensor:
        """x_t `[N, ...]`."""
        return process.mix(self.x0, self.z, t)


def rows_of(
    dataset: Dataset, split: str, seed: int, count: int = ROWS, *, device: torch.device
) -> Rows:
    """Rows of a split ("train", "validation"), as many as it has up to `count`: a function of the
    seed alone.
    """
    arrays = getattr(dataset, split)
    if not len(arrays.x0):
        raise UserError(
            f"data {dataset.name!r} has no {split} split: nothing is held out to compare with"
        )
    count = min(count, len(arrays.x0))
    index = shuffled_indices(seed, f"doctor {split}", 0, count, len(arrays.x0))
    found = arrays._replace(path=None).rows(index)
    z = masked(normal(seed, "doctor noise", 0, count, dataset.shape, SAMPLING_BLOCK), found.cond)
    cond = each(lambda part: part.to(device), found.cond)
    return Rows(masked(found.x0, found.cond).to(device), cond, z.to(device))


def fresh(subject: Subject, count: int = ROWS) -> Rows:
    """Held-out rows where the data has some, else training rows: for what training rows do not
    flatter.
    """
    split = "validation" if len(subject.dataset.validation.x0) else "train"
    return rows_of(subject.dataset, split, subject.seed, count, device=place_of(subject))


def place_of(subject: Subject) -> torch.device:
    return next(subject.ema.parameters()).device


def bound(linear: Linear, process: Process, rows: Rows, t: float) -> Tensor:
    """What a good denoiser stays below, per row: the least of three simple ones, chosen by their
    means.

    The noise left in, ||x_t / alpha - x0||^2 / d; the data's mean, ||mean - x0||^2 / d; the best
    linear denoiser.
    """
    x_t = rows.at(process, t)
    mean = linear.mean.to(x_t.dtype).reshape(x_t.shape[1:])
    guesses = (
        x_t / float(process.alpha(t)),
        mean.expand(x_t.shape),
        linear.denoise(process, x_t, t),
    )
    return min((mse(guess, rows.x0) for guess in guesses), key=lambda errors: float(errors.mean()))
