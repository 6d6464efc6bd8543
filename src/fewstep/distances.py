"""Distances per sample, `(x, y) -> [B]`; the name says how they reduce."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fewstep.errors import require


class Distance(Protocol):
    """x, y `[B, ...]` -> `[B]`, 0 where they are equal."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor: ...


def sse(x: Tensor, y: Tensor) -> Tensor:
    """Sum of squared errors, ||x - y||^2."""
    return (x - y).square().flatten(1).sum(1)


def mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean of squared errors over the elements, ||x - y||^2 / D."""
    return (x - y).square().flatten(1).mean(1)


def l2_norm(x: Tensor, y: Tensor) -> Tensor:
    """||x - y||, with gradient 0 at 0 (the bare root's is NaN there, and ECT's code patches it)."""
    return torch.linalg.vector_norm((x - y).flatten(1), dim=1)


@dataclass(frozen=True)
class Huber:
    """Pseudo-Huber over the whole sample, sqrt(||x - y||^2 + c^2) - c (iCT, arXiv 2310.14189, section 3.3)."""

    c: float

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        q = sse(x, y)
        return q / ((q + self.c**2).sqrt() + self.c)  # the difference loses 11 % in float32 at q = 1e-10


def huber(c: float) -> Distance:
    """Pseudo-Huber with this c, and its limit c = 0, the L2 norm."""
    require(0 <= c < math.inf, "c", c, "0 or more")
    return Huber(c) if c > 0 else l2_norm
