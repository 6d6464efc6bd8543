"""Where a run is examined: rows of its data, noise, and the noise levels that it trains on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.adapters.rows import Rows
from fewstep.analysis.doctor.subject import Subject
from fewstep.base.conditions import apply_mask
from fewstep.base.errors import UserError
from fewstep.base.randomness import SAMPLING_BLOCK, normal, shuffled_indices, uniform
from fewstep.data import Arrays, Dataset, each

COUNT = 10  # noise levels of a table
ROWS = 512  # of each split at each level
TIMES = 4096  # draws of the time that show which levels are trained on


@dataclass(frozen=True)
class Level:
    """A noise level of the run: its time, and the share of training rows nearest to it."""

    level: float  # sigma / alpha, in units of the data
    t: float
    share: float


def spread(levels: Tensor, count: int = COUNT) -> Tensor:
    """At most `count` of the levels, about even in the logarithm over their inner 99 %."""
    logs = levels[(levels > 0) & torch.isfinite(levels)].log().sort().values
    low, high = (float(torch.quantile(logs, q)) for q in (0.005, 0.995))
    even = torch.linspace(low, high, count, dtype=torch.float64)
    return logs[(logs[:, None] - even).abs().argmin(0)].unique().exp()


def trained_levels(subject: Subject, count: int = COUNT) -> list[Level]:
    """The levels that the last stage trains on, by the law of its times at the run's progress."""
    method, process = subject.method, subject.method.process
    u = uniform(subject.seed, "doctor time", 0, TIMES, method.uniforms, SAMPLING_BLOCK)
    all_times = method.times(u, subject.progress, torch.arange(TIMES)).t
    all_levels = process.level(all_times)
    levels = spread(all_levels, count)
    # Levels of 0 and infinity are far from all.
    distance = (all_levels.clamp(1e-12, 1e12).log()[:, None] - levels.log()).abs()
    share = torch.bincount(distance.argmin(1), minlength=len(levels)) / len(all_levels)
    # Not time_at(levels): rounded up by one bit, a time of a grid is its own neighbour.
    times = all_times[distance.argmin(0)].double()
    times = times.clamp(method.trained_from, process.t_max)
    rows = zip(levels.tolist(), times.tolist(), share.tolist(), strict=True)
    return [Level(*row) for row in rows]


def levels_to_the_top(subject: Subject) -> list[tuple[float, float]]:
    """The trained levels and their times, and the level where sampling starts, once."""
    process = subject.method.process
    below = process.t_max * (1 - 1e-9)
    top = (float(process.level(process.t_max)), process.t_max)
    return [*((one.level, one.t) for one in trained_levels(subject) if one.t < below), top]


def split_of(dataset: Dataset, split: str) -> Arrays:
    """The rows of a split ("train", "validation"). Raises UserError if it is empty."""
    arrays: Arrays = getattr(dataset, split)
    if not len(arrays):
        raise UserError(
            f"data {dataset.name!r} has no {split} split: nothing is held out to compare with"
        )
    return arrays


def rows_of(
    dataset: Dataset, split: str, seed: int, count: int = ROWS, *, device: torch.device
) -> Rows:
    """Up to `count` rows of a split, a function of the seed alone; see `split_of`."""
    arrays = split_of(dataset, split)
    count = min(count, len(arrays))
    index = shuffled_indices(seed, f"doctor {split}", 0, count, len(arrays))
    part = arrays.rows(index)
    z = apply_mask(normal(seed, "doctor noise", 0, count, dataset.shape, SAMPLING_BLOCK), part.cond)
    cond = each(lambda tensor: tensor.to(device), part.cond)
    return Rows(apply_mask(part.x0, part.cond).to(device), cond, z.to(device))


def held_out_rows(subject: Subject, count: int = ROWS) -> Rows:
    """Held-out rows if the data has some, else training rows."""
    split = "validation" if len(subject.dataset.validation) else "train"
    return rows_of(subject.dataset, split, subject.seed, count, device=subject.device)
