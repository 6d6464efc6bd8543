"""What a training step takes, as a function of (seed, ordinals) alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep import data as datasets
from fewstep.config import Run
from fewstep.denoiser import Cond, masked
from fewstep.losses import Method
from fewstep.randomness import block_seed, normal, shuffled, uniform
from fewstep.times import Times


class Batch(NamedTuple):
    """All that a step takes, drawn on the host as a function of (seed, ordinals); the data is moved to the device."""

    rows: Tensor  # which of the training split, on the host
    x0: Tensor
    cond: Cond
    z: Tensor
    times: Times
    seeds: list[int]  # of the dropout masks, one per block


def draw_batch(
    run: Run, method: Method, arrays: datasets.Arrays, step: int, device: torch.device, progress: float | None = None
) -> Batch:
    """The batch of a step: global sample ordinals [step B, (step + 1) B), in whole blocks.

    progress: what the schedules see, where that is not the share of the whole run.
    """
    first = step * run.batch
    index = shuffled(run.seed, "order", first, run.batch, len(arrays.x0))
    x0, cond = arrays.rows(index)
    z = masked(normal(run.seed, "noise", first, run.batch, tuple(x0.shape[1:]), run.block), cond)
    if run.label_drop:
        chance = uniform(run.seed, "label drop", first, run.batch, 1, run.block)[:, 0]
        cond = datasets.dropped(cond, chance < run.label_drop)
    u = uniform(run.seed, "time", first, run.batch, 2, run.block)
    progress = step / run.iterations if progress is None else progress
    times = method.times(u, progress, torch.arange(first, first + run.batch))._replace(u=u, progress=progress)
    blocks = range(first // run.block, (first + run.batch) // run.block)
    return Batch(
        index,
        masked(x0, cond).to(device),
        datasets.each(lambda part: part.to(device), cond),
        z.to(device),
        times,
        [block_seed(run.seed, "dropout", block) for block in blocks],
    )


def cut(batch: Batch, rows: slice, blocks: slice) -> Batch:
    """Some rows of a batch, with the seeds of their blocks."""
    kept: dict[str, Any] = {name: x[rows] for name, x in batch.times._asdict().items() if isinstance(x, Tensor)}
    cond = datasets.each(lambda x: x[rows], batch.cond)
    times = batch.times._replace(**kept)
    return Batch(batch.rows[rows], batch.x0[rows], cond, batch.z[rows], times, batch.seeds[blocks])


def parts(batch: Batch, number: int) -> list[Batch]:
    """The batch cut in equal runs of whole blocks."""
    rows, blocks = len(batch.rows) // number, len(batch.seeds) // number
    runs = [(slice(i * rows, (i + 1) * rows), slice(i * blocks, (i + 1) * blocks)) for i in range(number)]
    return [cut(batch, *run) for run in runs]
