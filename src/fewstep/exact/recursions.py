"""The end of each method on Gaussian data N(0, std^2), every level fitted exactly: recursions.

On such data the best D(x, t) is g x, one number per level, and least squares gives it from the
level below: with x_t, x_r the pair of a method's coupling, goal = g_r x_r and
g_t = g_r E[x_r x_t] / E[x_t^2]. So a method's factor of a level is a product of one factor per
step, and the error that a grid of N steps leaves is known without training: one-step samples have
the standard deviation factor sigma(t_max).

times: increasing, the lowest is where D(x, t) = x. Factors are `[N + 1]` in float64, of the lowest
level 1. On processes with alpha = 1 and sigma = 0 at the data they are D's own; `mcm` has them from
each segment's start. `losses` has the loss of an exact model on a grid, by either method, `bias`
the error of samples in several steps by a model that is a little off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fewstep.base.errors import require
from fewstep.core.process import Process
from fewstep.core.solvers import ddim, euler
from fewstep.exact.gaussian import Gaussian

Solver = Callable[..., Tensor]
Steps = Sequence[float] | Tensor


def ct(process: Process, times: Steps, std: float, first: float = 1.0) -> Tensor:
    """Factors of consistency training, level by level.

    g_t = g_r (alpha_t alpha_r s^2 + sigma_t sigma_r) / (alpha_t^2 s^2 + sigma_t^2); on edm
    (s^2 + r t) / (s^2 + t^2), from CM, arXiv 2303.01469, eq. 10. It is the same for every even
    convex distance, since the residual is Gaussian and independent of x_t, and for TCM's second
    stage from an exact first.

    Args:
        process: with its alpha and sigma
        times: increasing
        std: of the data
        first: factor of the lowest level, 1 where D(x, t) = x
    """
    return gc(process, times, std, share=0.0, first=first)


def cd(
    process: Process, times: Steps, std: float, solver: Solver = ddim, first: float = 1.0
) -> Tensor:
    """Consistency distillation: g_t = g_r F, F the solver's move of the exact denoiser from t to r.

    Euler's is ct's on edm. Along the grid of Direct CM it is that method's solution too
    (arXiv 2411.08954).
    """
    steps = torch.tensor(increasing(times), dtype=torch.float64)
    start = torch.full((1,), first, dtype=torch.float64)
    t, r = steps[1:], steps[:-1]
    factors = solver(process, Gaussian(0.0, std, process), torch.ones_like(t), t, r)
    return torch.cat([start, factors]).cumprod(0)


def gc(
    process: Process,
    times: Steps,
    std: float,
    *,
    share: float = 1.0,
    predictor: Literal["ideal", "own"] = "ideal",
    first: float = 1.0,
) -> Tensor:
    """Generator-induced coupling: x0 := a x_r in a share of the rows.

    Then both points mix that x0 with the row's z. E x0^2 = V = a^2 (alpha_r^2 s^2 + sigma_r^2) and
    E x0 z = a sigma_r =: c, so that
    E x_u x_t = alpha_u alpha_t V + (alpha_u sigma_t + alpha_t sigma_u) c + sigma_u sigma_t.
    With share 1 the one-step standard deviation does not tend to s but, on edm up to 80, to
    1.2488 s (ideal) and 1.1814 s (own). Source: GC, arXiv 2406.09570, eq. 13 and 14.

    Args:
        process: with its alpha and sigma
        times: increasing
        std: of the data
        share: probability of a generated row
        predictor: ideal, a = s / sqrt(alpha_r^2 s^2 + sigma_r^2), the exact map to the data; own,
            a = g_r
        first: factor of the lowest level
    """
    require(predictor in ("ideal", "own"), "predictor", predictor, "ideal or own")
    steps = torch.tensor(increasing(times), dtype=torch.float64)
    levels = zip(process.alpha(steps).tolist(), process.sigma(steps).tolist(), strict=True)
    factors = [first]
    for (alpha_r, sigma_r), (alpha_t, sigma_t) in pairwise(levels):
        power = alpha_r**2 * std**2 + sigma_r**2
        a = std / power**0.5 if predictor == "ideal" else factors[-1]
        across = square = 0.0
        # Of the two kinds of rows: probability, E x0^2, E x0 z.
        for p, v, c in ((1 - share, std**2, 0.0), (share, a**2 * power, a * sigma_r)):
            cross = (alpha_r * sigma_t + alpha_t * sigma_r) * c
            across += p * (alpha_r * alpha_t * v + cross + sigma_r * sigma_t)
            cross = (alpha_t * sigma_t + alpha_t * sigma_t) * c
            square += p * (alpha_t * alpha_t * v + cross + sigma_t * sigma_t)
        factors.append(factors[-1] * across / square)
    return torch.tensor(factors, dtype=torch.float64)


class Losses(NamedTuple):
    """Means over a grid's intervals, per dimension."""

    ct: float
    cd: float


