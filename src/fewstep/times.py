"""Which times a method looks at: laws as quantile functions, and samplers `(u, progress, ordinal) -> Times`.

`u [B, k]` are uniforms that belong to the samples, so a sample's times do not depend on its batch;
`progress` in [0, 1] is the share of training done, the only thing a schedule may depend on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from fewstep.errors import require
from fewstep.process import Process, Time, as_time


class Times(NamedTuple):
    """Per row, float64 `[B]` on the host: the student looks at t, its neighbour is r, a is the end it must jump to.

    t > r >= a. `w` scales a row so that mean(w * loss) is the method's loss.
    """

    t: Tensor
    r: Tensor
    a: Tensor
    w: Tensor
    u: Tensor | None = None  # the rows' uniforms, for parts that need one of their own
    progress: float = 0.0


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


@dataclass(frozen=True, kw_only=True)
class LogStudentT:
    """ln t = mean + std T, T Student's with nu degrees of freedom, restricted to [low, high].

    With T = sqrt(nu) sinh y the density of y is cosh(y)^-nu up to a factor: smooth even for TCM's nu = 0.01, so its
    integral by Gauss's rule between 4097 nodes, and the Hermite cubics of its inverse, are exact to 1e-9.
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
        require(0 < self.low < self.high < math.inf, "low", self.low, f"in 0 .. high={self.high}, above 0")

    def quantile(self, u: Tensor) -> Tensor:
        (nodes, cdf, slope), u = _student(self), u.double().contiguous()
        step = nodes[1] - nodes[0]
        i = (torch.searchsorted(cdf, u, right=True) - 1).clamp(0, len(nodes) - 2)
        width = cdf[i + 1] - cdf[i]
        s = ((u - cdf[i]) / width).clamp(0, 1)
        y = nodes[i] + step * s * s * (3 - 2 * s) + width * s * (1 - s) * ((1 - s) * slope[i] - s * slope[i + 1])
        return (self.mean + self.std * math.sqrt(self.nu) * y.sinh()).exp().clamp(self.low, self.high)


