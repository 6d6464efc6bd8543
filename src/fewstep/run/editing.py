"""Edits by a generator: samples that agree with a linear measurement, and ways between two."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fewstep.base.conditions import Cond, apply_mask, each, leaves, pick
from fewstep.base.errors import UserError, require
from fewstep.base.options import plain
from fewstep.base.randomness import SAMPLING_BLOCK, normal, permutation, uniform
from fewstep.base.surroundings import surroundings
from fewstep.core import abilities, editing, sampling, solvers
from fewstep.core.denoiser import Denoiser, Truncated, diagonal, passes_in_parts
from fewstep.core.measurements import Measurement
from fewstep.data.description import outside
from fewstep.run.generator import Generator
from fewstep.run.measurement_units import check_values, in_model_units

STEPS = 33  # jumps to the data: 16 noise levels
PARTICLES = 256  # samples that compete

_TURNS = 20  # of bringing samples into their range and back to their measurement

log = logging.getLogger("fewstep")


@surroundings()
def edit(
    generator: Generator,
    y: Tensor,
    measurement: Measurement,
    n: int = 8,
    *,
    steps: int = STEPS,
    particles: int = PARTICLES,
    seed: int = 0,
    cond: Cond | int | str = None,
    batch: int | None = None,
) -> Tensor:
    """n samples `[n, *shape]` that agree with the measurement's values y, in the data's units.

    They are draws of the generator's law given y (`fewstep.core.editing`), which agree with y at
    the end: entries that are measured as they are come back with the same bits.

    Args:
        generator: of a consistency model or flow map; others jump to the data by their solver
        y: one for all, or `[n, ...]`, one for each sample
        measurement: in the data's units
        n: samples
        steps: jumps to the data, 1 + 2 for each noise level
        particles: samples that compete; n of them come back, or one for each of n different y or
            conditions, which compete apart
        seed: of the noise
        cond: as for `sample`; where a label is left out, all labels compete
        batch: samples that pass through the network at once; None is what memory takes
    Raises UserError for what does not fit, OutOfMemory.
    """
    n, steps, particles, seed, batch = map(plain, (n, steps, particles, seed, batch))
    _check_counts(
        {"n": (n, 1), "particles": (particles, 1), "seed": (seed, 0), "steps": (steps, 3)}
    )
    require(steps % 2 == 1, "steps", steps, "an odd number: one jump, and two for each noise level")
    levels = editing.levels_of(steps // 2, generator.facts.sigma_data)
    process = generator.method.process
    _check_times(generator, [float(process.time_at(level)) for level in levels])
    y, is_single = check_values(y, measurement, generator.facts.shape, n)
    work = _Work(generator, measurement, tuple(levels), seed)
    with passes_in_parts(partial(generator.room.parts, batch=batch, device=generator.device)):
        if is_single and _is_for_all(generator, cond, n):
            count = max(n, particles)
            return work.draw(y, _conditions(generator, cond, count), n, count, 0)
        conds = _conditions(generator, cond, n)
        y = y.expand(n, *y.shape[1:])
        parts = []
        for k in range(n):
            row = torch.full((particles,), k)
            parts.append(work.draw(y[k : k + 1], pick(conds, row), 1, particles, k))
    return torch.cat(parts)


@dataclass(frozen=True)
class _Work:
    """What all populations of an edit share."""

    generator: Generator
    measurement: Measurement
    levels: tuple[float, ...]
    seed: int

    def draw(self, y: Tensor, cond: Cond, n: int, count: int, number: int) -> Tensor:
        """n samples out of the population of that number, of `count` samples, given y `[1, ...]`.

        Their noise depends on the seed, the number and a sample's place in the population alone.
        """
        generator, seed = self.generator, self.seed
        facts, device = generator.facts, generator.device
        inner, values = in_model_units(self.measurement, y, facts.units, facts.shape)

        def noise(i: int) -> Tensor:
            z = normal(seed, f"edit {number} {i}", 0, count, facts.shape, SAMPLING_BLOCK)
            return apply_mask(z, cond).to(device)

        def offset(i: int) -> float:
            return float(uniform(seed, f"edit draw {i}", number, 1, 1, SAMPLING_BLOCK))

        population = editing.edit(
            generator.method.process,
            jump_of(generator),
            inner,
            values.to(device),
            self.levels,
            noise,
            offset,
            each(lambda c: c.to(device), cond),
        )
        if not bool(population.x.isfinite().all()):
            log.warning("fewstep: samples are not finite: the weights have diverged")
        few = population.draw(n, offset(len(self.levels)))
        order = permutation(seed, "edit order", number, n)
        x0 = few.x.cpu()[order]
        return self._finish(x0, y, each(lambda c: c.cpu()[order], few.cond))

    def _finish(self, x0: Tensor, y: Tensor, cond: Cond) -> Tensor:
        """The samples in the data's units, where they agree with y once more."""
        units, measurement = self.generator.facts.units, self.measurement
        x = units.to_user(x0)
        dtype = torch.promote_types(x.dtype, y.dtype)
        if measurement.entries is not None:
            return apply_mask(measurement.project(x.to(dtype), y), cond)
        x, y = measurement.project(x.double(), y.double()), y.double()
        if units.clip:  # in turns, to agree with y within the range
            for _ in range(_TURNS):
                x = measurement.project(units.to_user(units.to_model(x)).double(), y)
        return apply_mask(x.to(dtype), cond)


