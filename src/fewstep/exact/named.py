"""The exact truths that have a name, `exact:NAME` on the command line."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fewstep import data
from fewstep.errors import unknown
from fewstep.exact.mixture import Mixture
from fewstep.process import Process

_GREY_STEP = 1 / 8  # between the 17 grey levels of the digits in [-1, 1]


def digits_mixture(process: Process | None = None) -> Mixture:
    """The digits as ten Gaussians, one per class: mean, full covariance and frequency of the training split.

    Covariances (over N - 1) get step^2 / 12 on their diagonals, the variance of rounding to grey levels: pixels
    that never change in a class keep a width. Raises UserError where scikit-learn is not installed.
    """
    digits = data.digits()
    classes = [digits.train.x0[digits.train.cond == label].double() for label in range(digits.classes)]
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


NAMED: dict[str, Callable[[Process | None], Mixture]] = {
    "digits-mixture": digits_mixture,
    "grid25": grid25,
    "ring8": ring8,
}


def named(name: str, process: Process | None = None) -> Mixture:
    """The exact truth of that name, on the given process (edm where none is given)."""
    if name not in NAMED:
        raise unknown("exact truth", name, NAMED)
    return NAMED[name](process)
