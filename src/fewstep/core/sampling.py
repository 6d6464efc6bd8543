"""One sampling loop for all: a step, repeated along a grid of times from t_max to 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from fewstep.base.conditions import Cond
from fewstep.base.errors import UserError, require, unknown
from fewstep.core import abilities, solvers
from fewstep.core.denoiser import Denoiser, diagonal
from fewstep.core.process import Process
from fewstep.core.times import karras

MOST_LEVEL = 1e4  # sigma / alpha, from which on it is pure noise


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
    step that needs them gets `noise=`, a function without arguments. A step that remembers gets
    `past=`, one `solvers.Past` for the whole grid.
    """
    denoiser = diagonal(denoiser)  # steps that know of flow maps say where they lead
    past = solvers.Past(len(grid) - 1)
    memory = {"past": past} if abilities.remembers(step) else {}
    for i, (t, s) in enumerate(pairwise(grid)):
        options = {} if noise is None else {"noise": partial(noise, i)}
        x = step(process, denoiser, x, t, s, cond, **options, **memory)
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
        later = grid_of(process, moves).tolist()[1:-1] if moves > 1 else []
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


def uniform_grid(process: Process, moves: int, later_sigmas: Sequence[float]) -> list[float]:
    """Even in time, then 0."""
    return solver_grid(replace(process, rho=1.0), moves, later_sigmas)


def karras_grid(process: Process, moves: int, later_sigmas: Sequence[float]) -> list[float]:
    """Even in (sigma / alpha)^(1/7), then 0.

    It is EDM's grid, arXiv 2206.00364, eq. 5, on any process.
    """
    low, high = _level_ends(process)
    return _at_levels(process, karras(low, high, max(moves - 1, 1)), moves)


def exponential_grid(process: Process, moves: int, later_sigmas: Sequence[float]) -> list[float]:
    """Even in ln(sigma / alpha), which is in log-SNR, then 0."""
    low, high = _level_ends(process)
    ends = math.log(high), math.log(low)
    levels = torch.linspace(*ends, max(moves, 2), dtype=torch.float64).exp()
    return _at_levels(process, levels, moves)


def _level_ends(process: Process) -> tuple[float, float]:
    """The lowest and highest level of a grid: EDM's where the process comes nearer to its ends."""
    first = process.t_min or process.t_max / 1000  # of a table of 1000 steps its first
    low, high = process.level(first).item(), process.level(process.t_max).item()
    return max(low, 0.002), high if high < MOST_LEVEL else 80.0


def _at_levels(process: Process, levels: Tensor, moves: int) -> list[float]:
    """The times of these levels, t_max for the first of them, and 0: so many moves."""
    later = process.time_at(levels).tolist()[1:moves]
    return [process.t_max, *later, 0.0]


@dataclass(frozen=True)
class Levels:
    """The grid of these noise levels sigma / alpha, decreasing, and 0: it has moves of its own."""

    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        falls = all(a > b for a, b in pairwise(self.sigmas))
        fine = falls and len(self.sigmas) > 0 and self.sigmas[-1] > 0
        fine = fine and self.sigmas[0] < math.inf
        require(fine, "sigmas", self.sigmas, "decreasing noise levels above 0")

    def __call__(self, process: Process, moves: int, later_sigmas: Sequence[float]) -> list[float]:
        high = process.level(process.t_max).item()
        fits = self.sigmas[0] <= high * (1 + 1e-6)
        require(fits, "sigmas", self.sigmas, f"at most {high:.6g}, the process's highest level")
        need = f"as many as the moves, {moves}"
        require(moves == len(self.sigmas), "sigmas", self.sigmas, need)
        times = process.time_at(torch.tensor(self.sigmas, dtype=torch.float64)).tolist()
        return [*(min(t, process.t_max) for t in times), 0.0]


# By the names that k-diffusion and diffusers have for them.
GRIDS: dict[str, Callable[[Process, int, Sequence[float]], list[float]]] = {
    "own": solver_grid,
    "uniform": uniform_grid,
    "karras": karras_grid,
    "exponential": exponential_grid,
}


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

    def makes(self, steps: int) -> bool:
        """Whether it can make samples in so many network evaluations."""
        is_trained = not self.only or steps == self.default
        return is_trained and steps >= 1 and (steps - 1) % self.evaluations == 0

    def times(
        self, process: Process, steps: int, later_sigmas: Sequence[float] = ()
    ) -> list[float]:
        """The grid for `steps` network evaluations, t_max first, 0 last. Raises UserError."""
        if self.only and steps != self.default:
            raise UserError(
                f"steps = {steps}: this model was trained for {self.default} steps, and makes no"
                " others"
            )
        if not self.makes(steps):
            near = f"; try {steps - 1} or {steps + 1}" if steps > 1 else ""
            raise UserError(
                f"steps = {steps}: this sampler makes 1, {1 + self.evaluations}, ..."
                f" evaluations{near}"
            )
        moves = (steps - 1) // self.evaluations + 1
        return self.grid(process, moves, later_sigmas)


