"""What a training step takes, as a function of (seed, ordinals) alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep import data as datasets
from fewstep.base.conditions import Cond, masked
from fewstep.base.errors import require
from fewstep.base.randomness import block_seed, normal, shuffled_indices, uniform
from fewstep.base.world import ALONE, World
from fewstep.core import abilities
from fewstep.core.couplings import Cached
from fewstep.core.method import Method
from fewstep.core.process import expand
from fewstep.core.times import Levels, Times
from fewstep.run.config import Run


class Batch(NamedTuple):
    """All that a step takes, drawn on the host as a function of (seed, ordinals); the data is moved
    to the device.
    """

    rows: Tensor  # which of the training split, on the host
    x0: Tensor
    cond: Cond
    z: Tensor
    times: Times
    seeds: list[int]  # of the dropout masks, one per block


def draw_batch(
    run: Run,
    method: Method,
    arrays: datasets.Arrays,
    step: int,
    device: torch.device,
    progress: float | None = None,
    world: World = ALONE,
) -> Batch:
    """The batch of a step: global sample ordinals [step B, (step + 1) B), in whole blocks; of a
    rank, its part of them.

    progress: what the schedules see, where that is not the share of the whole run.
    """
    count, reuse = run.batch // world.size, sharing(run, method)
    first = step * run.batch + world.rank * count
    drawn = samples(run, arrays, *(number // reuse for number in (first, count, run.block)))
    index, x0, cond, z = drawn if reuse == 1 else (repeated(part, reuse) for part in drawn)
    u = uniform(run.seed, "time", first, count, 2, run.block)
    progress = step / run.iterations if progress is None else progress
    times = method.times(u, progress, torch.arange(first, first + count))._replace(
        u=u, progress=progress
    )
    if arrays.path is not None:
        x0, z = on_path(method, arrays.path, index, x0, times)
    blocks = range(first // run.block, (first + count) // run.block)
    seeds = [block_seed(run.seed, "dropout", block) for block in blocks]
    return moved(Batch(index, masked(x0, cond), cond, z, times, seeds), device)


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch with its data on the device, where `draw_batch` would have put it; the rest stays
    on the host.
    """
    cond = datasets.each(lambda part: part.to(device), batch.cond)
    return batch._replace(x0=batch.x0.to(device), cond=cond, z=batch.z.to(device))


def samples(
    run: Run, arrays: datasets.Arrays, first: int, count: int, block: int
) -> tuple[Tensor, Tensor, Cond, Tensor]:
    """Which samples, their x0 and condition, and their noise, for the ordinals [first, first +
    count).
    """
    index = shuffled_indices(run.seed, "order", first, count, len(arrays.x0))
    x0, cond, _ = arrays._replace(path=None).rows(index)
    z = masked(normal(run.seed, "noise", first, count, tuple(x0.shape[1:]), block), cond)
    if run.label_drop:
        chance = uniform(run.seed, "label drop", first, count, 1, block)[:, 0]
        cond = datasets.dropped(cond, chance < run.label_drop)
    return index, x0, cond, z


def sharing(run: Run, method: Method) -> int:
    """How many consecutive rows of the method share a sample. Raises UserError where blocks would
    part them.
    """
    reuse = abilities.reuse(method.coupling)
    require(
        run.block % reuse == 0,
        "reuse",
        reuse,
        f"a divisor of block={run.block}, since blocks hold whole groups",
    )
    return reuse


def repeated(part: Any, times: int) -> Any:
    """Every row of a condition that many times in succession."""
    return datasets.each(lambda x: x.repeat_interleave(times, 0), part)


def on_path(
    method: Method, path: Tensor, index: Tensor, end: Tensor, times: Times
) -> tuple[Tensor, Tensor]:
    """The x0 and z whose mixtures are the trajectory's point at t and its end at a: z = (x_t -
    alpha x0) / sigma.
    """
    assert isinstance(method.coupling, Cached)
    process, levels = method.process, Levels(grid=method.coupling.grid)
    x_t = path[index, levels.place(times.t)]
    x0 = process.aim(x_t, end, times.t, times.a)
    return x0, (x_t - expand(process.alpha(times.t), x_t) * x0) / expand(
        process.sigma(times.t), x_t
    )


def cut(batch: Batch, rows: slice, blocks: slice) -> Batch:
    """Some rows of a batch, with the seeds of their blocks."""
    kept: dict[str, Any] = {
        name: x[rows] for name, x in batch.times._asdict().items() if isinstance(x, Tensor)
    }
    cond = datasets.each(lambda x: x[rows], batch.cond)
    times = batch.times._replace(**kept)
    return Batch(batch.rows[rows], batch.x0[rows], cond, batch.z[rows], times, batch.seeds[blocks])


def parts(batch: Batch, number: int) -> list[Batch]:
    """The batch cut in equal runs of whole blocks."""
    fits = number > 0 and len(batch.rows) % number == 0 and len(batch.seeds) % number == 0
    require(
        fits,
        "parts",
        number,
        f"a number that cuts {len(batch.rows)} rows in equal parts of whole blocks",
    )
    rows, blocks = len(batch.rows) // number, len(batch.seeds) // number
    runs = [
        (slice(i * rows, (i + 1) * rows), slice(i * blocks, (i + 1) * blocks))
        for i in range(number)
    ]
    return [cut(batch, *run) for run in runs]
