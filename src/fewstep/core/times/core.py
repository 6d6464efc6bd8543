"""What every sampler of times gives and may know: rows of t, r and a, uniforms, and progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fewstep.core.process import Time


class Times(NamedTuple):
    """Per row, float64 `[B]` on the host: the student looks at t, its neighbour is r, a is the end
    it must jump to.

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
    """`u [B, k]` uniforms, `progress`, global sample `ordinal [B]` -> Times; `.at` takes t as
    given.

    `at_anchor`, where it is declared, says whether r = a always, so that no target is needed.
    """

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times: ...
    def at(self, t: Time, progress: float) -> Times: ...


def first(u: Tensor) -> Tensor:
    return u.reshape(len(u), -1)[:, 0]


def rows(t: Tensor, r: Tensor, a: Tensor, progress: float) -> Times:
    return Times(t, r, a, torch.ones_like(t), None, progress)


@dataclass(frozen=True, kw_only=True)
class AtAnchor:
    """The times of another sampler with r := a: the coupling leads to the end itself, and no target
    is needed.
    """

    times: TimeSampler
    at_anchor = True

    def __call__(self, u: Tensor, progress: float, ordinal: Tensor | None = None) -> Times:
        found = self.times(u, progress, ordinal)
        return found._replace(r=found.a)

    def at(self, t: Time, progress: float) -> Times:
        found = self.times.at(t, progress)
        return found._replace(r=found.a)
