"""Times of flow maps, whose students are told their end: two times of a row, and the diagonal."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.base.errors import require
from fewstep.core import abilities
from fewstep.core.process import Time, as_time
from fewstep.core.times.core import Law, Times, TimeSampler, rows

Near = Callable[[float], float]  # by progress: which share of the way from t to a the neighbour is


def to_anchor(times: Times) -> Times:
    """The times of students that are told their end: to = a."""
    return times._replace(to=times.a)


@dataclass(frozen=True, kw_only=True)
class Told:
    """The times of another sampler, whose end the student is told."""

    times: TimeSampler
    at_anchor: bool | None = None
    ends = 1

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        return to_anchor(self.times(u, progress, ordinal))

    def at(self, t: Time, progress: float) -> Times:
        return to_anchor(self.times.at(t, progress))


@dataclass(frozen=True, kw_only=True)
class Ends:
    """t and a are the larger and the smaller of two draws; r = t - near (t - a) lies between.

    near: a share by progress; left out it is 0, r = t, for `tangents.Tangent`.
    Source: MeanFlow, arXiv 2505.13447, section 4.3; near: SoFlow, arXiv 2512.15657; alpha-Flow,
    arXiv 2510.20771.
    """

    law: Law  # of the first draw
    end: Law | None = None  # of the second; left out, the first's
    near: Near | None = None
    at_anchor = False
    ends = 1

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        one, other = self.law.quantile(u[:, 0]), (self.end or self.law).quantile(u[:, 1])
        return self._rows(torch.maximum(one, other), torch.minimum(one, other), progress, u)

    def at(self, t: Time, progress: float) -> Times:
        """Rows that end at the data."""
        t = as_time(t)
        return self._rows(t, torch.zeros_like(t), progress, None)

    def _rows(self, t: Tensor, a: Tensor, progress: float, u: Tensor | None) -> Times:
        near = self.near(progress) if self.near else 0.0
        return to_anchor(rows(t, t - near * (t - a), a, progress))._replace(u=u)


@dataclass(frozen=True, kw_only=True)
class Between:
    """The times of another sampler with r drawn evenly between a and t (PSD, arXiv 2505.18825)."""

    times: TimeSampler
    uniforms = 3
    at_anchor = False
    ends = 1

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        times = self.times(u, progress, ordinal)
        return times._replace(r=times.a + u[:, 2] * (times.t - times.a))

    def at(self, t: Time, progress: float) -> Times:
        times = self.times.at(t, progress)
        return times._replace(r=(times.a + times.t) / 2)


@dataclass(frozen=True, kw_only=True)
class Gap:
    """a from a law, t = a + gap (t_max - a), gap in (0, 1) from another (TVM, arXiv 2511.19797)."""

    gap: Law
    end: Law
    high: float = 1.0
    at_anchor = False
    ends = 1

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        a = self.end.quantile(u[:, 1])
        t = a + self.gap.quantile(u[:, 0]) * (self.high - a)
        return to_anchor(rows(t, t, a, progress))._replace(u=u)

    def at(self, t: Time, progress: float) -> Times:
        t = as_time(t)
        return to_anchor(rows(t, t, torch.zeros_like(t), progress))


@dataclass(frozen=True, kw_only=True)
class Dyadic:
    """a jump over two steps of d = high / 2^k, k = 1 .. powers, from a multiple of d: r = t - d.

    Source: Shortcut models, arXiv 2410.12557, section 3: 128 steps, so powers = 7.
    """

    powers: int = 7
    high: float = 1.0
    at_anchor = False
    ends = 1

    def __post_init__(self) -> None:
        require(self.powers >= 1, "powers", self.powers, "at least 1")

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(2**power for power in range(self.powers + 1))

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        power = 1 + (u[:, 0] * self.powers).long()
        pairs = 2.0 ** (power - 1)  # of steps of d
        d = self.high / 2.0**power
        a = 2 * d * (u[:, 1] * pairs).floor()
        return to_anchor(rows(a + 2 * d, a + d, a, progress))._replace(u=u)

    def at(self, t: Time, progress: float) -> Times:
        """One jump to the data, by way of its middle."""
        t = as_time(t)
        return to_anchor(rows(t, t / 2, torch.zeros_like(t), progress))


@dataclass(frozen=True, kw_only=True)
class Diagonal:
    """The times of another sampler, but to = t, r = a = 0 in a share of the rows: flow matching.

    There the goal is x0 and nothing else is evaluated: `Method.lesson`. t is that of the other
    sampler, or from a law of its own. Row i, counted over the whole run, is one where
    floor((i + 1) share) > floor(i share): as many as the share says in every run of rows.
    Source: MeanFlow, arXiv 2505.13447, section 4.3.
    """

    times: TimeSampler
    share: float = 0.75
    law: Law | None = None
    at_anchor = False

    def __post_init__(self) -> None:
        require(0 <= self.share <= 1, "diagonal", self.share, "a share of the rows in 0 .. 1")

    @property
    def ends(self) -> int:
        return abilities.ends(self.times)

    @property
    def uniforms(self) -> int:
        return abilities.uniforms(self.times)

    @property
    def steps(self) -> tuple[int, ...]:
        return abilities.steps(self.times)

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        times = self.times(u, progress, ordinal)
        i = (torch.arange(len(u)) if ordinal is None else ordinal).double()
        # In the order of the share's complement, so that a share of 3/4 begins with its rows.
        is_far = ((i + 1) * (1 - self.share)).floor() > (i * (1 - self.share)).floor()
        t = times.t if self.law is None else self.law.quantile(u[:, 0])
        t = torch.where(is_far, times.t, t)
        zero = torch.zeros_like(t)
        r, a = (torch.where(is_far, part, zero) for part in (times.r, times.a))
        return times._replace(t=t, r=r, a=a, to=torch.where(is_far, times.a, t))

    def at(self, t: Time, progress: float) -> Times:
        return self.times.at(t, progress)


@dataclass(frozen=True, kw_only=True)
class LogitNormal:
    """sigmoid(N(mean, std^2)): of shares in (0, 1), and on linear of times."""

    mean: float
    std: float

    def __post_init__(self) -> None:
        require(math.isfinite(self.mean), "mean", self.mean, "a finite number")
        require(0 < self.std < math.inf, "std", self.std, "above 0")

    def quantile(self, u: Tensor) -> Tensor:
        p = u.double().clamp(2**-54, 1 - 2**-53)
        # The bits of torch's sigmoid depend on the number of rows.
        return 1 / (1 + (-self.mean - self.std * torch.special.ndtri(p)).exp())
