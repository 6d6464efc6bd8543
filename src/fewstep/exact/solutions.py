"""Solutions of smooth ODEs to nearly all the digits of float64, and the errors of solutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.base.conditions import Cond
from fewstep.base.errors import UserError, require
from fewstep.core.process import Time, as_time, per_row

# The least error of a solution: of some hundred float64 steps, whose rounding no halving shows.
ROUNDING = 2e-12

Slope = Callable[[Tensor, Tensor, Tensor], Tensor]  # (u [b, d], time [b], rows [b]) -> du/dtime

_PAIRS = 5  # midpoint rules of 2, 4, .., 10 substeps: order 10 for 26 slopes
_POWER = 1 / (2 * _PAIRS - 1)  # step ~ error^power, of the error of the second best value
_SMALLEST = 1e-10  # a step that is accepted whatever its error: below it, rounding decides
_ATTEMPTS = 2000  # steps and refused steps of one row; an ordinary trajectory takes 20 to 100


class Solution(NamedTuple):
    """x at the end, and its root mean square error `[B]`, in units of the law's spread there."""

    x: Tensor
    error: Tensor


def _rms(u: Tensor) -> Tensor:
    return u.square().mean(1).sqrt()


def _extrapolate(
    slope: Slope, u: Tensor, start: Tensor, step: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """One step by the modified midpoint rule, extrapolated in h^2: the two best values.

    The better one is the last. No slope is computed at the end of the step. Source: Gragg, SIAM J.
    Numer. Anal. 2 (1965); Hairer, Norsett & Wanner, "Solving Ordinary Differential Equations I",
    section II.9, harmonic sequence.
    """
    first = slope(u, start, rows)
    table: list[Tensor] = []
    for j in range(1, _PAIRS + 1):
        # The midpoint rule of 2 j substeps.
        h = step / (2 * j)
        before, here = u, u + h[:, None] * first
        for i in range(1, 2 * j):
            before, here = here, before + 2 * h[:, None] * slope(here, start + i * h, rows)
        # A line of Neville's table.
        line = [here]
        for i in range(1, j):
            line.append(line[-1] + (line[-1] - table[i - 1]) / ((j / (j - i)) ** 2 - 1))
        table = line
    return table[-2], table[-1]


def integrate(
    slope: Slope, u: Tensor, start: Tensor, end: Tensor, *, tolerance: float, halve: bool = False
) -> Tensor:
    """u `[B, d]` at times `start` `[B]` -> u at `end`, forwards or backwards; rows have own steps.

    A step's error, by root mean square, stays below tolerance * max(1, rms of u). After two
    accepted steps the third continues their trend (Gustafsson's predictive controller, Hairer &
    Wanner II, section IV.8). halve: every accepted step is taken as two halves. Rows that are not
    finite are returned as they are. Raises UserError where the ODE is too stiff.
    """
    u, now = u.clone(), start.clone()
    step = (end - start) / 16
    # The last accepted step, and its error.
    past = (torch.zeros_like(step), torch.ones_like(step))
    rows = ((now != end) & torch.isfinite(u).all(1)).nonzero()[:, 0]
    for _ in range(_ATTEMPTS):
        if not len(rows):
            return u

        # A step, no longer than what is left.
        left = end[rows] - now[rows]
        last = step[rows].abs() >= left.abs()
        h = torch.where(last, left, step[rows])
        coarse, fine = _extrapolate(slope, u[rows], now[rows], h, rows)
        error = _rms(fine - coarse) / (tolerance * _rms(fine).clamp_min(1.0))
        error = torch.where(torch.isfinite(error), error, torch.inf).clamp_min(1e-4)
        if halve:
            middle = _extrapolate(slope, u[rows], now[rows], h / 2, rows)[1]
            fine = _extrapolate(slope, middle, now[rows] + h / 2, h / 2, rows)[1]

        # Where it is good enough, it counts.
        good = (error <= 1) | (h.abs() <= _SMALLEST)
        u[rows] = torch.where(good[:, None], fine, u[rows])
        now[rows] = torch.where(good, torch.where(last, end[rows], now[rows] + h), now[rows])

        # The next step's length.
        grow = error**-_POWER
        h_past, error_past = (part[rows] for part in past)
        trend = torch.where(good & (h_past != 0), h / h_past * (error_past / error) ** _POWER, 1.0)
        step[rows] = h * (0.9 * grow * trend.clamp_max(1.0)).clamp(0.2, 4.0)
        for part, value in zip(past, (h, error), strict=True):
            part[rows] = torch.where(good, value, part[rows])
        rows = rows[(now[rows] != end[rows]) & torch.isfinite(u[rows]).all(1)]
    away = float(_rms(u[rows]).max())
    raise UserError(
        f"{len(rows)} of {len(u)} trajectories need over {_ATTEMPTS} steps, up to {away:.3g}"
        " deviations out"
    )


def error_between(first: Tensor, again: Tensor, unit: Tensor) -> Tensor:
    """The error `[B]` of two solutions: one and a half times their difference, and rounding."""
    return ROUNDING + 1.5 * (first - again).flatten(1).square().mean(1).sqrt() / unit


@torch.no_grad()
def library(
    law: Any, x: Tensor, t: Time, s: Time, cond: Cond = None, *, tolerance: float = 1e-12
) -> Tensor:
    """The probability-flow ODE from t to s by SciPy's DOP853, in the process's time: like x.

    It shares the denoiser with `solve`, and neither the variables nor the method. All rows are
    solved at once, from the same t to the same s; tolerance is relative and absolute. Raises
    UserError where SciPy is missing or does not reach the end.
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

    start = x.detach().cpu().double().flatten().numpy()
    options = {"method": "DOP853", "rtol": tolerance, "atol": tolerance}
    result = solve_ivp(velocity, (ends[0][0], ends[1][0]), start, **options)
    if not result.success:
        raise UserError(f"SciPy stops at t = {result.t[-1]:g}: {result.message}")
    return torch.from_numpy(result.y[:, -1].copy()).reshape(x.shape).to(x.dtype).to(x.device)
