"""The exact truths that have a name, `exact:NAME` on the command line: of 1 to 1024 numbers.

| name | numbers | what is hard |
|---|---|---|
| `gaussian` | 1 | nothing: the flow, the oracle and every method's end on a grid are closed forms |
| `two-modes` | 1 | a boundary that consistency training blurs; `oracle` knows by how much |
| `ring8` `grid25` | 2 | 8 and 25 modes to be found |
| `rings64` | 2 | structure at two scales: 64 modes, ring by ring, five times their width apart |
| `digits-mixture` | 64 | ten full covariances of real images; needs scikit-learn |
| `smooth32` | 1024 | images of rank 12 in 1024 numbers: most axes hold next to nothing |
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fewstep import data
from fewstep.base.errors import unknown
from fewstep.base.randomness import generator
from fewstep.core.process import Process, edm
from fewstep.exact.gaussian import Gaussian
from fewstep.exact.mixture import Mixture

_CLASSES, _RANK = 10, 12  # of `smooth32`
_GREY_STEP = 1 / 8  # between the 17 grey levels of the digits in [-1, 1]


def digits_mixture(process: Process | None = None) -> Mixture:
    """The digits as ten Gaussians, one per class, each fitted to the training split.

    A class has its mean, full covariance and frequency. Covariances (over N - 1) get step^2 / 12 on
    their diagonals, the variance of rounding to grey levels, so that pixels that never change in a
    class have a width. Raises UserError where scikit-learn is not installed.
    """
    digits = data.digits()
    x0, cond = digits.train.x0.double(), digits.train.cond
    classes = [x0[cond == label] for label in range(digits.classes)]
    rounding = _GREY_STEP**2 / 12 * torch.eye(math.prod(digits.shape), dtype=torch.float64)
    return Mixture(
        weights=[len(x0) for x0 in classes],
        means=torch.stack([x0.mean(0) for x0 in classes]),
        covs=torch.stack([torch.cov(x0.flatten(1).T) + rounding for x0 in classes]),
        process=process,
        labels=torch.arange(digits.classes),
    )


def _even(means: Tensor, std: float, process: Process | None) -> Mixture:
    return Mixture(weights=torch.ones(len(means)), means=means, std=std, process=process)


def ring8(process: Process | None = None) -> Mixture:
    """The law of the data set `ring8`: eight Gaussians (std 0.04) on a circle of radius 0.7."""
    angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    return _even(0.7 * torch.stack([angle.cos(), angle.sin()], 1), 0.04, process)


def grid25(process: Process | None = None) -> Mixture:
    """The law of the data set `grid25`: 5x5 Gaussians (std 0.03) in [-0.8, 0.8]^2."""
    line = 0.4 * torch.arange(5, dtype=torch.float64) - 0.8
    return _even(torch.cartesian_prod(line, line), 0.03, process)


def gaussian(process: Process | None = None) -> Gaussian:
    """N(0, 0.5^2) on the line."""
    return Gaussian(torch.zeros(1, dtype=torch.float64), 0.5, process or edm())


def two_modes(process: Process | None = None) -> Mixture:
    """Two Gaussians (std 0.05) at -0.5 and 0.5 on the line."""
    return _even(torch.tensor([[-0.5], [0.5]], dtype=torch.float64), 0.05, process)


def rings64(process: Process | None = None) -> Mixture:
    """Eight rings (radius 0.13) of eight Gaussians (std 0.01) each, on a circle of radius 0.7."""
    angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    return _even((0.7 * circle[:, None] + 0.13 * circle).flatten(0, 1), 0.01, process)


def smooth32(process: Process | None = None) -> Mixture:
    """Ten equally likely classes of smooth 32x32 images: N(m_k, F_k F_k^T + 0.02^2 I).

    F_k has 12 columns. The patterns are products of cosines of fewer than 8 half waves along each
    side, less the constant one: 63 of mean square 1. A class has 13 random combinations of
    them, orthonormal, the first 0.3 times as its mean, the others as axes of standard deviation
    0.18, falling evenly to 0.03; always the same ones.
    """
    middles = (torch.arange(32, dtype=torch.float64) + 0.5) / 32
    waves = (math.pi * torch.arange(8, dtype=torch.float64)[:, None] * middles).cos()
    waves[1:] *= 2**0.5
    patterns = torch.einsum("iy,jx->ijyx", waves, waves).reshape(64, 1024)[1:]
    source = generator(0, "smooth32")
    z = torch.randn(_CLASSES, 63, _RANK + 1, generator=source, dtype=torch.float64)
    axes = patterns.T @ torch.linalg.qr(z)[0]  # [10, 1024, 13]
    widths = torch.linspace(0.18, 0.03, _RANK, dtype=torch.float64)
    return Mixture(
        weights=torch.ones(_CLASSES),
        means=0.3 * axes.mT[:, 0].reshape(_CLASSES, 1, 32, 32),
        factors=axes[:, :, 1:] * widths,
        std=0.02,
        process=process,
        labels=torch.arange(_CLASSES),
    )


NAMED: dict[str, Callable[[Process | None], Gaussian | Mixture]] = {
    "digits-mixture": digits_mixture,
    "gaussian": gaussian,
    "grid25": grid25,
    "ring8": ring8,
    "rings64": rings64,
    "smooth32": smooth32,
    "two-modes": two_modes,
}


def named(name: str, process: Process | None = None) -> Gaussian | Mixture:
    """The exact truth of that name, on the process (edm by default)."""
    if name not in NAMED:
        raise unknown("exact truth", name, NAMED)
    return NAMED[name](process)
