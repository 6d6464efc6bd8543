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
from fewstep.data.dataset import concat
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

    def draws(self, cond: Cond, n: int, size: int, steps: int, clock: Clock) -> Iterator[Draw]:
        """The whole draws of `size` of n samples with these conditions, one after the other."""
        parts = clock.watch(self._parts(cond, n, steps, self.seed))
        return self._draws(parts, cond, n, size, steps)

    def paired(
        self, held_out: Arrays, size: int, count: int, steps: int, clock: Clock
    ) -> Iterator[Draw]:
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
        n = places.numel()
        parts = clock.watch(self._parts(cond, n, steps, seed))
        return self._draws(parts, cond, n, size, steps)

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
        self, parts: Iterable[Tensor], cond: Cond, n: int, size: int, steps: int
    ) -> Iterator[Draw]:
        """The whole draws of n samples, in the model's units and with 0 in the padding."""
        pieces = _pieces(parts, size, steps)

        def draw(first: int) -> Iterator[Arrays]:
            last = first + size
            while first < last:
                x = next(pieces)
                own = _rows(cond, slice(first, first + len(x)))
                yield Arrays(apply_mask(self.dataset.units.to_model(x), own), own)
                first += len(x)

        for first in range(0, n // size * size, size):
            yield Draw(size, draw(first))


@dataclass(frozen=True)
class Draw:
    """So many samples, in parts that come once and are in memory one by one."""

    size: int
    parts: Iterator[Arrays]

    def whole(self) -> Arrays:
        """All of them, in memory."""
        parts = list(self.parts)
        x0 = torch.cat([part.x0 for part in parts])
        return Arrays(x0, concat([part.cond for part in parts]))


def _rows(cond: Cond, rows: slice) -> Cond:
    return each(lambda part: part[rows], cond)


def _pieces(parts: Iterable[Tensor], size: int, steps: int) -> Iterator[Tensor]:
    """The samples of the parts, cut where a draw of `size` ends. Raises NonFiniteError."""
    room = size
    for part in parts:
        if not bool(torch.isfinite(part).all()):
            raise NonFiniteError(
                f"the samples of {steps} steps hold NaN or infinity: there is nothing to score"
            )
        rest = part
        while len(rest):
            yield rest[:room]
            rest, room = rest[room:], room - len(rest[:room]) or size
