"""An integrator for smooth ODEs to nearly all the digits of float64, each row with its own interval
and steps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fewstep.base.errors import UserError

Slope = Callable[
    [Tensor, Tensor, Tensor], Tensor
]  # (u [b, d], time [b], rows [b]) -> du/dtime [b, d]

_PAIRS = 5  # midpoint rules of 2, 4, .., 10 substeps: order 10 for 26 slopes
_POWER = 1 / (
    2 * _PAIRS - 1
)  # step ~ error^power: the estimate is the error of the second best value
_SMALLEST = 1e-10  # a step that is taken whatever its error: below it, rounding decides
_ATTEMPTS = 2000  # steps and refused steps of one row; an ordinary trajectory takes 20 to 100


def _rms(u: Tensor) -> Tensor:
    return u.square().mean(1).sqrt()


def _extrapolated(
    slope: Slope, u: Tensor, start: Tensor, step: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """One step by the modified midpoint rule, extrapolated in h^2: the two best values, the better
    one last.

    No slope is asked for at the end of the step. Source: Gragg, SIAM J. Numer. Anal. 2 (1965);
    Hairer, Norsett & Wanner, "Solving Ordinary Differential Equations I", section II.9, harmonic
    sequence.
    """
    first, table = slope(u, start, rows), list[Tensor]()
    for j in range(1, _PAIRS + 1):
        h = step / (2 * j)
        before, here = u, u + h[:, None] * first
        for i in range(1, 2 * j):
            before, here = here, before + 2 * h[:, None] * slope(here, start + i * h, rows)
        line = [here]
        for i in range(1, j):
            line.append(line[-1] + (line[-1] - table[i - 1]) / ((j / (j - i)) ** 2 - 1))
        table = line
    return table[-2], table[-1]


def integrate(
    slope: Slope, u: Tensor, start: Tensor, end: Tensor, *, tolerance: float, halved: bool = False
) -> Tensor:
    """u `[B, d]` at times `start` `[B]` -> u at `end`, forwards or backwards, with the steps each
    row needs.

    A step's error, by root mean square, stays below tolerance * max(1, rms of u). After two steps
    that held, the third takes their trend on (Gustafsson's predictive controller, Hairer & Wanner
    II, section IV.8).
    halved: every step that is found good enough is taken as two halves.
    Rows that are not finite are given back as they are. Raises UserError where the ODE is too
    stiff.
    """
    u, now, step = u.clone(), start.clone(), (end - start) / 16
    past = torch.zeros_like(step), torch.ones_like(step)  # the last step that held, and its error
    rows = ((now != end) & torch.isfinite(u).all(1)).nonzero()[:, 0]
    for _ in range(_ATTEMPTS):
        if not len(rows):
            return u
        left = end[rows] - now[rows]
        last = step[rows].abs() >= left.abs()
        h = torch.where(last, left, step[rows])
        coarse, fine = _extrapolated(slope, u[rows], now[rows], h, rows)
        error = _rms(fine - coarse) / (tolerance * _rms(fine).clamp_min(1.0))
        error = torch.where(torch.isfinite(error), error, torch.inf).clamp_min(1e-4)
        if halved:
            middle = _extrapolated(slope, u[rows], now[rows], h / 2, rows)[1]
            fine = _extrapolated(slope, middle, now[rows] + h / 2, h / 2, rows)[1]
        held = (error <= 1) | (h.abs() <= _SMALLEST)
        u[rows] = torch.where(held[:, None], fine, u[rows])
        now[rows] = torch.where(held, torch.where(last, end[rows], now[rows] + h), now[rows])
        grow, (h_past, error_past) = error**-_POWER, (part[rows] for part in past)
        trend = torch.where(held & (h_past != 0), h / h_past * (error_past / error) ** _POWER, 1.0)
        step[rows] = h * (0.9 * grow * trend.clamp_max(1.0)).clamp(0.2, 4.0)
        for part, value in zip(past, (h, error), strict=True):
            part[rows] = torch.where(held, value, part[rows])
        rows = rows[(now[rows] != end[rows]) & torch.isfinite(u[rows]).all(1)]
    away = float(_rms(u[rows]).max())
    raise UserError(
        f"{len(rows)} of {len(u)} trajectories need over {_ATTEMPTS} steps, up to {away:.3g}"
        " deviations out"
    )
