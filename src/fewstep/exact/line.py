"""Laws on the line: distribution functions and quantiles of one-dimensional truths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.base.errors import UserError
from fewstep.core.process import Process, Time, as_time
from fewstep.exact.gaussian import Gaussian
from fewstep.exact.truth import Truth, numbers

_HALVINGS = 56  # of a bracket of 80 standard deviations: to the last bit of float64
_OUT = 40.0  # quantiles are searched up to so many deviations from the outermost means
_LEAST = 1e-50  # in place of a standard deviation of 0


@dataclass(frozen=True, eq=False)
class Line:
    """sum_k weights_k N(means_k, stds_k^2), all `[K]`, and its noised laws on the process.

    A quantile is named by q with F_t(x) = Phi(q), the same quantile of a unit normal. So tails keep
    all their digits, and the flow's map from t to s, which in one dimension keeps F, is
    `quantile(score(x, t), s)`.
    """

    weights: Tensor
    means: Tensor
    stds: Tensor
    process: Process

    def at(self, t: Time) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of the components at time t, `[K]`."""
        a, s = self.process.alpha(as_time(t)), self.process.sigma(as_time(t))
        return a * self.means, torch.hypot(a * self.stds, s).clamp_min(_LEAST)

    def tails(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """log P(x_t < x) and log P(x_t > x), like x `[n]`."""
        means, stds = self.at(t)
        away = (x[:, None] - means) / stds
        logs = self.weights.log()
        below = (torch.special.log_ndtr(away) + logs).logsumexp(1)
        above = (torch.special.log_ndtr(-away) + logs).logsumexp(1)
        return below, above

    def score(self, x: Tensor, t: Time) -> Tensor:
        """q with Phi(q) = F_t(x), like x `[n]`; from the nearer tail."""
        below, above = self.tails(x, t)
        low = torch.special.ndtri(torch.minimum(below, above).exp())
        return torch.where(below < above, low, -low)

    def quantile(self, q: Tensor, t: Time) -> Tensor:
        """x with F_t(x) = Phi(q), like q `[n]`, by halving; |q| up to 38."""
        means, stds = self.at(t)
        logs = self.weights.log()
        x_low = (means - _OUT * stds).min().expand_as(q)
        x_high = (means + _OUT * stds).max().expand_as(q)
        side = torch.where(q < 0, 1.0, -1.0).double()  # of the nearer tail
        goal = torch.special.log_ndtr(-q.abs())
        for _ in range(_HALVINGS):
            x = (x_low + x_high) / 2
            away = side[:, None] * (x[:, None] - means) / stds
            tail = (torch.special.log_ndtr(away) + logs).logsumexp(1)
            short = (tail - goal) * side < 0
            x_low = torch.where(short, x, x_low)
            x_high = torch.where(short, x_high, x)
        return (x_low + x_high) / 2

    def scales(self, count: int) -> Tensor:
        """Increasing points that are dense where the data is.

        Each component gives `count` even steps from -9 to 9 of its deviations.
        """
        out = torch.linspace(-9, 9, count + 1, dtype=torch.float64)
        return (self.means[:, None] + self.stds.clamp_min(_LEAST)[:, None] * out).flatten().unique()

    def flow(self, x: Tensor, t: Time, s: Time) -> Tensor:
        """The probability-flow ODE's map from t to s, F_s^-1(F_t(x)), like x `[n]`."""
        return self.quantile(self.score(x, t), s)


def between(edges: Tensor) -> tuple[Tensor, Tensor]:
    """Points and weights of Gauss and Legendre's rule of three points between increasing edges."""
    half = edges.diff()[:, None] / 2
    middle = (edges[1:] + edges[:-1])[:, None] / 2
    away = math.sqrt(0.6) * torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    shares = torch.tensor([5.0, 8.0, 5.0], dtype=torch.float64)
    return (middle + half * away).flatten(), (half * shares / 9).flatten()


def line(law: Any) -> Line:
    """A one-dimensional Gaussian, mixture or finite set as a `Line`. Raises UserError."""
    if not isinstance(law, (Gaussian, Truth)):
        raise UserError(f"a {type(law).__name__}: expected a one-dimensional law of fewstep.exact")
    if math.prod(law.shape) != 1:
        raise UserError(
            f"a law of shape {tuple(law.shape)}: expected one number a sample, shape (1,)"
        )
    if isinstance(law, Gaussian):
        mean = numbers("mean", law.mean).reshape(1)
        std = numbers("std", law.std).reshape(1)
        return Line(torch.ones(1, dtype=torch.float64), mean, std, law.process)
    weights = law.components.log_weights.exp()
    present = weights > 0
    means = law.components.means[present, 0]
    stds = law.components.axes[present, 0].sqrt()
    means = law.mean.reshape(1) + law.scale * means
    return Line(weights[present], means, law.scale * stds, law.process)
