"""Gaussian data: everything in closed form, on data of any shape."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fewstep.base.conditions import Cond
from fewstep.base.errors import UserError, require
from fewstep.base.randomness import SAMPLING_BLOCK, normal
from fewstep.core.process import Process, Time, edm, per_row, wide
from fewstep.data import Arrays
from fewstep.exact import flow
from fewstep.exact.draws import check_labels, coefficients, conditional_draws
from fewstep.exact.solutions import ROUNDING, Solution
from fewstep.exact.truth import numbers


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Data N(mean, std^2), element by element.

    D = mean + alpha std^2 (x - alpha mean) / (alpha^2 std^2 + sigma^2). mean and std are numbers or
    tensors that broadcast over a sample; std = 0 is a point. It computes in float64, on x_t's
    device, and the result has x_t's dtype. Numbers fit data of any shape; samples get shape (1,).
    """

    mean: float | Tensor = 0.0
    std: float | Tensor = 0.5
    process: Process = field(default_factory=edm)
    classes = 0
    ends = 1

    def __post_init__(self) -> None:
        mean, std = numbers("mean", self.mean), numbers("std", self.std)
        require(bool((std >= 0).all()), "std", self.std, "at least 0")
        try:
            torch.broadcast_shapes(mean.shape, std.shape)
        except RuntimeError:
            raise UserError(
                f"mean of shape {tuple(mean.shape)} and std of {tuple(std.shape)} do not fit"
            ) from None

    def __repr__(self) -> str:
        mean, std = (
            f"{tuple(p.shape)} numbers" if isinstance(p, Tensor) else p
            for p in (self.mean, self.std)
        )
        return f"Gaussian(mean={mean}, std={std}, {self.process})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample."""
        shapes = [numbers("", part).shape for part in (self.mean, self.std)]
        return tuple(torch.broadcast_shapes(*shapes)) or (1,)

    @property
    def variance(self) -> float:
        """tr Cov[x0] / d."""
        return float(numbers("std", self.std).square().expand(self.shape).mean())

    def __call__(self, x_t: Tensor, t: Time, cond: Cond = None, to: Time | None = None) -> Tensor:
        """x0_hat = E[x0 | x_t], like x_t; with `to` the one that jumps to `solve(x_t, t, to)`.

        Both have derivatives in x_t and the times.
        """
        check_labels(cond, 0, x_t)
        mean, variance = self._moments(x_t)
        a, s = self._coefficients(t, x_t)
        if to is None:
            gain = a * variance / _above_zero(a.square() * variance + s.square())
        else:
            gain = flow.gain(variance, a, s, *self._coefficients(flow.end(to, t, x_t), x_t))
        return _like(x_t, mean + gain * (_double(x_t, a) - a * mean))

    def posterior_variance(self, x_t: Tensor, t: Time, cond: Cond = None) -> Tensor:
        """tr Cov[x0 | x_t] / d, `[B]`: mean of sigma^2 std^2 / (alpha^2 std^2 + sigma^2)."""
        check_labels(cond, 0, x_t)
        variance = self._moments(x_t)[1]
        a, s = self._coefficients(t, x_t)
        each = s.square() * variance / _above_zero(a.square() * variance + s.square())
        return _like(x_t, each.reshape(len(x_t), -1).mean(1))

    def log_density(self, x_t: Tensor, t: Time, cond: Cond = None) -> Tensor:
        """log p_t(x_t) of the noised law, `[B]`."""
        check_labels(cond, 0, x_t)
        mean, variance = self._moments(x_t)
        a, s = self._coefficients(t, x_t)
        v = _above_zero(a.square() * variance + s.square())
        each = (_double(x_t, a) - a * mean).square() / v + (2 * math.pi * v).log()
        return _like(x_t, -each.reshape(len(x_t), -1).sum(1) / 2)

    def solve(self, x: Tensor, t: Time, s: Time, cond: Cond = None) -> Tensor:
        """The probability-flow ODE from t to s: alpha_s mean + sqrt(v_s / v_t) (x - alpha_t mean).

        v = alpha^2 std^2 + sigma^2; where v_t = 0 the noise is unknown and taken as 0.
        """
        check_labels(cond, 0, x)
        mean, variance = self._moments(x)
        a_t, s_t = self._coefficients(t, x)
        a_s, s_s = self._coefficients(s, x)
        v_t = a_t.square() * variance + s_t.square()
        v_s = a_s.square() * variance + s_s.square()
        ratio = torch.where(v_t == 0, 0.0, v_s / _above_zero(v_t))
        root = torch.where(ratio == 0, 0.0, torch.where(ratio == 0, 1.0, ratio).sqrt())
        x_s = a_s * mean + root * (_double(x, a_t) - a_t * mean)
        still = (per_row(t, x) == per_row(s, x)).reshape(a_t.shape).to(a_t.device)
        return _like(x, torch.where(still, _double(x, a_t), x_s))

    def solution(self, x: Tensor, t: Time, s: Time, cond: Cond = None) -> Solution:
        """`solve`, whose error is rounding's alone, `[B]`."""
        error = torch.full((len(x),), ROUNDING, dtype=torch.float64).to(wide(x))
        return Solution(self.solve(x, t, s, cond), error)

    @torch.no_grad()
    def posterior(self, x_t: Tensor, t: Time, n: int, seed: int = 0, cond: Cond = None) -> Tensor:
        """n exact draws of x0 given x_t, `[n, B, ...]`.

        Draw j of row i depends on the seed, j and i alone.
        """
        require(n > 0, "n", n, "at least 1 draw")
        mean = self(x_t.to(wide(x_t)).double(), t, cond)
        variance = self._moments(x_t)[1]
        a, s = self._coefficients(t, x_t)
        rest = s.square() * variance / _above_zero(a.square() * variance + s.square())
        _, z = conditional_draws(seed, n, len(x_t), math.prod(x_t.shape[1:]))
        return _like(x_t, mean + rest.sqrt() * z.to(wide(x_t)).reshape(n, *x_t.shape))

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """x0 `[n, *shape]`, float32: sample i depends on the seed and on i alone."""
        require(n > 0, "n", n, "at least 1 sample")
        z = normal(seed, "exact", 0, n, self.shape, SAMPLING_BLOCK).double()
        return (numbers("mean", self.mean).cpu() + numbers("std", self.std).cpu() * z).float()

    def draw(self, n: int, seed: int = 0) -> Arrays:
        """Samples as `sample` gives them, as data: there are no labels."""
        return Arrays(self.sample(n, seed))

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance on the device of x's times, in float64."""
        mean = torch.as_tensor(self.mean, dtype=torch.float64).to(wide(x))
        std = torch.as_tensor(self.std, dtype=torch.float64).to(wide(x))
        try:
            mean = mean.expand(x.shape[1:])
            std = std.expand(x.shape[1:])
        except RuntimeError:
            raise UserError(
                f"x_t of shape {tuple(x.shape)}: expected [B, {', '.join(map(str, self.shape))}]"
            ) from None
        return mean, std.square()

    def _coefficients(self, t: Time, x: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = coefficients(self.process, t, x)
        axes = (-1, *[1] * (x.ndim - 1))
        return alpha.reshape(axes).to(wide(x)), sigma.reshape(axes).to(wide(x))


def _above_zero(v: Tensor) -> Tensor:
    """A divisor in place of a variance of 0, whose quotients are all 0."""
    return v.clamp_min(1e-100)


def _double(x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.device).double()


def _like(x: Tensor, value: Tensor) -> Tensor:
    return value.to(x.dtype).to(x.device)
