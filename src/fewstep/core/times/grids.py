"""Samplers whose times lie on a grid: neighbours, segments, a solver's levels, trajectories."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from fewstep.base.errors import require
from fewstep.core.process import Time, as_time
from fewstep.core.times.core import Law, Times, first, rows


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Levels of a decreasing grid that ends at 0: t uniform over them, r the next level, a = 0.

    With `first` t is the highest level always.
    Source: Direct CM, arXiv 2411.08954, its code: t uniform over n even steps of 1000.
    """

    grid: tuple[float, ...]
    first: bool = False
    at_anchor = False

    def __post_init__(self) -> None:
        falls = all(a > b for a, b in pairwise(self.grid))
        fits = falls and len(self.grid) > 1 and self.grid[-1] == 0
        require(fits, "grid", self.grid, "decreasing times, the last of them 0")

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        index = (first(u) * (len(self.grid) - 1)).long()
        return self.at(torch.zeros_like(index) if self.first else index, progress)._replace(u=u)

    def at(self, t: Time, progress: float) -> Times:
        """Integers are the index from the highest level; other times t get the level below them as
        r.
        """
        grid = torch.tensor(self.grid, dtype=torch.float64)
        if isinstance(t, Tensor) and not t.is_floating_point():
            index = t.long()
            t = grid[t]
        else:
            t = as_time(t)
            index = self.place(t)
        r = grid[(index + 1).clamp(0, len(grid) - 1)]
        return rows(t, r, torch.zeros_like(t), progress)

    def place(self, t: Tensor) -> Tensor:
        """The index, from the highest, of the level that is t or the next above it."""
        grid = torch.tensor(self.grid, dtype=torch.float64)
        return len(grid) - 1 - torch.searchsorted(grid.flip(0), t)


@dataclass(frozen=True, kw_only=True)
class Shared:
    """`size` consecutive rows share one trajectory over n levels: each gets a level on its way.

    The first row's u gives the start s, uniform over the levels, and row j has the level
    s + floor(j (n - s) / size).
    Level i then has P(i) = #{(s, j) that give it} / (n size), more than 1/n at low levels and less
    at high ones; with `reweight` w = 1 / (n P(i)), which is at most `size`, so that mean(w loss) is
    that of uniform levels.
    Where trajectories start at the highest level, row j has floor((j + u) n / size): uniform
    without weights.
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
        expected = f"a multiple of the {self.size} that share a trajectory"
        require(len(u) % self.size == 0, "rows", len(u), expected)
        one = first(u)[:: self.size].repeat_interleave(self.size)
        j = torch.arange(len(u)) % self.size
        if self.levels.first:
            index = ((j + one) * (self.n / self.size)).long().clamp(max=self.n - 1)
        else:
            index = self.spread((one * self.n).long(), j)
        return self.at(index, progress)._replace(u=u)

    def at(self, t: Time, progress: float) -> Times:
        """The levels' own times, weighted as the level that is t or the next above it."""
        times = self.levels.at(t, progress)
        if not self.reweight:
            return times
        index = self.levels.place(times.t).clamp(max=self.n - 1)
        return times._replace(w=_weights(self)[index])


@lru_cache(maxsize=8)
def _weights(times: Shared) -> Tensor:
    """1 / (n P(i)) `[n]`."""
    return 1 / (times.n * times.law())


class Steps(Protocol):
    """A number of intervals, or what is rounded to it, by progress: see `curricula`."""

    def __call__(self, progress: float) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Adjacent:
    """Neighbours r = grid[i] < t = grid[i + 1] of a Karras grid of N(progress) intervals, a = 0.

    Without a law every i is as likely (CM, arXiv 2303.01469, eq. 7); with one, i is the interval
    that a draw of the law falls into, p(i) = cdf(grid[i + 1]) - cdf(grid[i]) (iCT, arXiv
    2310.14189, section 3.5).
    """

    steps: Steps
    law: Law | None = None  # restricted to [low, high]
    low: float = 0.002
    high: float = 80.0
    rho: float = 7.0
    at_anchor = False

    def grid(self, progress: float) -> Tensor:
        """The N + 1 levels, increasing."""
        return karras(self.low, self.high, round(self.steps(progress)), self.rho).flip(0)

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        intervals = round(self.steps(progress))
        if self.law is None:
            index = (first(u) * intervals).long()
        else:
            t = self.law.quantile(first(u))
            index = torch.searchsorted(self.grid(progress), t) - 1
        return self.at(index.clamp(0, intervals - 1), progress)._replace(u=u)

    def at(self, t: Time, progress: float) -> Times:
        """Integers are the index i; other times t get the level below them as r."""
        grid = self.grid(progress)
        if isinstance(t, Tensor) and not t.is_floating_point():
            t, r = grid[t + 1], grid[t]
        else:
            t = as_time(t)
            r = grid[(torch.searchsorted(grid, t) - 1).clamp_min(0)]
        return rows(t, r, torch.zeros_like(t), progress)


@dataclass(frozen=True, kw_only=True)
class Segments:
    """T = n K even steps of [0, end] in K segments; a is the start of t's segment.

    t is uniform over the steps, r one step below. n = max(1, round(N(progress) / K)) steps make a
    segment. K = 1 is a consistency model, n = 1 (r = a) diffusion.
    Source: MCM, arXiv 2403.06807, algorithm 1.
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
        return self.at((first(u) * total).long(), progress)._replace(u=u)

    def at(self, t: Time, progress: float) -> Times:
        """Integers are the step's number from 0; other times t get the step that holds them."""
        inside = self.per_segment(progress)
        total = self.segments * inside
        if not isinstance(t, Tensor) or t.is_floating_point():
            # In floating point 0.7 * 10 is above 7.
            t = (as_time(t) * (total / self.end) - 1e-9).ceil().long() - 1
        index = t.clamp(0, total - 1)
        start = index // inside * inside
        width = self.end / total
        return rows(
            (index + 1).double() * width, index.double() * width, start.double() * width, progress
        )


def karras(low: float, high: float, n: int, rho: float = 7.0) -> Tensor:
    """n + 1 decreasing levels from high to low, n intervals, evenly spaced in t^(1/rho).

    Source: EDM, arXiv 2206.00364, eq. 5. Float64 `[n + 1]`.
    """
    ends = high ** (1 / rho), low ** (1 / rho)
    grid = torch.linspace(*ends, n + 1, dtype=torch.float64) ** rho
    # The powers of the roots are the ends only to rounding.
    grid[0], grid[-1] = high, low
    return grid
