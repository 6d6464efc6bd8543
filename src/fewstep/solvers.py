"""One move of a solver for the probability-flow ODE: pure functions `(process, denoiser, x, t, s, cond) -> x_s`.

t and s are floats or `[B]`, t >= s; rows with t = s stay where they are. `euler` and `heun` step in t,
`ddim` in the process's own coordinates (the same on edm).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fewstep.denoiser import Cond, Denoiser
from fewstep.process import Process, Time, expand, per_row

Noise = Callable[[], Tensor]  # draws unit normals like x, when they are needed


class Solver(Protocol):
    """A move from t to s along the trajectory that `denoiser` defines."""

    def __call__(
        self, process: Process, denoiser: Denoiser, x: Tensor, t: Time, s: Time, cond: Cond = None
    ) -> Tensor: ...


def _moved(x: Tensor, t: Tensor, s: Tensor, x_s: Tensor) -> Tensor:
    """x_s, and x itself in rows that do not move, whatever the network says there."""
    return torch.where(expand(t == s, x).bool(), x, x_s)


def ddim(process: Process, denoiser: Denoiser, x: Tensor, t: Time, s: Time, cond: Cond = None) -> Tensor:
    """x_s = jump(x, D(x, t)): exact where x0_hat is constant; first order (DDIM, arXiv 2010.02502)."""
    t, s = per_row(t, x), per_row(s, x)
    return process.jump(x, denoiser(x, t, cond), t, s)


def euler(process: Process, denoiser: Denoiser, x: Tensor, t: Time, s: Time, cond: Cond = None) -> Tensor:
    """x_s = x + (s - t) v(x, t): first order."""
    t, s = per_row(t, x), per_row(s, x)
    return _moved(x, t, s, x + expand(s - t, x) * process.velocity(x, denoiser(x, t, cond), t))


def heun(
    process: Process, denoiser: Denoiser, x: Tensor, t: Time, s: Time, cond: Cond = None, *, alpha: float = 1.0
) -> Tensor:
    """Second order: x + h ((1 - 1/(2 alpha)) v(x, t) + 1/(2 alpha) v(x', t')), x' = x + alpha h v, t' = t + alpha h.

    alpha = 1 is Heun's method, 2/3 Ralston's, 1/2 the midpoint (EDM, arXiv 2206.00364, algorithm 3).
    Rows that end where sigma(s) = 0 take Euler's move, as there: K moves to the data are 2K - 1 evaluations.
    """
    done = not isinstance(s, Tensor) and bool(process.sigma(s) == 0)  # known without asking the device
    t, s = per_row(t, x), per_row(s, x)
    step, last = s - t, process.sigma(s) == 0
    v = process.velocity(x, denoiser(x, t, cond), t)
    straight = x + expand(step, x) * v
    if done:
        return _moved(x, t, s, straight)
    half_t = torch.where(last, t, t + alpha * step)  # rows that are done look where they stand
    half_x = x + expand(half_t - t, x) * v
    slope = process.velocity(half_x, denoiser(half_x, half_t, cond), half_t)
    share = 1 / (2 * alpha)
    bent = x + expand(step, x) * ((1 - share) * v + share * slope)
    return _moved(x, t, s, torch.where(expand(last, x).bool(), straight, bent))


def renoise(
    process: Process, denoiser: Denoiser, x: Tensor, t: Time, s: float, cond: Cond = None, *, noise: Noise
) -> Tensor:
    """One move of a consistency model: x_s = alpha(s) D(x, t) + sigma(s) noise; D(x, t) itself at s = 0.

    Source: CM, arXiv 2303.01469, algorithm 1. There the noise has variance s^2 - t_min^2; ECT and the
    later papers use s^2, as here.
    """
    x0_hat = denoiser(x, per_row(t, x), cond)
    return x0_hat if s == 0 else process.mix(x0_hat, noise(), s)


@dataclass(frozen=True, kw_only=True)
class Churn:
    """A solver that first raises the noise: t -> (1 + gamma) t with fresh noise, then moves to s.

    gamma = min(s_churn / steps, sqrt(2) - 1) where s_min <= t <= s_max, else 0; `s_noise` scales the
    noise's standard deviation. For processes with alpha = 1. Source: EDM, arXiv 2206.00364, algorithm 2.
    """

    steps: int
    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0
    solver: Solver = heun

    def __call__(
        self, process: Process, denoiser: Denoiser, x: Tensor, t: float, s: float, cond: Cond = None, *, noise: Noise
    ) -> Tensor:
        gamma = min(self.s_churn / self.steps, math.sqrt(2) - 1) if self.s_min <= t <= self.s_max else 0.0
        raised = t + gamma * t
        x = x + math.sqrt(raised**2 - t**2) * self.s_noise * noise()
        return self.solver(process, denoiser, x, raised, s, cond)
