"""Weights per row, `(process, times) -> [B]` (float64)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fewstep.base.errors import require, unknown
from fewstep.core.process import Process
from fewstep.core.times import Times


class Weight(Protocol):
    """A factor for each row's distance."""

    def __call__(self, process: Process, times: Times) -> Tensor: ...


def one(process: Process, times: Times) -> Tensor:
    """1."""
    return torch.ones_like(times.t)


def alpha(process: Process, times: Times) -> Tensor:
    """alpha(t): of sCM's tangent (arXiv 2410.11081, eq. 6)."""
    return process.alpha(times.t)


def inverse_gap(process: Process, times: Times) -> Tensor:
    """1 / (t - r) (iCT, arXiv 2310.14189, section 3.1)."""
    return 1 / (times.t - times.r)


def share(times: Times) -> Tensor:
    """(t - r) / (t - a), the share of the way to the end that the neighbour is; 1 where r = t."""
    still = times.r == times.t
    ratio = (times.t - times.r) / torch.where(still, 1.0, times.t - times.a)
    return torch.where(still, 1.0, ratio)


def of_share(process: Process, times: Times) -> Tensor:
    """(t - r) / (t - a), and 1 where r = t (alpha-Flow, arXiv 2510.20771, eq. 10)."""
    return share(times)


def of_gaps(process: Process, times: Times) -> Tensor:
    """1 / ((t - r) (t - a)) (SoFlow, arXiv 2512.15657)."""
    return 1 / ((times.t - times.r) * (times.t - times.a))


@dataclass(frozen=True)
class Scaled:
    """Another weight times a number."""

    inner: Weight
    factor: float

    def __post_init__(self) -> None:
        require(0 <= self.factor < math.inf, "factor", self.factor, "0 or more")

    def __call__(self, process: Process, times: Times) -> Tensor:
        return self.factor * self.inner(process, times)


@dataclass(frozen=True)
class Sigmoid:
    """1/2 sigmoid(b - lambda) (-dlambda/dt) alpha / (alpha^2 + sigma^2), lambda the log-SNR.

    -dlambda/dt = 2 W / (alpha sigma) with W = alpha sigma' - alpha' sigma.
    Source: IMM, arXiv 2503.07565, eq. 13 with a = 1 and b = 5.
    """

    b: float = 5.0

    def __call__(self, process: Process, times: Times) -> Tensor:
        t = times.t
        alpha, sigma = process.alpha(t), process.sigma(t)
        share = torch.sigmoid(self.b + 2 * process.level(t).log())
        return share * process.turn(t) / (sigma * (alpha.square() + sigma.square()))


@dataclass(frozen=True)
class Edm:
    """(t^2 + sd^2) / (t sd)^2 = 1 / out(t)^2: at the start every noise level counts alike.

    t stands for the noise level sigma / alpha. Source: EDM, arXiv 2206.00364, table 1; ECT's
    ImageNet weight.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        require(0 < self.sigma_data < math.inf, "sigma_data", self.sigma_data, "above 0")

    def __call__(self, process: Process, times: Times) -> Tensor:
        return snr(process, times) + self.sigma_data**-2  # finite where alpha = 0


def snr(process: Process, times: Times) -> Tensor:
    """SNR = alpha^2 / sigma^2: squared errors of x0 count as errors of the noise."""
    return process.level(times.t) ** -2


def snr_plus_one(process: Process, times: Times) -> Tensor:
    """SNR + 1: squared errors of x0 count as errors of v (arXiv 2202.00512, section 4)."""
    return snr(process, times) + 1


def truncated_snr(process: Process, times: Times) -> Tensor:
    """max(SNR, 1) (arXiv 2202.00512, section 4)."""
    return snr(process, times).clamp_min(1)


def by_name(name: str, sigma_data: float) -> Weight:
    """The weight that a method's option names. Raises UserError."""
    weights: dict[str, Weight] = {
        "one": one,
        "inverse_gap": inverse_gap,
        "edm": Edm(sigma_data),
        "snr_plus_one": snr_plus_one,
        "truncated_snr": truncated_snr,
    }
    if name not in weights:
        raise unknown("weight", name, weights)
    return weights[name]