def losses(process: Process, times: Steps, std: float, solver: Solver = euler) -> Losses:
    """Squared losses of the exact consistency function: of training, and of distillation.

    E (f(x_t, t) - f(x_r, r))^2 with f(x, t) = std x / sqrt(alpha^2 std^2 + sigma^2). Both points
    mix one x0 and z (ct), or x_r is the solver's move of x_t (cd). Source: GC, arXiv 2406.09570,
    theorem 1 with weight 1.
    """
    steps = torch.tensor(increasing(times), dtype=torch.float64)
    alpha, sigma = process.alpha(steps), process.sigma(steps)
    spread = torch.hypot(alpha * std, sigma)
    require(bool((spread > 0).all()), "std", std, "above 0 where the lowest time is the data's")
    to_end = std / spread
    x0, z = (to_end * alpha).diff(), (to_end * sigma).diff()
    t, r = steps[1:], steps[:-1]
    move = solver(process, Gaussian(0.0, std, process), torch.ones_like(t), t, r)
    apart = (to_end[1:] - to_end[:-1] * move) * spread[1:]
    return Losses(((x0 * std).square() + z.square()).mean().item(), apart.square().mean().item())


def losses_limit(std: float, t_max: float) -> float:
    """lim N^2 (ct - cd) of `losses` on edm's even grid of N intervals from 0 to T = t_max.

    T int_0^T f'^2 E (z - v)^2 dt = T s^4 [T / (2 s^2 (s^2 + T^2)) + atan(T / s) / (2 s^3)], and
    N^2 cd vanishes. Source: GC, arXiv 2406.09570, theorem 1, on Gaussian data.
    """
    require(std > 0 and t_max > 0, "std, t_max", (std, t_max), "above 0")
    bracket = t_max / (2 * std**2 * (std**2 + t_max**2)) + math.atan(t_max / std) / (2 * std**3)
    return t_max * std**4 * bracket


def mcm(
    process: Process, segments: int, steps: int, std: float, solver: Solver | None = None
) -> Tensor:
    """Multistep consistency models: x_a = factor x_t from the times of each segment to its start.

    Consistency training, or distillation by a solver's moves of the exact denoiser. A row is a
    segment of `steps` intervals, from the data up: `[segments, steps + 1]`; the sampler ends with
    the product of the last column times sigma(t_max) z. D itself is `process.aim(1, factor, t, a)`.
    Source: MCM, arXiv 2403.06807, algorithm 1.
    """
    grid = torch.linspace(0, process.t_max, segments * steps + 1, dtype=torch.float64)
    rows = [grid[k * steps : (k + 1) * steps + 1] for k in range(segments)]
    if solver is None:
        return torch.stack([ct(process, row, std) for row in rows])
    return torch.stack([cd(process, row, std, solver) for row in rows])


def bias(
    process: Process,
    times: Steps,
    std: float,
    error: Callable[[float, float], float],
    *,
    renoise: bool = False,
) -> float:
    """Mean of the samples when each evaluation from t to a is off by error(t, a), with exact maps.

    The exact map of N(0, std^2) is linear, X_(t->a)(x) = J x with J = sqrt(v_a / v_t) and v =
    alpha^2 std^2 + sigma^2. So samples keep the variance of the data, and their W2 distance to it
    is |bias|. Jumps: b_a = J_(t->a) b_t + error(t, a). With renoise every evaluation leads to the
    data, as a consistency model's, and noise of the next time is added: b_r = alpha_r (J_(t->0) b_t
    + error(t, 0)).

    With error(t, a) = t - a on the linear process and N even steps, std 0.5, renoise ends at 1,
    0.947, 0.976, 1.006, .. ~ 0.59 N^(1/3), and jumps fall from 1 to 0.861. The exact model has no
    error in any number of steps. AYF, arXiv 2506.14603, section 3, shows that some models as near
    to it as one likes get worse from some N on. What the best N is depends on the error's form:
    where it does not shrink with t - a, jumps add up too, ~ N.

    Args:
        process: with its alpha and sigma
        times: increasing, the lowest is where samples are data
        std: of the data
        error: of the point at a, in a call from t
        renoise: consistency sampling
    """
    steps = increasing(times)
    total = 0.0
    for t, r in pairwise(reversed(steps)):
        a = steps[0] if renoise else r
        spread = (torch.hypot(process.alpha(time) * std, process.sigma(time)) for time in (a, t))
        total = float(torch.divide(*spread)) * total + error(t, a)
        if renoise and r > a:
            total *= float(process.alpha(r))
    return total


def increasing(times: Steps) -> list[float]:
    """The times as numbers. Raises UserError unless they are two or more and increase from 0."""
    steps = [float(t) for t in times]
    rising = len(steps) > 1 and steps[0] >= 0 and all(r < t for r, t in pairwise(steps))
    require(rising, "times", steps, "two or more, increasing, none below 0")
    return steps
