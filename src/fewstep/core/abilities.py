"""What a part may declare beside its call, and what holds where it declares nothing.

A part of a method is any callable of its kind: a function, a lambda or an object. It declares an
ability by an attribute of the ability's name; `ability(part)` is that attribute or the default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from torch import Tensor, nn

if TYPE_CHECKING:
    from fewstep.core.couplings import Coupling
    from fewstep.core.denoiser import Masks
    from fewstep.core.process import Process
    from fewstep.core.targets import Target

T = TypeVar("T")


@dataclass(frozen=True)
class Ability(Generic[T]):
    """An attribute that a part may have, and its value for parts that have none."""

    name: str
    default: T

    def __call__(self, part: object) -> T:
        return getattr(part, self.name, self.default)


# Of couplings, targets, spaces, balances and terms: the names of the models that the part uses.
needs: Ability[frozenset[str]] = Ability("needs", frozenset())

# Of times: whether r = a always, so that no target is needed; None where it is not said.
at_anchor: Ability[bool | None] = Ability("at_anchor", None)

# Of times: the numbers of steps whose jumps alone are trained; none where any number is.
steps: Ability[tuple[int, ...]] = Ability("steps", ())

# Of times, and of what a student is told: how many uniforms a row takes.
uniforms: Ability[int] = Ability("uniforms", 2)

# Of couplings: how many consecutive rows share a sample and its trajectory.
reuse: Ability[int] = Ability("reuse", 1)
# Of distances: how many consecutive rows are compared as one group.
joins: Ability[int] = Ability("joins", 1)
# Of couplings: whether the pairs make a student that jumps, though no teacher is asked for them.
jumps: Ability[bool] = Ability("jumps", False)
# Of couplings of velocities: whether rows of the diagonal are asked too, instead of having x0.
everywhere: Ability[bool] = Ability("everywhere", False)
# Of couplings: how strongly the teacher is guided, see `guidance.Guided`.
guidance: Ability[float] = Ability("guidance", 0.0)
# Of couplings: the coupling that this one changes.
inner: Ability[Coupling | None] = Ability("inner", None)

# Of targets: how much of itself the target's average keeps, by progress.
rate: Ability[Callable[[float], float] | None] = Ability("rate", None)
# Of targets: `retarget(other)` is the same target with another network above its frozen one.
retarget: Ability[Callable[[Target], Target] | None] = Ability("retarget", None)
# Of targets: the goal itself, where it does not follow from a neighbour; see `tangents.Tangent`.
goal: Ability[Callable[..., Tensor] | None] = Ability("goal", None)
# Of targets: what is compared with the goal, where it is not the student's own x0_hat; see
# `tangents.EndTangent`.
guess: Ability[Callable[..., Tensor] | None] = Ability("guess", None)
# Of targets: a trial before the first step: the target with its choices, these as the method's
# options, and one line on why; or None.
probe: Ability[Callable[..., tuple[Target, dict[str, Any], str] | None] | None] = Ability(
    "probe", None
)

# Of balances and couplings: makes the module that is trained beside the student, for a shape.
module: Ability[Callable[..., nn.Module] | None] = Ability("module", None)

# Of solvers: whether the rows decide how many times it asks the denoiser.
counts_rows: Ability[bool] = Ability("counts_rows", False)

# Of steps of a sampler: whether it takes `past=`, a `solvers.Past` of the moves so far.
remembers: Ability[bool] = Ability("remembers", False)

# Of scalings: the standard deviation of the data that it is made for.
sigma_data: Ability[float | None] = Ability("sigma_data", None)

# Of denoisers and networks: `masks(rows, seeds)`, the dropout masks that it takes as `masks=`.
masks: Ability[Callable[[int, Sequence[int]], Masks | None] | None] = Ability("masks", None)
# Of networks and denoisers: how many numbers say where they lead; 0 is one-time. Of times: how many
# the student is given.
ends: Ability[int] = Ability("ends", 0)
# Of scalings: `gap(process, t, to)`, what a network is told of where it leads, 0 where to = t; None
# for the difference of the angles.
gap: Ability[Callable[..., Tensor] | None] = Ability("gap", None)
# Of denoisers under guidance: (x_t, t, cond) -> the guided guess and the unguided one.
both: Ability[Callable[..., tuple[Tensor, Tensor]] | None] = Ability("both", None)
# Of denoisers: the process whose times they are asked in; None for the method's own.
process: Ability[Process | None] = Ability("process", None)
# Of denoisers and networks: the shape of one sample, and the number of classes.
shape: Ability[tuple[int, ...] | None] = Ability("shape", None)
classes: Ability[int] = Ability("classes", 0)
# Of networks: whether a guided guess is one pass of twice the rows, and not two passes.
at_once: Ability[bool] = Ability("at_once", False)
# Of networks' factories: the parts of a condition that they take; None where anything goes.
takes: Ability[tuple[str, ...] | None] = Ability("takes", None)
# Of denoisers that know their data: `sample(n)` draws it.
sample: Ability[Callable[[int], Tensor] | None] = Ability("sample", None)
# Of modules: the normalisation of their weights, once before each training step.
normalise: Ability[Callable[[], None] | None] = Ability("normalise_", None)
