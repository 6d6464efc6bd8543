"""Solutions of the probability-flow ODE with their errors: stated by halving, and checked by
another solver.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.base.conditions import Cond
from fewstep.base.errors import UserError, require
from fewstep.core.process import Time, as_time, per_row

# least error that is stated: of some hundred float64 steps, whose rounding no halving shows
ROUNDING = 2e-12


class Solution(NamedTuple):
    """x at the time asked for, and its error by root mean square `[B]`, in units of the law's
    spread at that time.
    """

    x: Tensor
    error: Tensor


def stated(first: Tensor, again: Tensor, unit: Tensor) -> Tensor:
    """The error `[B]` that two solutions speak of: half as much again as their difference, and
    rounding's floor.
    """
    return ROUNDING + 1.5 * (first - again).flatten(1).square().mean(1).sqrt() / unit


@torch.no_grad()
def library(
    law: Any, x: Tensor, t: Time, s: Time, cond: Cond = None, *, tolerance: float = 1e-12
) -> Tensor:
    """The probability-flow ODE from t to s by SciPy's DOP853, in the process's own time: like x,
    all rows at once.

    It shares the denoiser with `solve`, and neither the variables nor the method. t and s are the
    same for all rows;
    tolerance is relative and absolute. Raises UserError where SciPy is missing or does not reach
    the end.
    """
    try:
        from scipy.integrate import solve_ivp
    except ImportError:
        raise UserError(
            "an adaptive solution by a library needs SciPy: pip install 'fewstep[metrics]'"
        ) from None
    ends = [per_row(time, x).unique().tolist() for time in (t, s)]
    require(all(len(end) == 1 for end in ends), "t, s", (t, s), "one time for all rows")

    def velocity(now: float, flat: Any) -> Any:
        here = torch.from_numpy(flat).reshape(x.shape)
        return law.process.velocity(here, law(here, as_time(now), cond), now).flatten().numpy()

    given = x.detach().cpu().double().flatten().numpy()
    options = {"method": "DOP853", "rtol": tolerance, "atol": tolerance}
    found = solve_ivp(velocity, (ends[0][0], ends[1][0]), given, **options)
    if not found.success:
        raise UserError(f"SciPy stops at t = {found.t[-1]:g}: {found.message}")
    return torch.from_numpy(found.y[:, -1].copy()).reshape(x.shape).to(x.dtype).to(x.device)
