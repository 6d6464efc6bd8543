"""One move of a solver for the probability-flow ODE, as a pure function.

`(process, denoiser, x, t, s, cond) -> x_s`: t and s are floats or `[B]`, t >= s; rows with t = s
stay where they are. `euler` and `heun` step in t, `ddim` in the process's own coordinates (the same
on edm and linear).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from fewstep.base.conditions import Cond
from fewstep.base.errors import require, unknown
from fewstep.core import abilities
from fewstep.core.denoiser import Denoiser, awake
from fewstep.core.noise import root
from fewstep.core.process import Process, Time, expand, per_row, wide

Noise = Callable[[], Tensor]  # draws unit normals like x, when they are needed


class Solver(Protocol):
    """A move from t to s along the trajectory that `denoiser` defines."""

    def __call__(
        self, process: Process, denoiser: Denoiser, x: Tensor, t: Time, s: Time, cond: Cond = None
    ) -> Tensor: ...


def _move(x: Tensor, t: Tensor, s: Tensor, x_s: Tensor) -> Tensor:
    """x_s, and x itself in rows that do not move, whatever the network answers there."""
    return torch.where(expand(t == s, x).bool(), x, x_s)


def ddim(
    process: Process, denoiser: Denoiser, x: Tensor, t: Time, s: Time, cond: Cond = None
) -> Tensor:
    """x_s = jump(x, D(x, t)), exact for a constant x0_hat; first order (DDIM, arXiv 2010.02502)."""
    t, s = per_row(t, x), per_row(s, x)
    return process.jump(x, denoiser(x, t, cond), t, s)


def ancestral(
    process: Process,
    denoiser: Denoiser,
    x: Tensor,
    t: Time,
    s: Time,
    cond: Cond = None,
    *,
    noise: Noise,
    eta: float = 1.0,
) -> Tensor:
    """x_s = alpha_s x0_hat + sqrt(sigma_s^2 - up^2) z_hat + up noise.

    up = eta sigma_s sqrt(1 - level_s^2 / level_t^2): eta = 0 is `ddim`, 1 the ancestral sampler of
    DDPM. Source: DDIM, arXiv 2010.02502, eq. 12 and 16, whose variance this is on any process.
    """
    t, s = per_row(t, x), per_row(s, x)
    sigma_t, sigma_s = process.sigma(t), process.sigma(s)
    alpha_t, alpha_s = process.alpha(t), process.alpha(s)
    pure = alpha_s * sigma_t
    # (level_s / level_t)^2
    ratio = (sigma_s * alpha_t / torch.where(pure == 0, 1.0, pure)).square()
    # diffusers takes the bare root, which is NaN where rounding leaves -1e-17.
    up = eta * sigma_s * root(1 - ratio)
    x0_hat = denoiser(x, t, cond)
    along = root(sigma_s.square() - up.square()) / torch.where(sigma_t == 0, 1.0, sigma_t)
    noise_part = expand(along, x) * (x - expand(alpha_t, x) * x0_hat)
    straight = expand(alpha_s, x) * x0_hat + noise_part
    return _move(x, t, s, straight + expand(up, x) * noise())


@dataclass(frozen=True, kw_only=True)
class PriorVariance:
    """x_var = share / (1 / prior + SNR): a share of the posterior variance of N(0, prior).

    Source: MCM, arXiv 2403.06807, section 4: 0.1 / (2 + SNR).
    """

    process: Process
    share: float = 0.1
    prior: float = 0.5

    def __call__(self, x0_hat: Tensor, t: Tensor) -> Tensor:
        signal, noise = self.process.alpha(t).square(), self.process.sigma(t).square()
        return self.share * noise / (noise / self.prior + signal)  # finite at both ends


@dataclass(frozen=True)
class TableVariance:
    """x_var by time, measured beforehand: linear between increasing `times`, constant outside.

    Source: MCM, arXiv 2403.06807, section 4: x_var(t) = eta E ||x0 - D(x_t, t)||^2 / d, eta = 0.75.
    """

    times: tuple[float, ...]
    values: tuple[float, ...]

    def __call__(self, x0_hat: Tensor, t: Tensor) -> Tensor:
        times = torch.as_tensor(self.times, dtype=t.dtype, device=t.device)
        values = torch.as_tensor(self.values, dtype=t.dtype, device=t.device)
        if len(times) == 1:
            return values.expand(t.shape)
        after = torch.searchsorted(times, t.contiguous()).clamp(1, len(times) - 1)
        share = ((t - times[after - 1]) / (times[after] - times[after - 1])).clamp(0, 1)
        return torch.lerp(values[after - 1], values[after], share)


Variance = float | Tensor | Callable[[Tensor, Tensor], Tensor]


def addim(
    process: Process,
    denoiser: Denoiser,
    x: Tensor,
    t: Time,
    s: Time,
    cond: Cond = None,
    *,
    x_var: Variance | None = None,
    final_step: Literal["addim", "ddim"] = "addim",
) -> Tensor:
    """aDDIM: DDIM with the noise part lengthened by what x0_hat averages away.

    z_hat = (x - alpha_t x0_hat) / sigma_t, z_var = (alpha_s - alpha_t sigma_s / sigma_t)^2 x_var,
    x_s = alpha_s x0_hat + sqrt(sigma_s^2 + d z_var / ||z_hat||^2) z_hat; x_var = 0 is `ddim`.
    x_var is the variance of x0 given x_t, per scalar: a number, `[B]`, or a function
    (x0_hat, t) -> `[B]`; left out it is `PriorVariance`.
    In the move to t = 0 the paper's rule adds this even to the sample itself; final_step = "ddim"
    does not.
    Source: MCM, arXiv 2403.06807, section 4.
    """
    t, s = per_row(t, x), per_row(s, x)
    # Under guidance the variance is that of the unguided guess.
    both = abilities.both(denoiser)
    if both:
        x0_hat, plain = both(x, t, cond)
    else:
        x0_hat = plain = denoiser(x, t, cond)
    if x_var is None:
        x_var = PriorVariance(process=process)
    variance = torch.as_tensor(x_var(plain, t) if callable(x_var) else x_var)
    variance = variance.to(wide(x), torch.float64).expand(len(x))
    sigma_t = process.sigma(t)
    divisor = torch.where(sigma_t == 0, 1.0, sigma_t)
    z_hat = (x - expand(process.alpha(t), x) * x0_hat) / expand(divisor, x)
    make = process.alpha(s) - process.alpha(t) * process.sigma(s) / divisor
    if final_step == "ddim":
        make = torch.where(s == 0, 0.0, make)
    # ||z_hat||^2 / d
    per_scalar = z_hat.square().flatten(1).mean(1).to(wide(x), torch.float64)
    per_scalar = per_scalar.clamp_min(torch.finfo(torch.float32).tiny)
    extra = make.square().to(wide(x)) * variance / per_scalar
    length = root(process.sigma(s).square().to(wide(x)) + extra)
    return _move(x, t, s, expand(process.alpha(s), x) * x0_hat + expand(length, x) * z_hat)


@dataclass(frozen=True)
class Along:
    """A solver that moves from t to s by way of the grid's times between them, row by row.

    grid: decreasing times. Only rows that move between two grid points are evaluated; the others
    stay where they are and cost nothing.
    """

    solver: Callable[..., Tensor]
    grid: tuple[float, ...]

    def __call__(
        self,
        process: Process,
        denoiser: Denoiser,
        x: Tensor,
        t: Time,
        s: Time,
        cond: Cond = None,
        **options: Any,
    ) -> Tensor:
        last = x
        for _, last in self.points(process, denoiser, x, t, s, cond, **options):  # noqa: B007
            pass
        return last

    def points(
        self,
        process: Process,
        denoiser: Denoiser,
        x: Tensor,
        t: Time,
        s: Time,
        cond: Cond = None,
        **options: Any,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The times `[B]` and points on the way, the start first; outside t .. s a row rests."""
        now, end = per_row(t, x), per_row(s, x)
        yield now, x
        for stop in (*self.grid, 0.0):
            after = torch.maximum(now.clamp(max=stop), end)
            moves = after < now
            if bool(moves.any()):
                x = self.solver(process, awake(denoiser, moves), x, now, after, cond, **options)
                yield after, x
            now = after