def jump_of(generator: Generator) -> Denoiser:
    """A generator's jump from any time to the data, in the units of its model.

    One evaluation of a consistency model and of a flow map; of others, and of a flow map whose
    sampler follows its diagonal, the sampler's moves from that time on.
    """
    method, denoiser = generator.method, generator.guess
    by = sampling.sampler(method.sampler)
    if by.grid is sampling.multistep_grid or (method.ends and sampling.leads(by)):
        return denoiser
    if by.noisy or abilities.remembers(by.step):  # rows of one jump start at their own times
        by = sampling.SAMPLERS["heun"]
    times = by.times(method.process, by.default)[:-1]
    along = solvers.along(by.step, times)
    return editing.by_solver(method.process, diagonal(denoiser), along)


@surroundings()
def interpolate(
    generator: Generator,
    seeds: tuple[int, int],
    n: int = 9,
    *,
    steps: int | None = None,
    cond: Cond | int | str = None,
) -> Tensor:
    """n samples `[n, *shape]` on the way between the first samples of two seeds, these included.

    All their noise is `slerp` of the two samples' noise, in even shares. cond: as for `sample`,
    one for all. Raises UserError for conditions that differ, and for what `sample` refuses.
    """
    n, steps = plain(n), plain(steps)
    require(len(seeds) == 2, "seeds", seeds, "two")
    by = sampling.sampler(generator.method.sampler)
    count = by.default if steps is None else steps
    _check_counts({"n": (n, 2), "steps": (count, 1)} | {"seeds": (min(seeds), 0)})
    process, facts, device = generator.method.process, generator.facts, generator.device
    grid = by.times(process, count, generator.levels_of(count))
    _check_times(generator, grid[:-1])
    if not _is_single(generator, cond, n):
        raise UserError("conditions that differ: expected one for all samples on the way (--label)")
    conds = _conditions(generator, cond, n)
    share = torch.linspace(0, 1, n, dtype=torch.float64)

    def unit(stream: str) -> Tensor:
        ends = [normal(seed, stream, 0, 1, facts.shape, SAMPLING_BLOCK) for seed in seeds]
        first, last = (end.expand(n, *facts.shape) for end in ends)
        return apply_mask(editing.slerp(first, last, share), conds).to(device)

    there = each(lambda c: c.to(device), conds)
    noise = (lambda i: unit(f"renoise {i}")) if by.noisy else None
    x = process.prior(unit("prior"), grid[0])
    with passes_in_parts(partial(generator.room.parts, device=device)):
        x0 = sampling.sample(process, generator.guess, x, grid, by.step, there, noise)
    return apply_mask(facts.units.to_user(x0), conds)


def _check_counts(counts: dict[str, tuple[Any, int]]) -> None:
    for name, (value, least) in counts.items():
        fine = type(value) is int and value >= least
        require(fine, name, value, f"a whole number, {least} or more")


def _check_times(generator: Generator, times: Sequence[float]) -> None:
    """Raises UserError for times that no network here was trained at."""
    low = generator.method.trained_from
    if min(times) < low and not isinstance(generator.denoiser, Truncated):
        raise UserError(
            f"an edit asks at t = {min(times):.4g}, but this student was trained from t = {low:g}"
            " on: ask its first stage there (--composite, composite=True)"
        )


def _conditions(generator: Generator, cond: Cond | int | str, n: int) -> Cond:
    """n conditions in the model's units; a warning where they are far from the training's."""
    wish = generator.user_conditions(n, cond)
    for line in outside(generator.facts.description, wish):
        log.warning("fewstep: %s", line)
    return generator.conditions(n, cond)


def _is_for_all(generator: Generator, cond: Cond | int | str, n: int) -> bool:
    """Whether a condition is not n rows: one more than n can be made of it as well."""
    try:
        generator.conditions(n + 1, cond)
    except UserError:
        return False
    return True


def _is_single(generator: Generator, cond: Cond | int | str, n: int) -> bool:
    """Whether n samples have the same condition."""
    parts = leaves(generator.conditions(n, cond))
    return all(bool((part == part[:1]).all()) for _, part in parts)
