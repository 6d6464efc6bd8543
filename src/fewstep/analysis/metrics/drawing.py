"""Draws of a generator's samples, with the conditions of training or of held-out rows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fewstep.base.conditions import Cond, apply_mask
from fewstep.base.errors import NonFiniteError
from fewstep.base.randomness import block_seed, shuffled_indices
from fewstep.core.sampling import sampler
from fewstep.data import Arrays, Dataset, each
from fewstep.run.generator import Generator

_MOST_PAIRED = 10  # draws with the conditions of held-out rows


def default_steps(generator: Generator) -> tuple[int, ...]:
    """1 and 2 for a consistency model, or as many as levels ask for; else the sampler's own."""
    own = sampler(generator.method.sampler)
    if own.default > 1 or own.only:
        return (own.default,)
    return (1, len(generator.later_sigmas) + 1) if generator.has_own_levels else (1, 2)


@dataclass
class Clock:
    """How many samples came, and the seconds that it took them."""

    seconds: float = 0.0
    samples: int = 0

    def watch(self, parts: Iterator[Tensor]) -> Iterator[Tensor]:
        """The parts, as they come."""
        while True:
            start = time.perf_counter()
            part = next(parts, None)
            self.seconds += time.perf_counter() - start
            if part is None:
                return
            self.samples += len(part)
            yield part


@dataclass(frozen=True)
class Source:
    """A generator of samples for the scores of a data set; conditions are in the model's units."""

    generator: Generator
    dataset: Dataset
    seed: int
    batch: int | None = None

    def training_conditions(self, n: int) -> Cond:
        """n conditions of the training split, each about equally often, in a random order."""
        train = self.dataset.train
        order = shuffled_indices(self.seed, "eval", 0, n, len(train))
        return each(lambda part: part[order], train.cond)

    def warm_up(self, cond: Cond, n: int, steps: int) -> None:
        """The first part of n samples. Raises UserError for impossible steps."""
        next(self._parts(_rows(cond, slice(n)), n, steps, self.seed))

    def draws(self, cond: Cond, n: int, size: int, steps: int, clock: Clock) -> Iterator[Arrays]:
        """The whole draws of `size` of n samples with these conditions."""
        return self._draws(clock.watch(self._parts(cond, n, steps, self.seed)), cond, size, steps)

    def paired(
        self, held_out: Arrays, size: int, count: int, steps: int, clock: Clock
    ) -> Iterator[Arrays]:
        """Draws with the conditions of held-out rows: draw i has those of block i mod H, and noise
        of its own.

        count: how many, ten at most. Each is of `size` rows, or of all the held-out rows where
        these are fewer.
        """
        size = min(size, len(held_out))
        blocks = len(held_out) // size
        places = (
            torch.arange(size) + size * (torch.arange(min(count, _MOST_PAIRED)) % blocks)[:, None]
        )
        cond = each(lambda part: part[places.flatten()], held_out.cond)
        # Rows of one noise are no independent draws: the detector learns from the others.
        seed = block_seed(self.seed, "eval paired", 0)
        parts = clock.watch(self._parts(cond, places.numel(), steps, seed))
        return self._draws(parts, cond, size, steps)

    def ensembles(self, cond: Cond, n: int, steps: int, seed: int, clock: Clock) -> Tensor:
        """n samples with these conditions, in the user's units."""
        return torch.cat(list(clock.watch(self._parts(cond, n, steps, seed))))

    def _parts(self, cond: Cond, n: int, steps: int, seed: int) -> Iterator[Tensor]:
        """n samples in parts, in the user's units."""
        own = self.dataset.user_cond(cond)
        # One step needs no levels, also where some were asked for.
        has_own_levels = self.generator.has_own_levels and steps != 1
        generator = replace(self.generator, has_own_levels=has_own_levels)
        return generator.sample_parts(n, steps=steps, seed=seed, cond=own, batch=self.batch)

    def _draws(
        self, parts: Iterable[Tensor], cond: Cond, size: int, steps: int
    ) -> Iterator[Arrays]:
        """Samples in the model's units with their conditions, and 0 in the padding."""
        for i, x in enumerate(_whole_draws(parts, size, steps)):
            own = _rows(cond, slice(i * size, (i + 1) * size))
            yield Arrays(apply_mask(self.dataset.units.to_model(x), own), own)


def _rows(cond: Cond, rows: slice) -> Cond:
    return each(lambda part: part[rows], cond)


def _whole_draws(parts: Iterable[Tensor], size: int, steps: int) -> Iterator[Tensor]:
    """The samples of the parts in whole draws of `size`. Raises NonFiniteError."""
    draw = torch.empty(0)
    full = size  # rows of the draw that are there
    for part in parts:
        if not bool(torch.isfinite(part).all()):
            raise NonFiniteError(
                f"the samples of {steps} steps hold NaN or infinity: there is nothing to score"
            )
        rest = part
        while len(rest):
            if full == size:
                draw, full = rest.new_empty(size, *rest.shape[1:]), 0
            count = min(len(rest), size - full)
            draw[full : full + count] = rest[:count]
            rest, full = rest[count:], full + count
            if full == size:
                yield draw
