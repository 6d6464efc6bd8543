"""The sets that need no file: handwritten digits, and toys in the plane."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.data.dataset import SPLIT_SEED, Arrays, Dataset, split
from fewstep.data.units import Units


def digits() -> Dataset:
    """1797 handwritten digits, 1x8x8, 10 classes: 1197 for training, 300 and 300 held out.

    Grey levels 0..16 become [-1, 1], and samples stay there. Raises UserError where scikit-learn is
    not installed. Source: UCI "Optical Recognition of Handwritten Digits", through scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "the digits come with scikit-learn: pip install 'fewstep[digits]'"
        ) from None
    bunch = load_digits()
    x0 = torch.from_numpy(bunch.images).float().div(8).sub(1)[:, None]
    everything = Arrays(x0, torch.from_numpy(bunch.target).long())
    return split("digits", everything, (300, 300), 10, Units(clip=True))


def _toy(name: str, centres: Callable[[Tensor], Tensor], std: float, n: int = 24_000) -> Dataset:
    source = generator(SPLIT_SEED, f"toy {name}")
    clean = centres(torch.rand(n, generator=source, dtype=torch.float64))
    noisy = clean + std * torch.randn(n, 2, generator=source, dtype=torch.float64)
    return split(name, Arrays(noisy.float()), (2000, 2000), 0, Units())


def ring8() -> Dataset:
    """Eight Gaussians (std 0.04) on a circle of radius 0.7 in the plane."""

    def centres(u: Tensor) -> Tensor:
        angle = (8 * u).floor() * (math.pi / 4)
        return 0.7 * torch.stack([angle.cos(), angle.sin()], 1)

    return _toy("ring8", centres, 0.04)


def grid25() -> Dataset:
    """Twenty-five Gaussians (std 0.03) on a 5x5 grid in [-0.8, 0.8]^2."""

    def centres(u: Tensor) -> Tensor:
        cell = (25 * u).floor()
        return 0.4 * torch.stack([cell % 5, (cell / 5).floor()], 1) - 0.8

    return _toy("grid25", centres, 0.03)


def spiral() -> Dataset:
    """A spiral of one and a half turns in the plane, blurred by 0.02."""

    def centres(u: Tensor) -> Tensor:
        angle = 3 * math.pi * u.sqrt()
        return 0.9 * u.sqrt()[:, None] * torch.stack([angle.cos(), angle.sin()], 1)

    return _toy("spiral", centres, 0.02)
