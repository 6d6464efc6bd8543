"""What a training step takes, as a function of (seed, ordinals) alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep import data as datasets
from fewstep.base.conditions import Cond, apply_mask
from fewstep.base.device import send
from fewstep.base.errors import require
from fewstep.base.randomness import block_seed, normal, shuffled_indices, uniform
from fewstep.base.world import ALONE, World
from fewstep.core import abilities
from fewstep.core.couplings import Cached
from fewstep.core.method import Method
from fewstep.core.process import expand
from fewstep.core.times import Levels, Times
from fewstep.data import augmentation
from fewstep.run.config import Run
from fewstep.run.stages import Stage


class Batch(NamedTuple):
    """All that a step takes, drawn on the host; `to_device` moves the data."""

    rows: Tensor  # which of the training split, on the host
    x0: Tensor
    cond: Cond
    z: Tensor
    times: Times
    seeds: list[int]  # of the dropout masks, one per block


def draw_batch(stage: Stage, arrays: datasets.Arrays, step: int, world: World = ALONE) -> Batch:
    """The batch of a step: global sample ordinals [step B, (step + 1) B), in whole blocks.

    world: of a rank, its part of them. Schedules see the step's share of the stage.
    """
    run = stage.run
    method = stage.method
    count = run.batch // world.size
    first = step * run.batch + world.rank * count
    # Data and noise.
    reuse = sharing(run, method)
    index, x0, cond, z = samples(run, arrays, first // reuse, count // reuse, run.block // reuse)
    if reuse > 1:
        index, x0, cond, z = (repeat_rows(part, reuse) for part in (index, x0, cond, z))
    # Times.
    u = uniform(run.seed, "time", first, count, method.uniforms, run.block)
    progress = stage.progress(run.schedule_step(step))
    times = method.times(u, progress, torch.arange(first, first + count))
    times = times._replace(u=u, progress=progress)
    if arrays.path is not None:
        x0, z = on_path(method, arrays.path, index, x0, times)
    # Dropout.
    blocks = range(first // run.block, (first + count) // run.block)
    seeds = [block_seed(run.seed, "dropout", block) for block in blocks]
    return Batch(index, apply_mask(x0, cond), cond, z, times, seeds)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its data on the device; rows, times and seeds stay on the host."""
    cond = datasets.each(lambda part: send(part, device), batch.cond)
    return batch._replace(x0=send(batch.x0, device), cond=cond, z=send(batch.z, device))


def samples(
    run: Run, arrays: datasets.Arrays, first: int, count: int, block: int
) -> tuple[Tensor, Tensor, Cond, Tensor]:
    """(index, x0, condition, noise) of the ordinals [first, first + count)."""
    index = shuffled_indices(run.seed, "order", first, count, len(arrays))
    x0 = arrays.draw(index, lambda: normal(run.seed, "latents", first, count, arrays.shape, block))
    cond = datasets.each(lambda part: part[index], arrays.cond)
    z = apply_mask(normal(run.seed, "noise", first, count, arrays.shape, block), cond)
    if run.flip or run.augment:
        u = uniform(run.seed, "augment", first, count, augmentation.COLUMNS, block)
        x0, cond = augmentation.change(x0, cond, u, run.flip, run.augment)
    if run.label_drop:
        chance = uniform(run.seed, "label drop", first, count, 1, block)[:, 0]
        cond = datasets.drop_labels(cond, chance < run.label_drop)
    return index, x0, cond, z


def sharing(run: Run, method: Method) -> int:
    """How many consecutive rows share a sample. Raises UserError where a block parts groups."""
    reuse = abilities.reuse(method.coupling)
    require(
        run.block % method.group == 0,
        "reuse" if reuse == method.group else "group",
        method.group,
        f"a divisor of block={run.block}, since blocks hold whole groups",
    )
    return reuse


def repeat_rows(part: Any, times: int) -> Any:
    """Every row of a tensor or condition that many times in succession."""
    return datasets.each(lambda x: x.repeat_interleave(times, 0), part)


def on_path(
    method: Method, path: Tensor, index: Tensor, end: Tensor, times: Times
) -> tuple[Tensor, Tensor]:
    """The x0 and z whose mixtures are the trajectory's point at t and its end at a.

    z = (x_t - alpha x0) / sigma
    """
    assert isinstance(method.coupling, Cached)
    process = method.process
    levels = Levels(grid=method.coupling.grid)
    x_t = path[index, levels.place(times.t)]
    x0 = process.aim(x_t, end, times.t, times.a)
    alpha = expand(process.alpha(times.t), x_t)
    sigma = expand(process.sigma(times.t), x_t)
    return x0, (x_t - alpha * x0) / sigma


def cut(batch: Batch, rows: slice, blocks: slice) -> Batch:
    """Some rows of a batch, with the seeds of their blocks."""
    parts: dict[str, Any] = {
        name: x[rows] for name, x in batch.times._asdict().items() if isinstance(x, Tensor)
    }
    times = batch.times._replace(**parts)
    cond = datasets.each(lambda x: x[rows], batch.cond)
    return Batch(batch.rows[rows], batch.x0[rows], cond, batch.z[rows], times, batch.seeds[blocks])


def parts(batch: Batch, number: int) -> list[Batch]:
    """The batch cut in equal runs of whole blocks."""
    count = len(batch.rows)
    blocks = len(batch.seeds)
    require(
        number > 0 and count % number == 0 and blocks % number == 0,
        "parts",
        number,
        f"a number that cuts {count} rows in equal parts of whole blocks",
    )
    count //= number
    blocks //= number
    return [
        cut(batch, slice(i * count, (i + 1) * count), slice(i * blocks, (i + 1) * blocks))
        for i in range(number)
    ]
