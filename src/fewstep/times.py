"""Which times a method looks at: laws as quantile functions, and samplers `(u, progress, ordinal) -> Times`.

`u [B, k]` are uniforms that belong to the samples, so a sample's times do not depend on its batch;
`progress` in [0, 1] is the share of training done, the only thing a schedule may depend on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fewstep.errors import require
from fewstep.process import Time, as_time


class Times(NamedTuple):
    """Per row, float64 `[B]`: the student looks at t, its neighbour is r, and a is the end it must jump to.

    t > r >= a. `w` scales a row so that mean(w * loss) is the method's loss.
    """

    t: Tensor
    r: Tensor
    a: Tensor
    w: Tensor
    u: Tensor | None = None  # the rows' uniforms, for parts that need one of their own
    progress: float = 0.0

    def to(self, device: torch.device) -> Times:
        """The same times on a device that has float64."""
        t, r, a, w = (x.to(device) for x in self[:4])
        return Times(t, r, a, w, None if self.u is None else self.u.to(device), self.progress)


class Law(Protocol):
    """A distribution of times, given by its quantile function: u in (0, 1) -> t."""

    def quantile(self, u: Tensor) -> Tensor: ...


class TimeSampler(Protocol):
    """`u [B, k]` uniforms, `progress`, global sample `ordinal [B]` -> Times; `.at` takes t as given.

    `at_anchor`, where it is declared, says whether r = a always, so that no target is needed.
    """

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times: ...
    def at(self, t: Time, progress: float) -> Times: ...


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


def _first(u: Tensor) -> Tensor:
    return u.reshape(len(u), -1)[:, 0]


def _rows(t: Tensor, r: Tensor, a: Tensor, progress: float) -> Times:
    return Times(t, r, a, torch.ones_like(t), None, progress)


@dataclass(frozen=True, kw_only=True)
class Clean:
    """t from a law, r = a = 0: the target is the data itself, which is diffusion training."""

    law: Law
    at_anchor = True

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        return self.at(self.law.quantile(_first(u)), progress)._replace(u=u)

    def at(self, t: Time, progress: float) -> Times:
        t = as_time(t)
        return _rows(t, torch.zeros_like(t), torch.zeros_like(t), progress)


@dataclass(frozen=True, kw_only=True)
class RatioMap:
    """ECT's continuous times: r = max(0, t (1 - (1 - ratio) n(t))), n(t) = 1 + k sigmoid(-b t), a = 0.

    ratio = 1 - q^-(j+1) in stage j of `stages` equal ones. Where r = 0 the target is the data: early
    training is diffusion, and the gap closes stage by stage.
    Source: ECT, arXiv 2406.14548, and its code, which counts iterations per stage and has no cap.
    """

    law: Law
    q: float = 2.0  # the gap shrinks by q from stage to stage
    k: float = 8.0  # at small t the gap is (1 + k/2) times wider
    b: float = 1.0  # how fast that factor falls with t
    stages: int = 8  # over the whole run
    ratio_max: float = 0.9999  # a cap on r / t: in float32 smaller gaps are rounding (TCM: 0.999)
    at_anchor = False

    def __post_init__(self) -> None:
        require(1 < self.q < math.inf, "q", self.q, "above 1")
        require(0 <= self.k < math.inf, "k", self.k, "0 or more")
        require(math.isfinite(self.b), "b", self.b, "a finite number")
        require(self.stages >= 1, "stages", self.stages, "at least 1")
        require(0 < self.ratio_max <= 1, "ratio_max", self.ratio_max, "in 0 .. 1, above 0")

    def ratio(self, progress: float) -> float:
        """r / t for large t, at this progress."""
        stage = min(int(progress * self.stages), self.stages - 1)
        return min(1 - self.q ** -(stage + 1), self.ratio_max)

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        return self.at(self.law.quantile(_first(u)), progress)._replace(u=u)

    def at(self, t: Time, progress: float) -> Times:
        t = as_time(t)
        widen = 1 + self.k * torch.sigmoid(-self.b * t)
        r = (t * (1 - (1 - self.ratio(progress)) * widen)).clamp_min(0.0)
        return _rows(t, r, torch.zeros_like(t), progress)


def karras(low: float, high: float, n: int, rho: float = 7.0) -> Tensor:
    """n + 1 decreasing levels from high to low, n intervals, evenly spaced in t^(1/rho).

    Source: EDM, arXiv 2206.00364, eq. 5. Float64 `[n + 1]`.
    """
    ends = high ** (1 / rho), low ** (1 / rho)
    grid = torch.linspace(*ends, n + 1, dtype=torch.float64) ** rho
    grid[0], grid[-1] = high, low  # the powers of the roots are the ends only to rounding
    return grid