def along(solver: Callable[..., Tensor], grid: Sequence[float] | Tensor) -> Along:
    """The solver along a grid of decreasing times: a row moves from grid point to grid point."""
    times = tuple(float(t) for t in grid)
    require(all(a > b for a, b in pairwise(times)), "grid", times, "decreasing times")
    return Along(solver, times)


def euler(
    process: Process, denoiser: Denoiser, x: Tensor, t: Time, s: Time, cond: Cond = None
) -> Tensor:
    """x_s = x + (s - t) v(x, t): first order."""
    t, s = per_row(t, x), per_row(s, x)
    return _move(x, t, s, x + expand(s - t, x) * process.velocity(x, denoiser(x, t, cond), t))


def heun(
    process: Process,
    denoiser: Denoiser,
    x: Tensor,
    t: Time,
    s: Time,
    cond: Cond = None,
    *,
    alpha: float = 1.0,
) -> Tensor:
    """Second order: x_s = x + h ((1 - 1/(2 alpha)) v(x, t) + 1/(2 alpha) v(x', t')), h = s - t.

    x' = x + alpha h v, t' = t + alpha h; alpha = 1 is Heun's method, 2/3 Ralston's, 1/2 the
    midpoint. Rows that end at the data, s = 0, take Euler's move: K moves to the data are 2K - 1
    evaluations. Source: EDM, arXiv 2206.00364, algorithm 3.
    """
    t, s = per_row(t, x), per_row(s, x)
    step = s - t
    last = s == 0
    v = process.velocity(x, denoiser(x, t, cond), t)
    straight = x + expand(step, x) * v
    if bool(last.all()):
        return _move(x, t, s, straight)
    # Rows in their last move ask where they stand.
    half_t = torch.where(last, t, t + alpha * step)
    half_x = x + expand(half_t - t, x) * v
    slope = process.velocity(half_x, denoiser(half_x, half_t, cond), half_t)
    share = 1 / (2 * alpha)
    bent = x + expand(step, x) * ((1 - share) * v + share * slope)
    return _move(x, t, s, torch.where(expand(last, x).bool(), straight, bent))


