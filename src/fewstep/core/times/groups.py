"""Times of rows that belong together, and of jumps between the levels of a grid."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from fewstep.base.errors import require
from fewstep.core import abilities
from fewstep.core.process import Process, Time, as_time
from fewstep.core.times.core import Times, TimeSampler, rows
from fewstep.core.times.flow import to_anchor


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The times of another sampler, whose uniforms `size` consecutive rows have together."""

    times: TimeSampler
    size: int

    def __post_init__(self) -> None:
        require(self.size >= 1, "size", self.size, "at least 1")

    @property
    def at_anchor(self) -> bool | None:
        return abilities.at_anchor(self.times)

    @property
    def ends(self) -> int:
        return abilities.ends(self.times)

    @property
    def uniforms(self) -> int:
        return abilities.uniforms(self.times)

    def at(self, t: Time, progress: float) -> Times:
        return self.times.at(t, progress)

    def _check(self, u: Tensor) -> None:
        require(len(u) % self.size == 0, "rows", len(u), f"a multiple of the group's {self.size}")


@dataclass(frozen=True, kw_only=True)
class Grouped(_Rows):
    """`size` consecutive rows have the times of the first (IMM, arXiv 2503.07565, algorithm 1)."""

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        self._check(u)
        return self.times(u[:: self.size].repeat_interleave(self.size, 0), progress, ordinal)


@dataclass(frozen=True, kw_only=True)
class Strata(_Rows):
    """Row j of `size` consecutive ones has the times of the uniform 1 - (j + 1 - u) / size.

    So times that grow with the uniform fall in each group, and all rows together follow its law.
    """

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        self._check(u)
        stratum = self.size - 1 - torch.arange(len(u)) % self.size
        first = (stratum + u[:, 0]) / self.size
        return self.times(torch.cat([first[:, None], u[:, 1:]], 1), progress, ordinal)


@dataclass(frozen=True, kw_only=True)
class Spans:
    """t and a are levels of a decreasing grid, t > a, and r one from below t down to a.

    All uniform: t over the levels above the last, a over those below t, r over those between.
    Source: CTM, arXiv 2310.02279, algorithm 1.
    """

    grid: tuple[float, ...]
    at_anchor = False
    uniforms = 3
    ends = 1

    def __post_init__(self) -> None:
        falls = all(a > b for a, b in pairwise(self.grid))
        fits = falls and len(self.grid) > 1 and self.grid[-1] == 0
        require(fits, "grid", self.grid, "decreasing times, the last of them 0")

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        n = len(self.grid) - 1
        i = (u[:, 0] * n).long()
        a = i + 1 + (u[:, 1] * (n - i)).long()
        r = i + 1 + (u[:, 2] * (a - i)).long()
        grid = torch.tensor(self.grid, dtype=torch.float64)
        return to_anchor(rows(grid[i], grid[r], grid[a], progress))._replace(u=u)

    def at(self, t: Time, progress: float) -> Times:
        """Rows that end at the data; r is the level below t."""
        t = as_time(t)
        grid = torch.tensor(self.grid, dtype=torch.float64).flip(0)
        r = grid[(torch.searchsorted(grid, t) - 1).clamp_min(0)]
        return to_anchor(rows(t, r, torch.zeros_like(t), progress))


@dataclass(frozen=True, kw_only=True)
class LevelStep:
    """t uniform in low .. high, a in 0 .. t; r is `step` of the noise level below t, at least a.

    Source: IMM, arXiv 2503.07565, section 4.2 and appendix C: on linear low = 0.006, high = 0.994
    and step = 160 / 2^12, their constant decrement of the noise level sigma / alpha.
    """

    process: Process
    low: float = 0.006
    high: float = 0.994
    step: float = 160 / 2**12
    at_anchor = False
    ends = 1

    def __post_init__(self) -> None:
        fits = 0 <= self.low < self.high <= self.process.t_max
        require(fits, "high", self.high, f"in low={self.low} .. {self.process.t_max}")
        require(self.step > 0, "step", self.step, "above 0")

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        t = self.low + (self.high - self.low) * u[:, 0]
        return self._rows(t, u[:, 1] * t, progress)._replace(u=u)

    def at(self, t: Time, progress: float) -> Times:
        """Rows that end at the data."""
        t = as_time(t)
        return self._rows(t, torch.zeros_like(t), progress)

    def _rows(self, t: Tensor, a: Tensor, progress: float) -> Times:
        level = (self.process.level(t) - self.step).clamp_min(0.0)
        return to_anchor(rows(t, torch.maximum(self.process.time_at(level), a), a, progress))