@lru_cache(maxsize=8)
def _student(law: LogStudentT) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes in y, the distribution function there, and the slope of its inverse."""
    low, high = (math.asinh((math.log(t) - law.mean) / (law.std * math.sqrt(law.nu))) for t in (law.low, law.high))
    peak = math.log(math.cosh(min(max(low, 0.0), high)))
    drop = peak + 45 / law.nu  # the nodes end where the density is exp(-45) of its peak, which no uniform tells from 0
    reach = drop + math.log1p(math.sqrt(1 - math.exp(-2 * drop)))  # the arccosh of exp(drop)
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
class Limit:
    """t from a law, r = t and a = 0: the limit r -> t, for targets that take a derivative (`tangents.Tangent`)."""

    law: Law
    at_anchor = False

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        return self.at(self.law.quantile(_first(u)), progress)._replace(u=u)

    def at(self, t: Time, progress: float) -> Times:
        t = as_time(t)
        return _rows(t, t, torch.zeros_like(t), progress)


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
    held: float | None = None  # r / t instead of the stages'
    at_anchor = False

    def __post_init__(self) -> None:
        require(1 < self.q < math.inf, "q", self.q, "above 1")
        require(0 <= self.k < math.inf, "k", self.k, "0 or more")
        require(math.isfinite(self.b), "b", self.b, "a finite number")
        require(self.stages >= 1, "stages", self.stages, "at least 1")
        require(0 < self.ratio_max <= 1, "ratio_max", self.ratio_max, "in 0 .. 1, above 0")
        require(self.held is None or 0 <= self.held < 1, "held", self.held, "in 0 .. 1, below 1")

    def ratio(self, progress: float) -> float:
        """r / t for large t, at this progress."""
        if self.held is not None:
            return self.held
        stage = min(int(progress * self.stages), self.stages - 1)
        return min(1 - self.q ** -(stage + 1), self.ratio_max)

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        return self.at(self.law.quantile(_first(u)), progress)._replace(u=u)

    def at(self, t: Time, progress: float) -> Times:
        t = as_time(t)
        widen = 1 + self.k * torch.sigmoid(-self.b * t)
        r = (t * (1 - (1 - self.ratio(progress)) * widen)).clamp_min(0.0)
        return _rows(t, r, torch.zeros_like(t), progress)


@dataclass(frozen=True, kw_only=True)
class Atom:
    """The times of another sampler, but t = `at` in a share of the rows: two strata, each with a weight of its own.

    Row i, counted over the whole run, is at the atom where floor((i + 1) share) > floor(i share): as many as the
    share says in every run of rows. mean(w loss) is the mean over the other rows plus `weight` times the mean over
    these, with the strata's expected sizes; with `realised` those of the batch, where a row depends on its batch.
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
        chosen = ((i + 1) * self.share).floor() > (i * self.share).floor()
        t = torch.where(chosen, self.at_time, self.times(u, progress, ordinal).t)
        return self._weighed(self.times.at(t, progress), chosen)._replace(u=u)

    def at(self, t: Time, progress: float) -> Times:
        """Rows whose t is the atom's count to it."""
        found = self.times.at(t, progress)
        return self._weighed(found, found.t == self.at_time)

    def _weighed(self, found: Times, chosen: Tensor) -> Times:
        share = chosen.double().mean().item() if self.realised else self.share
        sizes = [1 / part if part > 0 else 0.0 for part in (1 - share, share)]  # an empty stratum weighs nothing
        factor = torch.full_like(found.w, sizes[0]).masked_fill(chosen, self.weight * sizes[1])  # in float64
        return found._replace(w=found.w * factor)


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Levels of a decreasing grid that ends at 0: t uniform over them, or always the first; r is the next, a = 0.

    Source: Direct CM, arXiv 2411.08954, its code: t uniform over n even steps of 1000.
    """

    grid: tuple[float, ...]
    first: bool = False  # t is the highest always
    at_anchor = False

    def __post_init__(self) -> None:
        falls = all(a > b for a, b in pairwise(self.grid)) and len(self.grid) > 1 and self.grid[-1] == 0
        require(falls, "grid", self.grid, "decreasing times, the last of them 0")

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        index = (_first(u) * (len(self.grid) - 1)).long()
        return self.at(torch.zeros_like(index) if self.first else index, progress)._replace(u=u)

    def at(self, t: Time, progress: float) -> Times:
        """Integers are the index from the highest level; other times t get the level below them as r."""
        grid = torch.tensor(self.grid, dtype=torch.float64)
        if not isinstance(t, Tensor) or t.is_floating_point():
            t = as_time(t)
            index = self.place(t)
        else:
            index, t = t.long(), grid[t]
        r = grid[(index + 1).clamp(0, len(grid) - 1)]
        return _rows(t, r, torch.zeros_like(t), progress)

    def place(self, t: Tensor) -> Tensor:
        """The index, from the highest, of the level that is t or the next above it."""
        grid = torch.tensor(self.grid, dtype=torch.float64)
        return len(grid) - 1 - torch.searchsorted(grid.flip(0), t)


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Runs of `size` rows share one trajectory over n levels: row j gets one of the levels that it passes.

    The first row's u gives its start s, uniform over the levels, and row j the level s + floor(j (n - s) / size).
    Level i then has P(i) = #{(s, j) that give it} / (n size), more than 1/n below and less above; with `reweight`
    w = 1 / (n P(i)), which is at most `size`, so that mean(w loss) is that of uniform levels.
    Where trajectories start at the highest level, row j has floor((j + u) n / size): uniform without weights.
    """

    levels: Levels
    size: int
    reweight: bool = True
    at_anchor = False

    def __post_init__(self) -> None:
        require(self.size >= 1, "size", self.size, "at least 1")

    @property
    def n(self) -> int:
        return len(self.levels.grid) - 1

    def spread(self, start: Tensor, j: Tensor) -> Tensor:
        """The level of row j of a trajectory that starts at level `start`."""
        return start + j * (self.n - start) // self.size

    def law(self) -> Tensor:
        """P(i) `[n]`, from the highest level."""
        if self.levels.first:
            return torch.full((self.n,), 1 / self.n, dtype=torch.float64)
        every = self.spread(torch.arange(self.n)[:, None], torch.arange(self.size))
        return every.flatten().bincount(minlength=self.n).double() / every.numel()

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        require(len(u) % self.size == 0, "rows", len(u), f"a multiple of the {self.size} that share a trajectory")
        one = _first(u)[:: self.size].repeat_interleave(self.size)
        j = torch.arange(len(u)) % self.size
        spread = ((j + one) * (self.n / self.size)).long().clamp(max=self.n - 1)
        index = spread if self.levels.first else self.spread((one * self.n).long(), j)
        return self.at(index, progress)._replace(u=u)

    def at(self, t: Time, progress: float) -> Times:
        """As of the levels, weighted as the level that is t or the next above it."""
        found = self.levels.at(t, progress)
        if not self.reweight:
            return found
        return found._replace(w=_weights(self)[self.levels.place(found.t).clamp(max=self.n - 1)])


