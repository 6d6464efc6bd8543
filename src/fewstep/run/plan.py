"""Samples as they were asked for, and rows of one plan or of several made in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewstep.base.conditions import Cond, apply_mask
from fewstep.base.randomness import SAMPLING_BLOCK, normal
from fewstep.core import sampling
from fewstep.data import each

if TYPE_CHECKING:
    from fewstep.run.generator import Generator


@dataclass(frozen=True, eq=False)
class Plan:
    """n samples that a generator will make: the noise of row i depends on the seed and i alone."""

    n: int
    seed: int
    sampler: sampling.Sampler
    grid: tuple[float, ...]  # the times, t_max first, 0 last
    cond: Cond  # n rows in the model's units
    notes: tuple[str, ...] = ()  # what to know of the conditions


Piece = tuple[Plan, range]  # these rows of a plan


@torch.no_grad()
def make(generator: Generator, pieces: Sequence[Piece]) -> Tensor:
    """The samples of all pieces `[rows, *shape]`, in one batch: in the user's units, on the CPU.

    The plans have the sampler and the grid of the first one. Beside other rows a row is the same
    but for rounding: how a kernel adds up may depend on the size of its batch.
    """
    first = pieces[0][0]
    process = generator.method.process
    device, shape = generator.device, generator.facts.shape
    on_host = join([_conditions(plan, rows) for plan, rows in pieces])
    cond = each(lambda one: one.to(device), on_host)

    def unit(stream: str) -> Tensor:
        parts = [
            normal(plan.seed, stream, rows.start, len(rows), shape, SAMPLING_BLOCK)
            for plan, rows in pieces
        ]
        z = parts[0] if len(parts) == 1 else torch.cat(parts)
        return apply_mask(z, on_host).to(device)

    noise = (lambda i: unit(f"renoise {i}")) if first.sampler.noisy else None
    x = process.prior(unit("prior"), first.grid[0])
    denoiser, step = generator.guess, first.sampler.step
    x0 = sampling.sample(process, denoiser, x, first.grid, step, cond, noise)
    return apply_mask(generator.facts.units.to_user(x0), on_host)


def _conditions(plan: Plan, rows: range) -> Cond:
    """The plan's conditions of these rows."""
    return each(lambda one: one[rows.start : rows.stop], plan.cond)


def join(conds: Sequence[Cond]) -> Cond:
    """Conditions of one kind, one after the other."""
    first = conds[0]
    if first is None or len(conds) == 1:
        return first
    if isinstance(first, Mapping):
        return {key: join([cond[key] for cond in conds]) for key in first}  # type: ignore[index]
    return torch.cat(conds)  # type: ignore[arg-type]


def cut(pieces: Sequence[Piece], rows: range) -> list[Piece]:
    """What of the pieces lies at these rows, counted through all of them."""
    result: list[Piece] = []
    first = 0
    for plan, part in pieces:
        inside = part[max(rows.start - first, 0) : max(rows.stop - first, 0)]
        if inside:
            result.append((plan, inside))
        first += len(part)
    return result
