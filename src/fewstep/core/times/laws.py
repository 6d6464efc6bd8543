"""Distributions of times as quantile functions: u in (0, 1) -> t."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fewstep.base.errors import require
from fewstep.core.process import Process, as_time
from fewstep.core.times.core import Law


@dataclass(frozen=True, kw_only=True)
class LogNormal:
    """ln t ~ N(mean, std^2), restricted to [low, high] (EDM, arXiv 2206.00364, table 1)."""

    mean: float
    std: float
    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        require(math.isfinite(self.mean), "mean", self.mean, "a finite number")
        require(0 < self.std < math.inf, "std", self.std, "above 0")
        require(0 <= self.low < self.high, "low", self.low, f"in 0 .. high={self.high}")

    def cdf(self, t: Tensor) -> Tensor:
        """P(T <= t) of the unrestricted law."""
        return torch.special.ndtr((t.log() - self.mean) / self.std)

    def quantile(self, u: Tensor) -> Tensor:
        below, above = self.cdf(as_time(self.low)), self.cdf(as_time(self.high))
        # u = 0 has a probability of 2^-53, and would give t = 0: no room for r < t.
        p = below + (above - below) * u.double().clamp(2**-54, 1 - 2**-53)
        return (self.mean + self.std * torch.special.ndtri(p)).exp()


@dataclass(frozen=True, kw_only=True)
class LogStudentT:
    """ln t = mean + std T, T Student's with nu degrees of freedom, restricted to [low, high].

    With T = sqrt(nu) sinh y the density of y is cosh(y)^-nu up to a factor: smooth even for TCM's
    nu = 0.01, so its integral by Gauss's rule between 4097 nodes, and the Hermite cubics of its
    inverse, are exact to 1e-9.
    Source: TCM, arXiv 2410.14895, eq. 7 and section 4: mean 0, std 0.2, nu 0.01 on [1, 80].
    """

    mean: float = 0.0
    std: float = 0.2
    nu: float = 0.01
    low: float = 1.0
    high: float = 80.0

    def __post_init__(self) -> None:
        require(math.isfinite(self.mean), "mean", self.mean, "a finite number")
        require(0 < self.std < math.inf, "std", self.std, "above 0")
        require(0 < self.nu < math.inf, "nu", self.nu, "above 0")
        fits = 0 < self.low < self.high < math.inf
        require(fits, "low", self.low, f"in 0 .. high={self.high}, above 0")

    def quantile(self, u: Tensor) -> Tensor:
        nodes, cdf, slope = _student(self)
        u = u.double().contiguous()
        step = nodes[1] - nodes[0]
        i = (torch.searchsorted(cdf, u, right=True) - 1).clamp(0, len(nodes) - 2)
        width = cdf[i + 1] - cdf[i]
        s = ((u - cdf[i]) / width).clamp(0, 1)
        bend = width * s * (1 - s) * ((1 - s) * slope[i] - s * slope[i + 1])
        y = nodes[i] + step * s * s * (3 - 2 * s) + bend
        log_t = self.mean + self.std * math.sqrt(self.nu) * _sinh(y)
        return log_t.exp().clamp(self.low, self.high)


def _sinh(y: Tensor) -> Tensor:
    """sinh y `[B]` whose bits do not depend on B.

    For a rest that fills no pair of vector registers torch takes another function.
    """
    return torch.nn.functional.pad(y, (0, -len(y) % 16)).sinh()[: len(y)]


@lru_cache(maxsize=8)
def _student(law: LogStudentT) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes in y, the distribution function there, and the slope of its inverse."""
    scale = law.std * math.sqrt(law.nu)
    low, high = (math.asinh((math.log(t) - law.mean) / scale) for t in (law.low, law.high))
    peak = math.log(math.cosh(min(max(low, 0.0), high)))
    # The nodes end where the density is exp(-45) of its peak, which no uniform tells from 0.
    drop = peak + 45 / law.nu
    # The arccosh of exp(drop).
    reach = drop + math.log1p(math.sqrt(1 - math.exp(-2 * drop)))
    nodes = torch.linspace(max(low, -reach), min(high, reach), 4097, dtype=torch.float64)

    def log_density(y: Tensor) -> Tensor:
        return -law.nu * (y.cosh().log() - peak)

    at, weight = (torch.as_tensor(x) for x in np.polynomial.legendre.leggauss(8))
    half = (nodes[1] - nodes[0]) / 2
    cells = half * (log_density(nodes[:-1, None] + half * (1 + at)).exp() * weight).sum(1)
    cdf = torch.cat([torch.zeros(1, dtype=torch.float64), cells.cumsum(0)])
    return nodes, cdf / cdf[-1], cdf[-1] / log_density(nodes).exp()


@dataclass(frozen=True)
class AtLevel:
    """A law of noise levels sigma / alpha as one of the process's times."""

    law: Law
    process: Process

    def quantile(self, u: Tensor) -> Tensor:
        return self.process.time_at(self.law.quantile(u))


@dataclass(frozen=True)
class LevelsOf:
    """The noise levels sigma / alpha of a process at times uniform in its range."""

    process: Process

    def quantile(self, u: Tensor) -> Tensor:
        low, high = self.process.t_min, self.process.t_max
        return self.process.level(low + (high - low) * u.double())


def at_level(mean: float, std: float, process: Process) -> Law:
    """Times whose log noise level is N(mean, std^2): on linear the logit-normal law."""
    return AtLevel(LogNormal(mean=mean, std=std), process)
