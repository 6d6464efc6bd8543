"""Exact flow maps: the x0_hat whose jump from t to a is the probability-flow ODE's own solution.

It is a mean of E[x0 | x_s] along the trajectory, even in alpha / sigma from t to a: the denoiser
where a = t, the data end of the trajectory where a = 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.base.conditions import Cond, pick
from fewstep.base.errors import UserError
from fewstep.core.process import Process, Time, per_row
from fewstep.exact.components import Components, Evidence

_NEAR = 0.03  # of `by_solution`: where the jump makes less of x0_hat than this
_ROUNDING = 1e-6  # `to` may be above t by this share (float32 times)


def end(to: Time, t: Time, x: Tensor) -> Tensor:
    """The times where the jumps from t end, float64 `[B]` on the host. Raises UserError."""
    ends, starts = per_row(to, x, "to"), per_row(t, x)
    fine = (ends >= 0) & (ends <= starts * (1 + _ROUNDING))
    if not bool(fine.all()):
        to, t = (float(times.detach()[~fine][0]) for times in (ends, starts))
        raise UserError(f"to = {to:g} from t = {t:g}: expected the time of a jump's end, 0 .. t")
    return ends


def gain(variance: Tensor, a: Tensor, s: Tensor, a_end: Tensor, s_end: Tensor) -> Tensor:
    """g with x0_hat = mean + g (x - a mean), of Gaussian data of that variance l.

    (sqrt(w / v) - k) / (a_end - k a) with v = a^2 l + s^2, w the same at the end and k = s_end / s.
    Without its 0 / 0 that is l (a_end + k a) / (sqrt(v) (sqrt(w) + k sqrt(v))), smooth in all
    times, also where they are equal. All parts broadcast.
    """
    clean, point = s == 0, variance == 0
    keep = torch.where(clean, 1.0, s_end / torch.where(clean, 1.0, s))
    variance = torch.where(point, 1.0, variance)
    start = (a.square() * variance + s.square()).sqrt()
    root = (a_end.square() * variance + s_end.square()).sqrt()
    value = variance * (a_end + keep * a) / (start * (root + keep * start))
    return torch.where(point, 0.0, value)


def lead(
    components: Components, evidence: Evidence, joint: Tensor, a: Tensor, s: Tensor, *end: Tensor
) -> Tensor:
    """x0_hat `[B, d]` of rows that one component explains: its mean with `gain` for its own gain.

    Times are `[B, 1]`; the rest is as in `components`, whose data has no other law.
    """
    axes = (-1, *[1] * components.variances.ndim)
    times = [part.reshape(axes) for part in (a, s, *end)]
    g = gain(components.variances, *times)
    evidence = evidence._replace(gain=g, rest=1 - times[0] * g)
    return components.mean(evidence, joint.softmax(1))


def _time_of(process: Process, ratio: Tensor) -> Tensor:
    """The time of that alpha / sigma, with one of Newton's steps: halving has no derivative."""
    time, schedule = process.time_at(1 / ratio), process.schedule
    alpha, sigma = process.alpha(time), process.sigma(time)
    slope = (schedule.alpha_rate(time) - alpha / sigma * schedule.sigma_rate(time)) / sigma
    return time + (ratio - alpha / sigma) / slope.detach()


@torch.no_grad()
def by_solution(law: Any, x: Tensor, t: Tensor, to: Tensor, cond: Cond = None) -> Tensor:
    """x0_hat of a law that has `solve`, row by row: x in float64, t and to `[B]` on the host.

    `aim` at the solution, whose error it divides by make = alpha(to) - alpha(t) sigma(to)/sigma(t);
    where make is below 0.03 Gauss and Legendre's mean of three denoisers on the trajectory instead;
    the denoiser where to = t. `torch.func.jvp` follows the solver's steps, backward does not.
    """
    process = law.process
    still = t == to
    sigma = torch.where(still, 1.0, process.sigma(t))
    make = process.alpha(to) - process.alpha(t) * process.sigma(to) / sigma
    near = ~still & (make < _NEAR)

    def ask(x: Tensor, t: Tensor, to: Tensor, cond: Cond) -> Tensor:
        return law(x, t, cond)

    def average(x: Tensor, t: Tensor, to: Tensor, cond: Cond) -> Tensor:
        first, last = (process.alpha(time) / process.sigma(time) for time in (t, to))
        total = torch.zeros_like(x)
        for node, share in zip(*np.polynomial.legendre.leggauss(3), strict=True):
            s = _time_of(process, first + (last - first) * float(1 + node) / 2)
            total = total + share / 2 * law(law.solve(x, t, s, cond), s, cond)
        return total

    def aim(x: Tensor, t: Tensor, to: Tensor, cond: Cond) -> Tensor:
        return process.aim(x, law.solve(x, t, to, cond), t, to)

    x0 = torch.empty_like(x)
    kinds = {aim: ~still & ~near, average: near, ask: still}
    for kind, part in kinds.items():
        if bool(part.any()):
            rows = part.nonzero()[:, 0]
            here = rows.to(x.device)
            x0[here] = kind(x[here], t[rows], to[rows], pick(cond, rows))
    return x0
