"""Which network says where the neighbour leads: `(models) -> Denoiser`, called without gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from fewstep.base.conditions import Cond
from fewstep.base.errors import require, unknown
from fewstep.core import abilities, denoiser
from fewstep.core.denoiser import Denoiser, Models
from fewstep.core.guidance import guided
from fewstep.core.process import Process
from fewstep.core.times import Times

Probe = tuple["Target", dict[str, Any], str] | None


class Target(Protocol):
    """Chooses or builds the target network from the models.

    Abilities: `needs`, the names of the models that it uses, `rate`, `retarget`, `goal`, `probe`.
    """

    def __call__(self, models: Models) -> Denoiser: ...


@dataclass(frozen=True)
class Student:
    """The student itself, without gradient (iCT, arXiv 2310.14189, section 3.2)."""

    needs = frozenset({"student"})

    def __call__(self, models: Models) -> Denoiser:
        return models.student


@dataclass(frozen=True)
class Ema:
    """A moving average of the student with a rate mu(progress) (CM, arXiv 2303.01469, eq. 8).

    Without a rate it is the run's own average, which samples are drawn from; where another part of
    the method has an average with a rate, that one.
    """

    rate: Callable[[float], float] | None = None
    needs = frozenset({"ema"})

    def __call__(self, models: Models) -> Denoiser:
        assert models.ema is not None
        return models.ema


@dataclass(frozen=True)
class Frozen:
    """The run's teacher: for GC a trained consistency model whose endpoints do not move.

    guidance: of the teacher, see `guidance.Guided`.
    Source: GC, arXiv 2406.09570, section 5.1.
    """

    guidance: float = 0.0
    needs = frozenset({"teacher"})

    def __call__(self, models: Models) -> Denoiser:
        assert models.teacher is not None
        return guided(models.teacher, self.guidance)


@dataclass(frozen=True)
class Previous:
    """The student of the stage before, which does not move any more.

    Source: progressive distillation, arXiv 2202.00512, algorithm 2.
    """

    needs = frozenset({"frozen"})

    def __call__(self, models: Models) -> Denoiser:
        assert models.frozen is not None
        return models.frozen


@dataclass(frozen=True)
class Truncated:
    """The frozen first stage below t_prime, another target above (TCM, arXiv 2410.14895, eq. 5)."""

    t_prime: float
    high: Target = Student()

    @property
    def needs(self) -> frozenset[str]:
        return abilities.needs(self.high) | {"frozen"}

    @property
    def rate(self) -> Callable[[float], float] | None:
        return abilities.rate(self.high)

    def retarget(self, other: Target) -> Truncated:
        """The same with another network above t_prime."""
        return Truncated(self.t_prime, other)

    def __call__(self, models: Models) -> Denoiser:
        assert models.frozen is not None
        return denoiser.Truncated(models.frozen, self.high(models), self.t_prime)


@dataclass(frozen=True)
class Limited:
    """One target while r < t, and another, such as `tangents.Tangent`, where r = t in all rows."""

    near: Target
    limit: Target

    @property
    def needs(self) -> frozenset[str]:
        return abilities.needs(self.near) | abilities.needs(self.limit)

    def __call__(self, models: Models) -> Denoiser:
        return self.near(models)

    def goal(
        self,
        process: Process,
        models: Models,
        x_t: Tensor,
        x_r: Tensor,
        times: Times,
        cond: Cond,
        run: Callable[..., Tensor],
    ) -> Tensor:
        """The goal of the one that is asked."""
        target = self.limit if bool((times.r == times.t).all()) else self.near
        return goal(target, process, models, x_t, x_r, times, cond, run)

    def probe(self, *args: Any) -> Probe:
        """The limit's own trial."""
        return _inside(self, "limit", args)


@dataclass(frozen=True)
class Bounded:
    """A target whose goal's velocity is clipped to [-bound, bound] in every entry.

    Source: Shortcut models, arXiv 2410.12557, its code: 4.
    """

    inner: Target
    bound: float = 4.0

    def __post_init__(self) -> None:
        require(self.bound > 0, "bound", self.bound, "above 0; 1e30 for none")

    @property
    def needs(self) -> frozenset[str]:
        return abilities.needs(self.inner)

    @property
    def rate(self) -> Callable[[float], float] | None:
        return abilities.rate(self.inner)

    def __call__(self, models: Models) -> Denoiser:
        return self.inner(models)

    def goal(
        self,
        process: Process,
        models: Models,
        x_t: Tensor,
        x_r: Tensor,
        times: Times,
        cond: Cond,
        run: Callable[..., Tensor],
    ) -> Tensor:
        """The inner goal, whose velocity stays in bounds."""
        x0_hat = goal(self.inner, process, models, x_t, x_r, times, cond, run)
        v = process.velocity(x_t, x0_hat, times.t)
        return process.guess_of(x_t, v.clamp(-self.bound, self.bound), times.t)

    def probe(self, *args: Any) -> Probe:
        """The inner one's own trial."""
        return _inside(self, "inner", args)


def _inside(target: Any, name: str, args: tuple[Any, ...]) -> Probe:
    """A target after the trial of the one inside it."""
    own = abilities.probe(getattr(target, name))
    result = own(*args) if own else None
    if result is None:
        return None
    inner, choices, why = result
    return replace(target, **{name: inner}), choices, why


def goal(
    target: Target | None,
    process: Process,
    models: Models,
    x_t: Tensor,
    x_r: Tensor,
    times: Times,
    cond: Cond,
    run: Callable[..., Tensor],
) -> Tensor:
    """The x0_hat that leads from x_t to where the target leads from x_r.

    aim(x_t, jump(x_r, target(x_r, r, to=a), r -> a), t -> a), where no target is asked with r = a.
    One without a neighbour to start from has its own `goal`: see `tangents`.
    """
    own = abilities.goal(target)
    if own is not None:
        return own(process, models, x_t, x_r, times, cond, run)
    t, r, a = times[:3]
    end = x_r if target is None else run(target(models), x_r, r, cond, times.to)
    return process.aim(x_t, process.jump(x_r, end, r, a), t, a)


def truncated(t_prime: float, target: Target | None) -> Target:
    """The stage before below t_prime, and above what the target is: of a truncated one its high."""
    high = target.high if isinstance(target, Truncated) else target
    return Truncated(t_prime, high or Student())


def before(method: object | None) -> Target:
    """Who teaches the stage behind that method: its student; without one the run's teacher."""
    return Frozen() if method is None else Previous()


def retarget(target: Target | None, other: Target) -> Target:
    """`other` in place of the student or its average; a frozen network keeps its rows."""
    change = abilities.retarget(target)
    return other if change is None else change(other)


def by_name(name: str) -> Target:
    """The network that a method's option names. Raises UserError."""
    targets: dict[str, Target] = {"student": Student(), "ema": Ema(), "teacher": Frozen()}
    if name not in targets:
        raise unknown("network", name, targets)
    return targets[name]