@lru_cache(maxsize=8)
def _weights(times: Shared) -> Tensor:
    """1 / (n P(i)) `[n]`."""
    return 1 / (times.n * times.law())


@dataclass(frozen=True, kw_only=True)
class AtAnchor:
    """The times of another sampler with r := a: the coupling leads to the end itself, and no target is needed."""

    times: TimeSampler
    at_anchor = True

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        found = self.times(u, progress, ordinal)
        return found._replace(r=found.a)

    def at(self, t: Time, progress: float) -> Times:
        found = self.times.at(t, progress)
        return found._replace(r=found.a)


class Steps(Protocol):
    """A number of intervals as a function of progress: see `curricula`."""

    def __call__(self, progress: float) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Adjacent:
    """Neighbouring levels r = grid[i] < t = grid[i + 1] of a Karras grid with N(progress) intervals, a = 0.

    Without a law every i is as likely (CM, arXiv 2303.01469, eq. 7); with one, i is the interval that a draw
    of the law falls into, p(i) = cdf(grid[i + 1]) - cdf(grid[i]) (iCT, arXiv 2310.14189, section 3.5).
    """

    steps: Steps
    law: Law | None = None  # restricted to [low, high]
    low: float = 0.002
    high: float = 80.0
    rho: float = 7.0
    at_anchor = False

    def grid(self, progress: float) -> Tensor:
        """The N + 1 levels, increasing."""
        return karras(self.low, self.high, self.steps(progress), self.rho).flip(0)

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        intervals = self.steps(progress)
        if self.law is None:
            index = (_first(u) * intervals).long()
        else:
            drawn = self.law.quantile(_first(u))
            index = torch.searchsorted(self.grid(progress), drawn) - 1
        return self.at(index.clamp(0, intervals - 1), progress)._replace(u=u)

    def at(self, t: Time, progress: float) -> Times:
        """Integers are the index i; other times t get the level below them as r."""
        grid = self.grid(progress)
        if isinstance(t, Tensor) and not t.is_floating_point():
            t, r = grid[t + 1], grid[t]
        else:
            t = as_time(t)
            r = grid[(torch.searchsorted(grid, t) - 1).clamp_min(0)]
        return _rows(t, r, torch.zeros_like(t), progress)


@dataclass(frozen=True, kw_only=True)
class Segments:
    """T = n K even steps of [0, end] in K segments: t is uniform over the steps, r one below, a its segment's start.

    n = max(1, round(N(progress) / K)) steps make a segment. K = 1 is a consistency model, n = 1 (r = a)
    diffusion. Source: MCM, arXiv 2403.06807, algorithm 1.
    """

    segments: int
    steps: Steps
    end: float = 1.0
    at_anchor = False

    def __post_init__(self) -> None:
        require(self.segments >= 1, "segments", self.segments, "at least 1")

    def per_segment(self, progress: float) -> int:
        return max(1, round(self.steps(progress) / self.segments))

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        total = self.segments * self.per_segment(progress)
        return self.at((_first(u) * total).long(), progress)._replace(u=u)

    def at(self, t: Time, progress: float) -> Times:
        """Integers are the step's number from 0; other times t get the step that ends at or above them."""
        inside = self.per_segment(progress)
        total = self.segments * inside
        if not isinstance(t, Tensor) or t.is_floating_point():
            t = (as_time(t) * (total / self.end) - 1e-9).ceil().long() - 1  # 0.7 * 10 is above 7
        index = t.clamp(0, total - 1)
        start = index // inside * inside
        top, bottom, start = (part.double() * (self.end / total) for part in (index + 1, index, start))
        return _rows(top, bottom, start, progress)


def karras(low: float, high: float, n: int, rho: float = 7.0) -> Tensor:
    """n + 1 decreasing levels from high to low, n intervals, evenly spaced in t^(1/rho).

    Source: EDM, arXiv 2206.00364, eq. 5. Float64 `[n + 1]`.
    """
    ends = high ** (1 / rho), low ** (1 / rho)
    grid = torch.linspace(*ends, n + 1, dtype=torch.float64) ** rho
    grid[0], grid[-1] = high, low  # the powers of the roots are the ends only to rounding
    return grid
