"""Samplers whose t has a density: diffusion, the limit r -> t, ECT's ratio, TCM's atom."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.base.errors import require
from fewstep.core.process import Time, as_time
from fewstep.core.times.core import Law, Times, TimeSampler, first, rows


@dataclass(frozen=True, kw_only=True)
class Clean:
    """t from a law, r = a = 0: the target is the data itself, which is diffusion training."""

    law: Law
    at_anchor = True

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        return self.at(self.law.quantile(first(u)), progress)._replace(u=u)

    def at(self, t: Time, progress: float) -> Times:
        t = as_time(t)
        return rows(t, torch.zeros_like(t), torch.zeros_like(t), progress)


@dataclass(frozen=True, kw_only=True)
class Limit:
    """t from a law, r = t and a = 0: the limit r -> t, for `tangents.Tangent`."""

    law: Law
    at_anchor = False

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        return self.at(self.law.quantile(first(u)), progress)._replace(u=u)

    def at(self, t: Time, progress: float) -> Times:
        t = as_time(t)
        return rows(t, t, torch.zeros_like(t), progress)


@dataclass(frozen=True, kw_only=True)
class RatioMap:
    """ECT's continuous times: r = max(0, t (1 - (1 - ratio) n(t))), n(t) = 1 + k sigmoid(-b t).

    a = 0, and ratio = 1 - q^-(j+1) in stage j of `stages` equal ones. Where r = 0 the target is the
    data: early training is diffusion, and the gap closes stage by stage.
    Source: ECT, arXiv 2406.14548, and its code, which counts iterations per stage and has no cap.
    """

    law: Law
    q: float = 2.0  # the gap shrinks by q from stage to stage
    k: float = 8.0  # at small t the gap is (1 + k/2) times wider
    b: float = 1.0  # how fast that factor falls with t
    stages: int = 8  # over the whole run
    ratio_max: float = 0.9999  # a cap on r / t: in float32 smaller gaps are rounding (TCM: 0.999)
    fixed_ratio: float | None = None  # in place of the stages'
    at_anchor = False

    def __post_init__(self) -> None:
        require(1 < self.q < math.inf, "q", self.q, "above 1")
        require(0 <= self.k < math.inf, "k", self.k, "0 or more")
        require(math.isfinite(self.b), "b", self.b, "a finite number")
        require(self.stages >= 1, "stages", self.stages, "at least 1")
        require(0 < self.ratio_max <= 1, "ratio_max", self.ratio_max, "in 0 .. 1, above 0")
        fits = self.fixed_ratio is None or 0 <= self.fixed_ratio < 1
        require(fits, "fixed_ratio", self.fixed_ratio, "in 0 .. 1, below 1")

    def ratio(self, progress: float) -> float:
        """r / t for large t, at this progress."""
        if self.fixed_ratio is not None:
            return self.fixed_ratio
        stage = min(int(progress * self.stages), self.stages - 1)
        return min(1 - self.q ** -(stage + 1), self.ratio_max)

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        return self.at(self.law.quantile(first(u)), progress)._replace(u=u)

    def at(self, t: Time, progress: float) -> Times:
        t = as_time(t)
        widen = 1 + self.k * torch.sigmoid(-self.b * t)
        r = (t * (1 - (1 - self.ratio(progress)) * widen)).clamp_min(0.0)
        return rows(t, r, torch.zeros_like(t), progress)


@dataclass(frozen=True, kw_only=True)
class Atom:
    """The times of another sampler, but t = `at_time` in a share of the rows: two weighted strata.

    Row i, counted over the whole run, is at the atom where floor((i + 1) share) > floor(i share):
    as many as the share says in every run of rows. mean(w loss) is the mean over the other rows
    plus `weight` times the mean over these, with the strata's expected sizes; with `realised` those
    of the batch, and a row then depends on its batch.
    Source: TCM, arXiv 2410.14895, eq. 8-10: share = rho, weight = w_b.
    """

    times: TimeSampler
    at_time: float
    share: float = 0.25
    weight: float = 0.1
    realised: bool = False
    at_anchor = False

    def __post_init__(self) -> None:
        require(0 <= self.share < 1, "share", self.share, "in 0 .. 1, below 1")
        require(0 <= self.weight < math.inf, "weight", self.weight, "0 or more")

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        i = (torch.arange(len(u)) if ordinal is None else ordinal).double()
        at_atom = ((i + 1) * self.share).floor() > (i * self.share).floor()
        t = torch.where(at_atom, self.at_time, self.times(u, progress, ordinal).t)
        return self._weigh(self.times.at(t, progress), at_atom)._replace(u=u)

    def at(self, t: Time, progress: float) -> Times:
        """Rows whose t is the atom's count to it."""
        times = self.times.at(t, progress)
        return self._weigh(times, times.t == self.at_time)

    def _weigh(self, times: Times, at_atom: Tensor) -> Times:
        share = at_atom.double().mean().item() if self.realised else self.share
        # An empty stratum weighs nothing.
        others = 1 / (1 - share) if share < 1 else 0.0
        atom = self.weight * (1 / share) if share > 0 else 0.0
        # In float64.
        factor = torch.full_like(times.w, others).masked_fill(at_atom, atom)
        return times._replace(w=times.w * factor)