def renoise(
    process: Process,
    denoiser: Denoiser,
    x: Tensor,
    t: Time,
    s: float,
    cond: Cond = None,
    *,
    noise: Noise,
) -> Tensor:
    """One move of a consistency model: x_s = alpha(s) D(x, t) + sigma(s) noise, at s = 0 D(x, t).

    Source: CM, arXiv 2303.01469, algorithm 1. There the noise has variance s^2 - t_min^2; ECT and
    the later papers use s^2, as here.
    """
    x0_hat = denoiser(x, per_row(t, x), cond)
    return x0_hat if s == 0 else process.mix(x0_hat, noise(), s)


def strategic(
    process: Process,
    denoiser: Denoiser,
    x: Tensor,
    t: Time,
    s: Time,
    cond: Cond = None,
    *,
    noise: Noise,
    gamma: float = 0.3,
) -> Tensor:
    """DDIM to l = (1 - gamma) s, below s, and up again with fresh noise.

    x_s = k x_l + sqrt(sigma_s^2 - k^2 sigma_l^2) noise, k = alpha_s / alpha_l; gamma = 0 is `ddim`,
    1 is `renoise`. Source: TCD, arXiv 2402.19159, strategic stochastic sampling (CTM, arXiv
    2310.02279, has sqrt(1 - gamma^2) s).
    """
    require(0 <= gamma <= 1, "gamma", gamma, "in 0 .. 1")
    t, s = per_row(t, x), per_row(s, x)
    low = (1 - gamma) * s
    keep = process.alpha(s) / process.alpha(low)
    fresh = root(process.sigma(s).square() - (keep * process.sigma(low)).square())
    x_l = process.jump(x, denoiser(x, t, cond), t, low)
    return _move(x, t, s, expand(keep, x) * x_l + expand(fresh, x) * noise())


@dataclass(frozen=True, kw_only=True)
class Churn:
    """A solver that first raises the noise: t -> (1 + gamma) t with fresh noise, then moves to s.

    gamma = min(s_churn / steps, sqrt(2) - 1) where s_min <= t <= s_max, else 0; `s_noise` scales
    the noise's standard deviation. For processes with alpha = 1. Source: EDM, arXiv 2206.00364,
    algorithm 2.
    """

    steps: int
    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0
    solver: Solver = heun

    def __call__(
        self,
        process: Process,
        denoiser: Denoiser,
        x: Tensor,
        t: float,
        s: float,
        cond: Cond = None,
        *,
        noise: Noise,
    ) -> Tensor:
        gamma = 0.0
        if self.s_min <= t <= self.s_max:
            gamma = min(self.s_churn / self.steps, math.sqrt(2) - 1)
        t_hat = t + gamma * t
        x = x + math.sqrt(t_hat**2 - t**2) * self.s_noise * noise()
        return self.solver(process, denoiser, x, t_hat, s, cond)


def by_name(name: str) -> Solver:
    """The solver that a method's option names. Raises UserError."""
    solvers: dict[str, Solver] = {"ddim": ddim, "euler": euler, "heun": heun, "addim": addim}
    if name not in solvers:
        raise unknown("solver", name, solvers)
    return solvers[name]
