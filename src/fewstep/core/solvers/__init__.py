"""One move of a solver for the probability-flow ODE, as a pure function.

`(process, denoiser, x, t, s, cond) -> x_s`: t and s are floats or `[B]`, t >= s; rows with t = s
stay where they are. `euler` and `heun` step in t, `ddim` in the process's own coordinates (the same
on edm and linear).
"""

from __future__ import annotations

from fewstep.base.errors import unknown
from fewstep.core.solvers.moves import Along, Solver, along, ddim, euler, heun, jump
from fewstep.core.solvers.noisy import Churn, Noise, ancestral, renoise, strategic
from fewstep.core.solvers.past import LinearMultistep, Past, dpm_solver, unipc
from fewstep.core.solvers.variance import PriorVariance, TableVariance, Variance, addim

__all__ = [
    "Along",
    "Churn",
    "LinearMultistep",
    "Noise",
    "Past",
    "PriorVariance",
    "Solver",
    "TableVariance",
    "Variance",
    "addim",
    "along",
    "ancestral",
    "by_name",
    "ddim",
    "dpm_solver",
    "euler",
    "heun",
    "jump",
    "renoise",
    "strategic",
    "unipc",
]


def by_name(name: str) -> Solver:
    """The solver that a method's option names. Raises UserError."""
    solvers: dict[str, Solver] = {"ddim": ddim, "euler": euler, "heun": heun, "addim": addim}
    if name not in solvers:
        raise unknown("solver", name, solvers)
    return solvers[name]
