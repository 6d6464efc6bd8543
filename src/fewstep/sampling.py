"""One sampling loop for all: a step, repeated along a grid of times from t_max to 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from fewstep import solvers
from fewstep.denoiser import Cond, Denoiser
from fewstep.errors import UserError, unknown
from fewstep.process import Process
from fewstep.times import karras


def walk(
    process: Process,
    denoiser: Denoiser,
    x: Tensor,
    grid: Sequence[float],
    step: Callable[..., Tensor] = solvers.renoise,
    cond: Cond = None,
    noise: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """x at grid[0] -> x at grid[-1]: x = step(process, denoiser, x, t, s, cond) for each pair of times.

    Steps that need noise get `noise=noise(i)`, unit normals like x, at their i-th move.
    """
    for i, (t, s) in enumerate(pairwise(grid)):
        drawn = {} if noise is None else {"noise": noise(i)}
        x = step(process, denoiser, x, t, s, cond, **drawn)
    return x


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A step and what it costs: `evaluations` of the network per move but the last, which takes one."""

    step: Callable[..., Tensor]
    evaluations: int = 1
    noisy: bool = False  # the step takes noise
    default: int = 35  # network evaluations unless asked otherwise

    def moves(self, steps: int) -> int:
        """How many moves `steps` network evaluations make. Raises UserError where none fits."""
        moves, rest = divmod(steps - 1, self.evaluations)
        if steps < 1 or rest:
            near = f"; try {steps - 1} or {steps + 1}" if steps > 1 else ""
            raise UserError(f"steps = {steps}: this sampler makes 1, {1 + self.evaluations}, ... evaluations{near}")
        return moves + 1


SAMPLERS = {
    "multistep": Sampler(step=solvers.renoise, noisy=True, default=1),
    "ddim": Sampler(step=solvers.ddim),
    "euler": Sampler(step=solvers.euler),
    "heun": Sampler(step=solvers.heun, evaluations=2),
}


def sampler(name: str) -> Sampler:
    """The sampler of that name."""
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    return SAMPLERS[name]


def times(process: Process, chosen: Sampler, steps: int, middle: Sequence[float] = ()) -> list[float]:
    """The grid for `steps` network evaluations: t_max first, 0 last.

    A multistep sampler takes `middle` where it has as many times as are needed, else the inner points of
    a Karras grid from t_max to t_min; a solver takes the Karras grid and moves from its end to 0.
    """
    moves = chosen.moves(steps)
    if chosen.noisy:
        inner = list(middle) if len(middle) == moves - 1 else karras(process.t_min, process.t_max, moves).tolist()[1:-1]
        return [process.t_max, *inner, 0.0]
    return [*karras(process.t_min, process.t_max, max(moves - 1, 1)).tolist()[:moves], 0.0]
