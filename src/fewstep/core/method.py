"""The one loss: every method of the family is a choice of its parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fewstep.base.conditions import Cond
from fewstep.base.errors import UserError, require
from fewstep.base.randomness import fork_rng
from fewstep.core import distances, scalings, spaces, weights
from fewstep.core.balances import Balance, unbalanced
from fewstep.core.couplings import Coupling, Data
from fewstep.core.denoiser import Denoiser, Models
from fewstep.core.distances import Distance
from fewstep.core.process import Process, expand
from fewstep.core.process import edm as edm_process
from fewstep.core.sampling import Sampler
from fewstep.core.scalings import Scaling
from fewstep.core.spaces import Space
from fewstep.core.targets import Target
from fewstep.core.times import Times, TimeSampler
from fewstep.core.weights import Weight

Passes = Callable[[Denoiser, Tensor, Tensor, Cond], Tensor]


def dropout(
    student: Denoiser, rows: int, seed: int | Sequence[int] | None, device: torch.device
) -> Passes:
    """How both passes are run: under the same dropout, by explicit masks or by one forked stream.

    Several seeds are one for each equal run of rows; without a seed nothing is drawn.
    """
    seeds = [] if seed is None else [seed] if isinstance(seed, int) else list(seed)
    require(
        not seeds or rows % len(seeds) == 0, "seed", seeds, f"as many as divide the {rows} rows"
    )
    draw = getattr(student, "masks", None)
    masks = draw(rows, seeds) if draw and seeds else None

    def run(denoiser: Denoiser, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        shared = {"masks": masks} if masks is not None and hasattr(denoiser, "masks") else {}
        with (
            fork_rng(seeds[0], "dropout", device) if seeds else nullcontext()
        ):  # for nn.Dropout of other networks
            return denoiser(x, t, cond, **shared)

    return run


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
    scaling: Scaling = field(
        default_factory=scalings.Edm
    )  # the preconditioning that its students get
    sampler: str | Sampler = "multistep"  # how its students are sampled unless asked otherwise
    middle: tuple[float, ...] = (
        0.821,
    )  # noise levels of later steps, where the run names none (ECT's on CIFAR-10)
    trained_from: float = (
        0.0  # below this time the student knows nothing, and a frozen network answers
    )
    before: Method | None = (
        None  # the method of the stage whose average this one starts from and keeps frozen
    )

    def __post_init__(self) -> None:
        if self.target is None and not getattr(self.times, "at_anchor", True):
            raise UserError(
                f"target = None: expected a target, since {type(self.times).__name__} gives r > a"
            )

    @property
    def ema_rate(self) -> Callable[[float], float] | None:
        """How much of itself the target's average keeps, by progress; None where the target has
        none of its own.
        """
        return getattr(self.target, "rate", None)

    @property
    def needs(self) -> frozenset[str]:
        """The names of the models that the loss uses."""
        parts = (self.coupling, self.target, self.balance)
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

        `seed` draws the dropout masks that student and target share (several: one per equal run of
        rows);
        without it nothing is dropped. Nothing else is random.
        """
        for name in sorted(self.needs):
            require(
                getattr(models, name) is not None,
                f"models.{name}",
                None,
                "a denoiser: this method needs one",
            )
        t, w = times.t, times.w
        run = dropout(models.student, len(x0), seed, x0.device)
        with (
            torch.no_grad()
        ):  # before the student's pass, so that no activations are held meanwhile
            x_t, x_r = self.coupling(models, self.process, x0, z, times, cond)
            goal = self.goal(models, x_t, x_r, times, cond, run)
        x0_hat = run(models.student, x_t, t, cond)
        seen, wanted = (self.space(self.process, x_t, guess, times) for guess in (x0_hat, goal))
        apart = self.distance(seen, wanted)
        loss_b = expand(self.weight(self.process, times), apart) * apart
        return expand(w, apart) * self.balance(loss_b, t, models)

    def goal(
        self, models: Models, x_t: Tensor, x_r: Tensor, times: Times, cond: Cond, run: Passes
    ) -> Tensor:
        """The x0_hat that leads from x_t to where the target leads from x_r; or the target's own
        `goal`.
        """
        own = getattr(
            self.target, "goal", None
        )  # of one that has no neighbour to look from: `tangents`
        if own is not None:
            found: Tensor = own(self.process, models, x_t, x_r, times, cond, run)
            return found
        t, r, a = times[:3]
        end = x_r if self.target is None else run(self.target(models), x_r, r, cond)
        return self.process.aim(x_t, self.process.jump(x_r, end, r, a), t, a)
