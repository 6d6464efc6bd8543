"""Direct CM: regression on the teacher's whole ODE solution."""

from __future__ import annotations

from typing import Literal

from fewstep import core
from fewstep.base.errors import require

__all__ = ["direct_cm"]


def direct_cm(
    *,
    n: int = 100,
    solver: Literal["ddim", "euler", "heun"] = "ddim",
    starts: Literal["uniform", "highest"] = "uniform",
    goal: Literal["solution", "student"] = "solution",
    source: Literal["teacher", "cache"] = "teacher",
    reuse: int = 1,
    reweight: bool = True,
    guidance: float = 0.0,
    c: float = 0.0,
    process: Literal["edm", "cosine", "discrete", "linear"] = "edm",
    sigma_data: float = 0.5,
) -> core.Method:
    """Direct consistency model: E d(D(x_t, t), the teacher's ODE solution from x_t), t on a grid.

    Source: Direct CM, arXiv 2411.08954, and its code, which has SDXL's discrete process, n = 100
    and w = 9.

    Args:
        n: intervals of the solver from t_max to 0
        solver: the teacher's move over one of them
        starts: t is any level of the grid, or the highest always
        goal: solution; or student, the paper's baseline: one move, then the student
        source: solutions by a teacher, or of data by `trajectories`, with its solver and guidance
        reuse: consecutive rows that share a trajectory, each at a point of its own; divides block
        reweight: weight rows that share trajectories so that every level counts alike
        guidance: g of the teacher, D_c + g (D_c - D_u), 0 is none; the paper's w is 1 + g
        c: constant of a pseudo-Huber of each element, 0 is the squared error
        process: edm on the Karras grid, cosine, linear, or discrete, Stable Diffusion's 1000 steps
        sigma_data: standard deviation of the data, for the preconditioning
    """
    _check_direct(n, c, goal, reuse, source)
    noising = core.process.by_name(process)
    grid = tuple(core.sampling.solver_grid(noising, n, ()))
    start = grid[0] if starts == "highest" else None
    levels = core.times.Levels(grid=grid, first=start is not None)
    return core.Method(
        process=noising,
        times=_times(levels, goal, reuse, reweight),
        coupling=_coupling(goal, grid, solver, guidance, reuse, start, source),
        target=core.targets.Student() if goal == "student" else None,
        distance=core.distances.element_huber(c),
        scaling=core.scalings.Edm(sigma_data=sigma_data),
        later_sigmas=_later(noising, process),
    )


def _later(noising: core.process.Process, process: str) -> tuple[float, ...]:
    """The second step's noise: of a network's own times the middle, as LCM's; else ECT's 0.821."""
    has_own = process in ("discrete", "linear")
    return (float(noising.level(noising.t_max / 2)) if has_own else 0.821,)


def _times(
    levels: core.times.Levels, goal: str, reuse: int, reweight: bool
) -> core.times.TimeSampler:
    """The times on the levels, with r = a where the goal is the solution."""
    times: core.times.TimeSampler = levels
    if reuse != 1:
        times = core.times.Shared(levels=levels, size=reuse, reweight=reweight)
    return core.times.AtAnchor(times=times) if goal == "solution" else times


def _coupling(
    goal: str,
    grid: tuple[float, ...],
    solver: str,
    guidance: float,
    reuse: int,
    start: float | None,
    source: str,
) -> core.couplings.Coupling:
    """Pairs of x_t and its solution, or of x_t and one move of the solver."""
    if goal == "student":
        return core.couplings.by_name(solver, guidance=guidance)
    return core.couplings.on_trajectories(
        grid, solver, guidance=guidance, reuse=reuse, start=start, from_cache=source == "cache"
    )


def _check_direct(n: int, c: float, goal: str, reuse: int, source: str) -> None:
    """Raises UserError where there is no grid, or a student's goal on trajectories of others."""
    require(n >= 1, "n", n, "at least 1 interval")
    require(c >= 0, "c", c, "0 or more")
    require(reuse >= 1, "reuse", reuse, "at least 1")
    fits = goal == "solution" or (reuse == 1 and source == "teacher")
    require(fits, "goal", goal, "solution, where trajectories are shared or cached")
