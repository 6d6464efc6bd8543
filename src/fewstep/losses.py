"""The one loss: every method of the family is a choice of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from fewstep import distances, spaces, weights
from fewstep.couplings import Coupling, Data
from fewstep.denoiser import Cond, Denoiser, Models
from fewstep.distances import Distance
from fewstep.process import Process, expand
from fewstep.process import edm as edm_process
from fewstep.randomness import forked, generator
from fewstep.spaces import Space
from fewstep.targets import Target
from fewstep.times import Times, TimeSampler
from fewstep.weights import Weight


class Balance(Protocol):
    """`(loss_b [B], t [B], models) -> [B]`: rebalances noise levels, for instance by learned weights."""

    def __call__(self, loss_b: Tensor, t: Tensor, models: Models) -> Tensor: ...


def unbalanced(loss_b: Tensor, t: Tensor, models: Models) -> Tensor:
    """The loss as it is."""
    return loss_b


def dropout_masks(student: Denoiser, rows: int, seeds: Sequence[int]) -> dict[str, Any]:
    """The `masks=` argument for both passes: drawn per seed for equal runs of rows; none without a seed."""
    draw = getattr(student, "masks", None)
    if not seeds or draw is None:
        return {}
    drawn = [draw(rows // len(seeds), generator(seed, "dropout")) for seed in seeds]
    return {"masks": [torch.cat(layer) for layer in zip(*drawn, strict=True)]} if drawn[0] else {}


def foreign_dropout(seeds: Sequence[int], device: torch.device) -> AbstractContextManager[None]:
    """What nn.Dropout of a network that is not ours draws from: the same stream in both passes."""
    return forked(seeds[0], "dropout", device) if seeds else nullcontext()


@dataclass(frozen=True, kw_only=True)
class Method:
    """The parts of a method; `loss` is the same for all of them.

    y    = jump(x_r, target(x_r, r), r -> a)            without gradient
    goal = aim(x_t, y, t -> a)
    loss = w balance(weight distance(space(student(x_t, t)), space(goal)))
    """

    times: TimeSampler
    process: Process = field(default_factory=edm_process)
    coupling: Coupling = field(default_factory=Data)
    target: Target | None = None  # None where r = a always: the neighbour is its own end
    space: Space = spaces.x0
    distance: Distance = distances.mse
    weight: Weight = weights.one
    balance: Balance = unbalanced
    sampler: str = "multistep"  # how its students are sampled unless asked otherwise: a name of sampling.SAMPLERS

    @property
    def needs(self) -> frozenset[str]:
        """The names of the models that the loss uses."""
        parts = (self.coupling, self.target)
        return frozenset({"student"}).union(*(getattr(part, "needs", ()) for part in parts))

    def loss(
        self,
        models: Models,
        x0: Tensor,
        z: Tensor,
        times: Times,
        cond: Cond = None,
        seed: int | Sequence[int] | None = None,
    ) -> Tensor:
        """Loss per sample `[B]` of data x0 and unit noise z, both `[B, ...]`, at the given times.

        `seed` draws the dropout masks that student and target share (several: one per equal run of rows);
        without it nothing is dropped. Nothing else is random.
        """
        t, r, a, w = times[:4]
        seeds = [] if seed is None else [seed] if isinstance(seed, int) else list(seed)
        shared = dropout_masks(models.student, len(x0), seeds)
        with torch.no_grad(), foreign_dropout(seeds, x0.device):  # first, while no activations are held
            x_t, x_r = self.coupling(models, self.process, x0, z, times, cond)
            end = x_r if self.target is None else self.target(models)(x_r, r, cond, **shared)
            y = self.process.jump(x_r, end, r, a)
            goal = self.process.aim(x_t, y, t, a)
        with foreign_dropout(seeds, x0.device):
            x0_hat = models.student(x_t, t, cond, **shared)
        seen, wanted = (self.space(self.process, x_t, guess, times) for guess in (x0_hat, goal))
        apart = self.distance(seen, wanted)
        loss_b = expand(self.weight(self.process, times), apart) * apart
        return expand(w, apart) * self.balance(loss_b, t, models)
