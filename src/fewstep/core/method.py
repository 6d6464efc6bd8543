"""The one loss: every method of the family is a choice of its parts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fewstep.base.conditions import Cond, pick
from fewstep.base.device import send
from fewstep.base.errors import UserError, require, unknown
from fewstep.base.randomness import fork_rng
from fewstep.base.timing import span
from fewstep.core import abilities, distances, parts, scalings, spaces, targets, tell, weights
from fewstep.core.balances import Balance, unbalanced
from fewstep.core.couplings import Coupling, Data
from fewstep.core.denoiser import (
    Denoiser,
    Masks,
    Models,
    ask,
    drops_by_masks,
    in_shards,
    quiet,
)
from fewstep.core.distances import Distance
from fewstep.core.process import Process, expand
from fewstep.core.process import edm as edm_process
from fewstep.core.sampling import Sampler
from fewstep.core.scalings import Scaling
from fewstep.core.spaces import Space
from fewstep.core.targets import Target
from fewstep.core.tell import Tell
from fewstep.core.times import Times, TimeSampler
from fewstep.core.weights import Weight

# Python's way to print a function or an object without a repr of its own: <function NAME at 0x...>.
_ADDRESS = re.compile(r"<(?:function )?(\S+)(?: object)? at 0x[0-9A-Fa-f]+>")


@dataclass(frozen=True)
class Passes:
    """How all passes of a loss are run: under the same dropout, by masks or by one forked stream.

    Without masks and seeds nothing is dropped by masks.
    """

    masks: Masks | None
    seed: int | None  # of the stream, for nn.Dropout of other networks
    device: torch.device
    few: bool = False  # of some of the rows: nn.Dropout would not know which, so it drops nothing

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, cond: Cond, to: Tensor | None = None
    ) -> Tensor:
        options: dict[str, Any] = {}
        if self.masks is not None and abilities.masks(denoiser):
            options["masks"] = self.masks
        still = quiet(denoiser) if self.few and self.masks is None else nullcontext()
        stream = nullcontext() if self.seed is None else fork_rng(self.seed, "dropout", self.device)
        with still, stream:
            return ask(denoiser, x, t, cond, to, **options)

    @property
    def is_by_row(self) -> bool:
        """Whether any rows get the dropout of the batch: by masks, or since nothing is dropped."""
        return self.masks is not None or self.seed is None or self.few

    def at(self, index: Tensor) -> Passes:
        """The passes of some of the rows, of each as often as it is named."""
        masks = None if self.masks is None else self.masks.at(index)
        return replace(self, masks=masks, few=True)


def dropout(
    student: Denoiser, rows: int, seed: int | Sequence[int] | None, device: torch.device
) -> Passes:
    """The passes of a batch.

    Several seeds are one for each equal run of rows; without a seed nothing is dropped by masks.
    """
    if seed is None:
        seed = ()
    seeds = [seed] if isinstance(seed, int) else list(seed)
    fits = not seeds or rows % len(seeds) == 0
    require(fits, "seed", seeds, f"as many as divide the {rows} rows")
    draw = abilities.masks(student)
    masks = draw(rows, seeds) if draw and seeds else None
    stream = seeds[0] if seeds and not drops_by_masks(student) else None
    return Passes(masks, stream, device)


class Term(Protocol):
    """A further loss `[B]` of the same rows, with a gradient. Ability: `needs`."""

    def __call__(
        self,
        models: Models,
        process: Process,
        x0: Tensor,
        z: Tensor,
        times: Times,
        cond: Cond,
        run: Passes,
    ) -> Tensor: ...


@dataclass(frozen=True, kw_only=True, repr=False)
class Method:
    """The parts of a method; `loss` is the same for all of them.

    y    = jump(x_r, target(x_r, r, to=a), r -> a)            without gradient
    goal = aim(x_t, y, t -> a)
    loss = w balance(weight distance(space(student(x_t, t, to=a)), space(goal)))

    Only students of methods whose times have `ends`, flow maps, are told `to`. Their rows of the
    diagonal, to = t, have goal = x0, and no neighbour, target or derivative is asked for there.
    """

    times: TimeSampler
    process: Process = field(default_factory=edm_process)
    coupling: Coupling = field(default_factory=Data)
    # None where r = a always: the neighbour is the end itself.
    target: Target | None = None
    space: Space = spaces.x0
    distance: Distance = distances.mse
    weight: Weight = weights.one
    balance: Balance = unbalanced
    # The preconditioning of its students.
    scaling: Scaling = field(default_factory=scalings.Edm)
    # How its students are sampled unless asked otherwise.
    sampler: str | Sampler = "multistep"
    # Noise levels of the sampler's later steps where the run names none (ECT's on CIFAR-10).
    later_sigmas: tuple[float, ...] = (0.821,)
    # The student is trained from this time on; below it a frozen network answers.
    trained_from: float = 0.0
    # Losses of the same rows that are added to this one.
    terms: tuple[Term, ...] = ()
    # What the student is told beyond the data's condition.
    tell: Tell = tell.nothing
    # The method of the stage whose average this one starts from and keeps frozen.
    before: Method | None = None

    def __new__(cls, **values: Any) -> Method:
        """Raises UserError for a part that there is not."""
        if cls.__init__ is Method.__init__:
            names = [part.name for part in fields(Method)]
            for name in values.keys() - {*names}:
                raise unknown("part of a method", name, names)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        parts.check(vars(self))
        if self.target is None and abilities.at_anchor(self.times) is False:
            raise UserError(
                f"target = None: expected a target, since {type(self.times).__name__} gives r > a"
            )

    def __repr__(self) -> str:
        values = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self))
        return _ADDRESS.sub(r"\1", f"{type(self).__name__}({values})")

    @property
    def chain(self) -> tuple[Method, ...]:
        """The methods of all stages in their order, this one last."""
        return (*(self.before.chain if self.before else ()), self)

    @property
    def ema_rate(self) -> Callable[[float], float] | None:
        """How much of itself the target's average keeps, by progress; None without an average."""
        return abilities.rate(self.target)

    @property
    def needs(self) -> frozenset[str]:
        """The names of the models that the loss uses."""
        asking = (self.coupling, self.target, self.balance, self.space, *self.terms)
        return frozenset({"student"}).union(*map(abilities.needs, asking))

    @property
    def ends(self) -> int:
        """How many numbers its students are given of where they lead; 0 for those of one time."""
        ends = abilities.ends(self.times)
        return ends and ends + abilities.ends(self.tell)

    @property
    def uniforms(self) -> int:
        """How many uniforms a row takes, of its times and of what its student is told."""
        return max(abilities.uniforms(self.times), abilities.uniforms(self.tell))

    @property
    def group(self) -> int:
        """How many consecutive rows belong together: by their sample, or by the distance."""
        return math.lcm(abilities.reuse(self.coupling), abilities.joins(self.distance))

    @property
    def beside(self) -> dict[str, Callable[[tuple[int, ...]], nn.Module]]:
        """What makes the modules that are trained beside the student, by their names in `Models`.

        Each takes the shape of a sample.
        """
        balance, encoder = abilities.module(self.balance), abilities.module(self.coupling)
        makers: dict[str, Callable[[tuple[int, ...]], nn.Module]]
        makers = {} if balance is None else {"balance": lambda shape: balance()}
        return makers if encoder is None else {**makers, "encoder": encoder}

    @property
    def has_own_loss(self) -> bool:
        """Whether it has another loss than this class's, of which less is known."""
        return type(self).loss is not Method.loss

    @property
    def denoises(self) -> bool:
        """Whether its students guess the mean of the data, not the end of a trajectory."""
        jumps = self.target is not None or "teacher" in self.needs
        jumps = jumps or abilities.jumps(self.coupling)
        return not jumps and bool(abilities.at_anchor(self.times))

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

        `seed` draws the dropout masks that student and target share (several seeds: one for each
        equal run of rows); without it nothing is dropped. Nothing else is random.
        """
        for name in sorted(self.needs):
            model = getattr(models, name)
            require(model is not None, f"models.{name}", None, "a denoiser: this method needs one")
        fits = self.ends == 0 or abilities.ends(models.student) >= self.ends
        need = "a denoiser that takes `to=`, the time that it leads to"
        require(fits, "models.student", type(models.student).__name__, need)
        run = dropout(models.student, len(x0), seed, x0.device)
        cond = self.tell(times, cond)
        # Before the student's pass, so that its activations are not in memory meanwhile.
        with torch.no_grad(), span("target"):
            x_t, goal = self.lesson(models, x0, z, times, cond, run)
        guess = abilities.guess(self.target)
        with span("student"):
            if guess is None:
                x0_hat = run(models.student, x_t, times.t, cond, times.to)
            else:
                x0_hat = guess(self.process, models, x_t, times, cond, run)
        d = self.distance(*self._both(models, x_t, x0_hat, goal, times, cond, run))
        loss_b = expand(self.weight(self.process, times), d) * d
        loss_b = self.balance(loss_b, times, models)
        for term in self.terms:
            loss_b = loss_b + term(models, self.process, x0, z, times, cond, run)
        return expand(times.w, d) * loss_b

    def _both(
        self,
        models: Models,
        x_t: Tensor,
        x0_hat: Tensor,
        goal: Tensor,
        times: Times,
        cond: Cond,
        run: Passes,
    ) -> tuple[Tensor, Tensor]:
        """Guess and goal in the space; one that needs models gets them, and the passes."""
        space: Callable[..., Tensor] = self.space
        if abilities.needs(space):
            space = partial(space, models=models, cond=cond, run=run)
        guess = space(self.process, x_t, x0_hat, times)
        with torch.no_grad() if abilities.needs(self.space) else nullcontext():
            return guess, space(self.process, x_t, goal, times)

    def lesson(
        self, models: Models, x0: Tensor, z: Tensor, times: Times, cond: Cond, run: Passes
    ) -> tuple[Tensor, Tensor]:
        """The student's points x_t and what it is to say there, without gradient.

        On the diagonal they are mix(x0, z, t) and x0, or what the velocity of a coupling that is
        asked everywhere stands for; only the other rows are paired, and ask a target.

        Where the coupling is trained x_t has one, for its sake.
        """
        if times.to is None or bool((times.to < times.t).all()):
            is_trained = abilities.module(self.coupling) is not None
            with torch.enable_grad() if is_trained else nullcontext():
                x_t, x_r = self.coupling(models, self.process, x0, z, times, cond)
            return x_t, self.goal(models, x_t, x_r, times, cond, run)
        far = (times.to < times.t).nonzero().flatten()
        if abilities.everywhere(self.coupling):
            x_t, v = self.coupling(models, self.process, x0, z, times, cond)
            goal = self.process.guess_of(x_t, v, times.t)
        else:
            x_t, v, goal = self.process.mix(x0, z, times.t), None, x0
        is_idle = not len(far)
        if is_idle and not in_shards(models.student):
            return x_t, goal
        far = torch.zeros(1, dtype=torch.long) if is_idle else far
        here = send(far, x0.device)
        few, given = times.at(far), pick(cond, here)
        if v is None:
            pairs = self.coupling(models, self.process, x0[here], z[here], few, given)
        else:
            pairs = x_t[here], v[here]
        far_goal = self.goal(models, *pairs, few, given, run.at(far))
        if is_idle:
            return x_t, goal
        return x_t.index_copy(0, here, pairs[0]), goal.index_copy(0, here, far_goal)

    def goal(
        self, models: Models, x_t: Tensor, x_r: Tensor, times: Times, cond: Cond, run: Passes
    ) -> Tensor:
        """The x0_hat that leads from x_t to where the target leads from x_r: `targets.goal`."""
        return targets.goal(self.target, self.process, models, x_t, x_r, times, cond, run)