SAMPLERS = {
    "multistep": Sampler(step=solvers.renoise, grid=multistep_grid, noisy=True, default=1),
    "jumps": Sampler(step=solvers.jump, grid=nested_grid, default=1),
    "ctm": Sampler(
        step=partial(solvers.strategic, by="level"), grid=nested_grid, noisy=True, default=1
    ),
    "tcd": Sampler(step=solvers.strategic, grid=nested_grid, noisy=True, default=4),
    "ddim": Sampler(step=solvers.ddim),
    "addim": Sampler(step=solvers.addim),
    "ancestral": Sampler(step=solvers.ancestral, noisy=True),
    "euler": Sampler(step=solvers.euler),
    "heun": Sampler(step=solvers.heun, evaluations=2),
    "dpmpp_2m": Sampler(step=solvers.dpm_solver(2), default=20),
    "dpmpp_3m": Sampler(step=solvers.dpm_solver(3), default=20),
    "unipc": Sampler(step=solvers.unipc(2), default=20),
    "unipc_3": Sampler(step=solvers.unipc(3), default=20),
}


def segments(number: int, by: str = "ddim") -> Sampler:
    """`ddim` or `tcd` with a step for each segment of the training (MCM, arXiv 2403.06807, alg. 2).

    By tcd the noise is new after each step but the last.
    """
    return replace(SAMPLERS[by], grid=nested_grid, default=number, only=True)


def with_grid(by: Sampler, grid: str | Sequence[float]) -> Sampler:
    """The sampler on a grid of that name, or of these noise levels. Raises UserError.

    Levels say the number of evaluations too.
    """
    if by.only or by.grid is multistep_grid:
        raise UserError(
            f"grid = {grid!r}: expected none: the noise levels of a student's steps are its own, or"
            " later_sigmas"
        )
    if not isinstance(grid, str):
        levels = Levels(tuple(float(level) for level in grid))
        return replace(by, grid=levels, default=1 + by.evaluations * (len(levels.sigmas) - 1))
    if grid not in GRIDS:
        raise unknown("grid", grid, GRIDS)
    return replace(by, grid=GRIDS[grid])


def with_eta(by: Sampler, eta: float) -> Sampler:
    """DDIM with this share of the ancestral sampler's noise. Raises UserError.

    0 is `ddim` and 1 is `ancestral`. Source: DDIM, arXiv 2010.02502, eq. 16.
    """
    require(0 <= eta <= 1, "eta", eta, "a share in 0 .. 1: 0 is ddim, 1 is ancestral")
    require(
        by.step is solvers.ddim and not by.only, "eta", eta, "none: the sampler ddim alone takes it"
    )
    if eta == 0:
        return by
    step = solvers.ancestral if eta == 1 else partial(solvers.ancestral, eta=eta)
    return replace(by, step=step, noisy=True)


def with_gamma(by: Sampler, gamma: float) -> Sampler:
    """`ctm` or `tcd` with this share of fresh noise. Raises UserError.

    0 is `jumps`, without any, and 1 is re-noising from the data at every step.
    """
    require(0 <= gamma <= 1, "gamma", gamma, "a share in 0 .. 1: 0 is jumps, 1 is re-noising")
    step = by.step.func if isinstance(by.step, partial) else by.step
    fits = step is solvers.strategic
    require(fits, "gamma", gamma, "none: the samplers ctm and tcd alone take it")
    if gamma == 0:
        return replace(by, step=solvers.jump, noisy=False)
    return replace(by, step=partial(by.step, gamma=gamma))


def leads(by: Sampler) -> bool:
    """Whether its steps tell a flow map where they lead; other steps follow its diagonal."""
    step = by.step.func if isinstance(by.step, partial) else by.step
    return step in (solvers.jump, solvers.renoise, solvers.strategic)


def with_variance(
    by: Sampler,
    variance: solvers.Variance | None = None,
    final_step: Literal["addim", "ddim"] = "addim",
) -> Sampler:
    """aDDIM with this variance of x0, and a last move by this rule. Raises UserError."""
    if by.step is not solvers.addim:
        raise UserError(
            "variance, final_step: expected neither: the sampler addim alone takes them"
        )
    require(final_step in ("addim", "ddim"), "final_step", final_step, "addim or ddim")
    return replace(by, step=partial(solvers.addim, x_var=variance, final_step=final_step))


def sampler(name: str | Sampler) -> Sampler:
    """The sampler of that name, or the sampler itself. Raises UserError."""
    if isinstance(name, Sampler):
        return name
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    return SAMPLERS[name]
