"""Moves that add fresh noise; those of consistency models are among them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fewstep.base.conditions import Cond
from fewstep.base.errors import require
from fewstep.core.denoiser import Denoiser, ask
from fewstep.core.noise import root
from fewstep.core.process import Process, Time, expand, per_row
from fewstep.core.solvers.moves import Solver, heun, move

Noise = Callable[[], Tensor]  # draws unit normals like x, when they are needed


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
    return move(x, t, s, straight + expand(up, x) * noise())


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
    x0_hat = ask(denoiser, x, per_row(t, x), cond, 0.0)
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
    by: Literal["time", "level"] = "time",
) -> Tensor:
    """A jump to l below s, and up again with fresh noise.

    x_s = k x_l + sqrt(sigma_s^2 - k^2 sigma_l^2) noise, k = alpha_s / alpha_l; gamma = 0 is `jump`,
    1 is `renoise`. By time l = (1 - gamma) s: TCD, arXiv 2402.19159, strategic stochastic sampling.
    By level that of l is sqrt(1 - gamma^2) that of s: CTM, arXiv 2310.02279, algorithm 3.
    """
    require(0 <= gamma <= 1, "gamma", gamma, "in 0 .. 1")
    t, s = per_row(t, x), per_row(s, x)
    low = (1 - gamma) * s
    if by == "level":
        low = process.time_at(math.sqrt(1 - gamma**2) * process.level(s))
    keep = process.alpha(s) / process.alpha(low)
    fresh = root(process.sigma(s).square() - (keep * process.sigma(low)).square())
    x_l = process.jump(x, ask(denoiser, x, t, cond, low), t, low)
    return move(x, t, s, expand(keep, x) * x_l + expand(fresh, x) * noise())


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
