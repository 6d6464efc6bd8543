"""Linear measurements of samples: what an edit keeps, and how a sample is brought to agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.base.errors import UserError, require
from fewstep.base.randomness import generator

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: what Pillow's convert("L") weighs channels by
_TOLERANCE = 1e-6  # of a random input, in float64


@dataclass(frozen=True)
class Measurement:
    """A linear map A of samples `[B, ...]` and its pseudo-inverse A^+.

    forward: x `[B, *shape]` -> A x `[B, ...]`. pinverse: y -> A^+ y, as many numbers as x, with
    A A^+ A = A and A^+ A symmetric. entries: of a measurement
    that reads some entries of a sample as they are, where these are (booleans that broadcast to a
    sample): `project` then copies them, bit by bit.
    """

    forward: Callable[[Tensor], Tensor]
    pinverse: Callable[[Tensor], Tensor]
    entries: Tensor | None = None

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """The nearest sample that agrees with y: x + A^+ (y - A x). Like x."""
        if self.entries is not None:
            return torch.where(self.entries.to(x.device), y.to(x.dtype), x)
        return x + self.pinverse(y - self.forward(x)).reshape(x.shape)

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """|A^+ (y - A x)|^2 `[B]`, float64 on the host: squared distance to what agrees with y."""
        away = self.pinverse(y - self.forward(x)).flatten(1).cpu().double()
        return away.square().sum(1)

    def check(self, shape: Sequence[int]) -> None:
        """Raises UserError where A A^+ A is not A on random samples of that shape."""
        source = generator(0, "measurement")
        x = torch.randn(2, *shape, generator=source, dtype=torch.float64)
        y = self.forward(x)
        again = self.forward(self.pinverse(y))
        size = float(y.abs().max()) if y.numel() else 0.0
        fine = again.shape == y.shape
        error = float((again - y).abs().max()) if fine and y.numel() else math.inf
        need = "a forward and a pinverse with A A^+ A = A, and something that is measured"
        require(error <= _TOLERANCE * size and size > 0, "error of A A^+ A", error, need)


def inpaint(missing: Tensor) -> Measurement:
    """All entries of a sample but those where `missing`, booleans that broadcast to it, is True.

    y is like a sample; what it holds at the missing entries counts for nothing. Raises UserError
    where nothing or everything is missing.
    """
    fine = missing.dtype == torch.bool
    require(fine, "mask of type", missing.dtype, "booleans, True where entries are to be filled in")
    if not bool(missing.any()):
        raise UserError("mask: nothing is missing: expected entries that are to be filled in")
    if bool(missing.all()):
        raise UserError("mask: everything is missing: expected entries to keep, or use sample")
    entries = ~missing

    def keep(x: Tensor) -> Tensor:
        # Not a product: what is missing may be NaN.
        return torch.where(entries.to(x.device), x, 0)

    return Measurement(keep, keep, entries)


def colourise(weights: Sequence[float] = LUMA) -> Measurement:
    """Grey `[B, 1, ...]` of samples `[B, 3, ...]`: the sum of the channels by their weights."""
    size = sum(w * w for w in weights)

    def column(x: Tensor) -> Tensor:
        return torch.tensor(weights, dtype=x.dtype, device=x.device).reshape(
            -1, *[1] * (x.ndim - 2)
        )

    def grey(x: Tensor) -> Tensor:
        need = f"{len(weights)} channels to make grey of"
        require(x.ndim > 1 and x.shape[1] == len(weights), "sample", tuple(x.shape[1:]), need)
        return (x * column(x)).sum(1, keepdim=True)

    return Measurement(grey, lambda y: y * column(y) / size)


def superres(factor: int | Sequence[int]) -> Measurement:
    """Means over blocks of samples: their lower resolution.

    factor: one for each axis of a sample; a number goes for all axes but the first, the channels,
    or for the one that there is. Raises UserError, once applied, for one that does not divide.
    """

    def sizes(x: Tensor) -> list[int]:
        axes = x.ndim - 1
        if isinstance(factor, int):
            return [factor] if axes == 1 else [1, *[factor] * (axes - 1)]
        require(len(factor) == axes, "factor", tuple(factor), f"{axes}, one for each axis")
        return list(factor)

    def mean(x: Tensor) -> Tensor:
        blocks = sizes(x)
        pairs = list(zip(x.shape[1:], blocks, strict=True))
        fine = all(block > 0 and n % block == 0 for n, block in pairs) and max(blocks) > 1
        need = f"above 1, and to divide the axes of a sample {tuple(x.shape[1:])}"
        require(fine, "factor", factor, need)
        split = [side for n, block in pairs for side in (n // block, block)]
        return x.reshape(len(x), *split).mean(tuple(range(2, 2 * len(pairs) + 1, 2)))

    def spread(y: Tensor) -> Tensor:
        for axis, block in enumerate(sizes(y), 1):
            y = y.repeat_interleave(block, axis)
        return y

    return Measurement(mean, spread)


def matrix(a: Tensor) -> Measurement:
    """y = A x `[B, M]` by a matrix `[M, D]` of the D numbers of a flattened sample.

    The pseudo-inverse is torch.linalg.pinv's. Raises UserError, once applied, for other sizes.
    """
    fine = a.ndim == 2 and bool(a.isfinite().all()) and bool(a.any())
    require(fine, "matrix of shape", tuple(a.shape), "finite numbers [M, D], not all 0")
    a = a.double()
    inverse = torch.linalg.pinv(a)

    def forward(x: Tensor) -> Tensor:
        size = math.prod(x.shape[1:])
        require(size == a.shape[1], "sample of", size, f"{a.shape[1]} numbers, as A has columns")
        return x.flatten(1) @ a.to(x).T

    return Measurement(forward, lambda y: y @ inverse.to(y).T)
