"""What every sampler of times gives and may know: rows of t, r and a, uniforms, and progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fewstep.core.process import Time


class Times(NamedTuple):
    """Per row, float64 `[B]` on the host: the student's t, its neighbour r, and its end a.

    t > r >= a. The student jumps from t to a. `w` scales a row so that mean(w * loss) is the
    method's loss.
    """

    t: Tensor
    r: Tensor
    a: Tensor
    w: Tensor
    u: Tensor | None = None  # the rows' uniforms, for parts that need one of their own
    progress: float = 0.0
    # Where a flow map's student is told to lead: a, and t in rows of the diagonal (r = a = 0 there,
    # the goal is x0). None for students of one time.
    to: Tensor | None = None

    def at(self, index: Tensor) -> Times:
        """Some of the rows."""
        rows = self._asdict()
        rows |= {name: x[index] for name, x in rows.items() if isinstance(x, Tensor)}
        return Times(**rows)


class Law(Protocol):
    """A distribution of times by its quantile function: u in (0, 1) -> t."""

    def quantile(self, u: Tensor) -> Tensor: ...


class TimeSampler(Protocol):
    """`u [B, k]` uniforms, `progress`, global sample `ordinal [B]` -> Times.

    `at` gives the times of rows whose t is known. Ability: `at_anchor`.
    """

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times: ...
    def at(self, t: Time, progress: float) -> Times: ...


def first(u: Tensor) -> Tensor:
    """The first uniform of every row, `[B]`."""
    return u.reshape(len(u), -1)[:, 0]


def rows(t: Tensor, r: Tensor, a: Tensor, progress: float) -> Times:
    """Times of weight 1."""
    return Times(t, r, a, torch.ones_like(t), None, progress)


@dataclass(frozen=True, kw_only=True)
class AtNeighbour:
    """The times of another sampler with a := r: the student jumps to its neighbour, and no further.

    Source: progressive distillation, arXiv 2202.00512, algorithm 2.
    """

    times: TimeSampler
    at_anchor = True

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        times = self.times(u, progress, ordinal)
        return times._replace(a=times.r)

    def at(self, t: Time, progress: float) -> Times:
        times = self.times.at(t, progress)
        return times._replace(a=times.r)


@dataclass(frozen=True, kw_only=True)
class AtAnchor:
    """The times of another sampler with r := a: the coupling leads to the end, without a target."""

    times: TimeSampler
    at_anchor = True

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        times = self.times(u, progress, ordinal)
        return times._replace(r=times.a)

    def at(self, t: Time, progress: float) -> Times:
        times = self.times.at(t, progress)
        return times._replace(r=times.a)
