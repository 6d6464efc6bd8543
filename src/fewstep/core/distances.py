"""Distances per sample, `(x, y) -> [B]`; the name says how they reduce."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fewstep.base.errors import UserError, require, unknown


class Distance(Protocol):
    """x, y `[B, ...]` -> `[B]`, 0 where they are equal. Ability: `joins`."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor: ...


def sse(x: Tensor, y: Tensor) -> Tensor:
    """Sum of squared errors, ||x - y||^2."""
    return (x - y).square().flatten(1).sum(1)


def mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean of squared errors over the elements, ||x - y||^2 / D."""
    return (x - y).square().flatten(1).mean(1)


def l2_norm(x: Tensor, y: Tensor) -> Tensor:
    """||x - y||, with gradient 0 at 0, where the bare root's is NaN (ECT's code patches it)."""
    return torch.linalg.vector_norm((x - y).flatten(1), dim=1)


def l1(x: Tensor, y: Tensor) -> Tensor:
    """Mean of absolute errors over the elements, |x - y|_1 / D."""
    return (x - y).abs().flatten(1).mean(1)


@dataclass(frozen=True)
class Huber:
    """Pseudo-Huber over the whole sample, sqrt(||x - y||^2 + c^2) - c.

    Source: iCT, arXiv 2310.14189, section 3.3.
    """

    c: float

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        q = sse(x, y)
        # Not the difference, which loses 11 % in float32 at q = 1e-10.
        return q / ((q + self.c**2).sqrt() + self.c)


def huber(c: float) -> Distance:
    """Pseudo-Huber with this c, and its limit c = 0, the L2 norm."""
    require(0 <= c < math.inf, "c", c, "0 or more")
    return Huber(c) if c > 0 else l2_norm


@dataclass(frozen=True)
class RootHuber:
    """`Huber` with the constant c sqrt(D) (iCT, arXiv 2310.14189, section 3.3: c = 0.00054)."""

    c: float

    def __post_init__(self) -> None:
        require(0 <= self.c < math.inf, "c", self.c, "0 or more")

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return huber(self.c * x[0].numel() ** 0.5)(x, y)


@dataclass(frozen=True)
class RmsHuber:
    """Pseudo-Huber of the root mean square, sqrt(||x - y||^2 / D + c^2) - c.

    Source: MCM, arXiv 2403.06807, section 4, which leaves the norm open. Only this one is a plain
    norm at its c = 1e-4 and "essentially squared" at its c = 1, as the paper says; `RootHuber(c)`
    is the same times sqrt(D).
    """

    c: float

    def __post_init__(self) -> None:
        require(0 < self.c < math.inf, "c", self.c, "above 0")

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        q = mse(x, y)
        return q / ((q + self.c**2).sqrt() + self.c)


@dataclass(frozen=True)
class ElementHuber:
    """Pseudo-Huber of every element, mean of sqrt((x - y)^2 + c^2) - c.

    LCM and Direct CM's code have c = 1e-3.
    """

    c: float

    def __post_init__(self) -> None:
        require(0 < self.c < math.inf, "c", self.c, "above 0")

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        q = (x - y).square()
        return (q / ((q + self.c**2).sqrt() + self.c)).flatten(1).mean(1)


def rms_huber(c: float) -> Distance:
    """`RmsHuber` with this c."""
    return RmsHuber(c)


def element_huber(c: float) -> Distance:
    """`ElementHuber` with this c, and `mse` for c = 0."""
    return ElementHuber(c) if c else mse


@dataclass(frozen=True)
class Mmd:
    """The squared maximum mean discrepancy of each run of `joins` rows, the same for all of them.

    mean k(x, x') + mean k(y, y') - 2 mean k(x, y) over all pairs, equal ones too (the biased
    V-statistic), with the Laplace kernel k(x, y) = exp(-max(||x - y||, 1e-8) / D).
    Source: IMM, arXiv 2503.07565, section 4.3 and eq. 12.
    """

    joins: int = 4

    def __post_init__(self) -> None:
        require(self.joins >= 1, "joins", self.joins, "at least 1 row")

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        require(len(x) % self.joins == 0, "rows", len(x), f"a multiple of {self.joins}")
        x, y = (one.flatten(1).reshape(-1, self.joins, one[0].numel()) for one in (x, y))

        def mean(x: Tensor, y: Tensor) -> Tensor:
            apart = torch.linalg.vector_norm(x[:, :, None] - y[:, None], dim=3)
            # Less the kernel's 1, which the three means have in common.
            return torch.expm1(-apart.clamp_min(1e-8) / x.shape[2]).mean((1, 2))

        d = mean(x, x) + mean(y, y) - 2 * mean(x, y)
        return d.repeat_interleave(self.joins)


@lru_cache(maxsize=2)
def _lpips(net: str) -> Any:
    try:
        from lpips import LPIPS
    except ImportError:
        raise UserError(
            "the distance lpips needs the package of that name: pip install 'fewstep[lpips]'"
        ) from None
    return LPIPS(net=net, verbose=False).eval().requires_grad_(False)


@dataclass(frozen=True)
class Lpips:
    """LPIPS of pictures `[B, 3, H, W]` in [-1, 1], enlarged to 224 pixels where they are smaller.

    Only in the space of the data. Source: arXiv 1801.03924; CM, arXiv 2303.01469, appendix C.
    """

    net: str = "vgg"

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        fits = x.ndim == 4 and x.shape[1] == 3
        require(fits, "lpips: shape", tuple(x.shape[1:]), "pictures of 3 channels")
        if x.shape[-1] < 224:
            x = interpolate(x, size=224, mode="bilinear")
            y = interpolate(y, size=224, mode="bilinear")
        return _lpips(self.net).to(x.device)(x, y).flatten()


def by_name(name: str) -> Distance:
    """The distance that a method's option names. Raises UserError."""
    distances: dict[str, Distance] = {"l1": l1, "l2": mse, "lpips": Lpips()}
    if name not in distances:
        raise unknown("distance", name, distances)
    return distances[name]
