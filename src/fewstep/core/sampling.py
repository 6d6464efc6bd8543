"""One sampling loop for all: a step, repeated along a grid of times from t_max to 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from torch import Tensor

from fewstep.base.conditions import Cond
from fewstep.base.errors import UserError, require, unknown
from fewstep.core import solvers
from fewstep.core.denoiser import Denoiser
from fewstep.core.process import Process
from fewstep.core.times import karras


def sample(
    process: Process,
    denoiser: Denoiser,
    x: Tensor,
    grid: Sequence[float],
    step: Callable[..., Tensor] = solvers.renoise,
    cond: Cond = None,
    noise: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """x at grid[0] -> x at grid[-1], by one step for each pair of times.

    x = step(process, denoiser, x, t, s, cond). noise(i) draws unit normals like x for step i; a
    step that needs them gets `noise=`, a function without arguments.
    """
    for i, (t, s) in enumerate(pairwise(grid)):
        options = {} if noise is None else {"noise": partial(noise, i)}
        x = step(process, denoiser, x, t, s, cond, **options)
    return x


def grid_of(process: Process, n: int) -> Tensor:
    """n moves from t_max to t_min, even in t^(1/rho).

    On edm it is the Karras grid (EDM, arXiv 2206.00364, eq. 5).
    """
    return karras(process.t_min, process.t_max, n, process.rho)


def multistep_grid(process: Process, moves: int, later_sigmas: Sequence[float]) -> list[float]:
    """t_max, the times of the later noise levels, 0: for steps that re-noise.

    Where there are not as many levels as steps after the first, the inner points of the process's
    own grid. Raises UserError for levels that are not below t_max.
    """
    later = [process.time_at(level).item() for level in later_sigmas]
    for t in later:
        expected = f"below t_max = {process.t_max}"
        require(t < process.t_max, "later_sigmas", tuple(later_sigmas), expected)
    if len(later) != moves - 1:
        later = grid_of(process, moves).tolist()[1:-1]
    return [process.t_max, *later, 0.0]


def solver_grid(process: Process, moves: int, later_sigmas: Sequence[float]) -> list[float]:
    """The process's grid from t_max to t_min, then 0: for solvers.

    Where t_min = 0 the last move is the grid's own.
    """
    if process.t_min == 0:
        return grid_of(process, moves).tolist()
    return [*grid_of(process, max(moves - 1, 1)).tolist()[:moves], 0.0]


def nested_grid(process: Process, moves: int, later_sigmas: Sequence[float] = ()) -> list[float]:
    """The process's grid from t_max to t_min with its end at 0: every second of twice as many."""
    return [*grid_of(process, moves).tolist()[:-1], 0.0]


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A step, its grid of times, and what it costs."""

    step: Callable[..., Tensor]
    # (process, moves, noise levels of the later steps) -> times
    grid: Callable[[Process, int, Sequence[float]], list[float]] = solver_grid
    evaluations: int = 1  # of the network per move; the last move takes one
    noisy: bool = False  # the step takes noise
    default: int = 35  # network evaluations unless asked otherwise
    only: bool = False  # no other number: the model was trained for this one

    def times(
        self, process: Process, steps: int, later_sigmas: Sequence[float] = ()
    ) -> list[float]:
        """The grid for `steps` network evaluations, t_max first, 0 last. Raises UserError."""
        if self.only and steps != self.default:
            raise UserError(
                f"steps = {steps}: this model was trained for {self.default} steps, and makes no"
                " others"
            )
        moves, rest = divmod(steps - 1, self.evaluations)
        if steps < 1 or rest:
            near = f"; try {steps - 1} or {steps + 1}" if steps > 1 else ""
            raise UserError(
                f"steps = {steps}: this sampler makes 1, {1 + self.evaluations}, ..."
                f" evaluations{near}"
            )
        return self.grid(process, moves + 1, later_sigmas)


SAMPLERS = {
    "multistep": Sampler(step=solvers.renoise, grid=multistep_grid, noisy=True, default=1),
    "ddim": Sampler(step=solvers.ddim),
    "addim": Sampler(step=solvers.addim),
    "ancestral": Sampler(step=solvers.ancestral, noisy=True),
    "euler": Sampler(step=solvers.euler),
    "heun": Sampler(step=solvers.heun, evaluations=2),
}


def segments(number: int) -> Sampler:
    """DDIM with a step for each segment of the training (MCM, arXiv 2403.06807, algorithm 2)."""
    return Sampler(step=solvers.ddim, grid=nested_grid, default=number, only=True)


def sampler(name: str | Sampler) -> Sampler:
    """The sampler of that name, or the sampler itself. Raises UserError."""
    if isinstance(name, Sampler):
        return name
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    return SAMPLERS[name]
