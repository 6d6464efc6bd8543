"""What a student is told beyond the data's condition: `(times, cond) -> cond`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fewstep.base.conditions import Cond
from fewstep.base.device import send
from fewstep.base.errors import UserError, require
from fewstep.core.process import Process
from fewstep.core.times import Times

GUIDANCE = "guidance"  # of a condition: [B, 3], see `Guidance`
UNGUIDED = 0.0, 0.0, 1.0  # what stands for it where a condition has none: w = 1 at all times


class Tell(Protocol):
    """The condition that the networks get for the rows. Abilities: `uniforms`, `ends`."""

    def __call__(self, times: Times, cond: Cond) -> Cond: ...


def nothing(times: Times, cond: Cond) -> Cond:
    """The data's own condition alone."""
    return cond


@dataclass(frozen=True)
class Guidance:
    """The condition with "guidance" `[B, 3]`: ln w, and the interval of times that is guided.

    w = 1 + scale in 1 .. most has a density ~ w^-power; the interval's ends are even in 0 .. 1/2
    and 1/2 .. 1. Source: iMF, arXiv 2512.02012, section 4.2, where most = 8.
    """

    most: float = 8.0
    power: float = 1.0
    uniforms = 6  # the first three are the times'
    ends = 3

    def __post_init__(self) -> None:
        require(self.most > 1, "most", self.most, "a guidance weight above 1")
        require(self.power > 0, "power", self.power, "above 0")

    def __call__(self, times: Times, cond: Cond) -> Cond:
        assert times.u is not None
        u = times.u[:, 3:]
        if self.power == 1:
            log_w = u[:, 0] * torch.tensor(self.most).log()
        else:
            top = self.most ** (1 - self.power)
            log_w = (1 + u[:, 0] * (top - 1)).log() / (1 - self.power)
        return with_guidance(cond, torch.stack([log_w, u[:, 1] / 2, (1 + u[:, 2]) / 2], 1))


def numbers_of(
    process: Process, scale: float, interval: tuple[float, float] | None = None
) -> tuple[float, float, float]:
    """What says w = 1 + scale between two noise levels, or at all: a row of `Guidance`'s numbers.

    Raises UserError for w <= 0, which has no logarithm.
    """
    require(-1 < scale < math.inf, "guidance", scale, "above -1: w = 1 + guidance is told by ln w")
    log_w = math.log1p(scale)
    if interval is None:
        return (log_w, *UNGUIDED[1:])
    low, high = (float(process.time_at(level)) / process.t_max for level in interval)
    return log_w, low, min(high, 1.0)


def with_guidance(cond: Cond, guidance: Tensor) -> Cond:
    """The condition with these rows of guidance `[B, 3]`. Raises UserError where no label is."""
    parts = cond if isinstance(cond, Mapping) else {"label": cond}
    label = parts.get("label")
    if not isinstance(label, Tensor):
        raise UserError("guidance compares with and without a label: expected data with labels")
    return {**parts, GUIDANCE: send(guidance.float(), label.device)}


def without_guidance(cond: Cond) -> tuple[Cond, Tensor | None]:
    """The condition as the data has it, and its guidance, if any."""
    if not isinstance(cond, Mapping) or GUIDANCE not in cond:
        return cond, None
    rest = {key: part for key, part in cond.items() if key != GUIDANCE}
    guidance = cond[GUIDANCE]
    assert isinstance(guidance, Tensor)
    return rest["label"] if rest.keys() == {"label"} else rest, guidance
