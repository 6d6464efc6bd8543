"""Low-precision training: the type that network passes compute in, and float16's loss scale."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from fewstep.base.surroundings import tf32
from fewstep.core.denoiser import passes_in

PASSES = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

# Skipped steps in a row: from 2^16 down to 2^-14, where no useful gradient overflows.
MOST_SKIPPED = 30

# Of rounding over the difference between neighbours: a tenth is a hundredth of its square.
SMALL = 0.1


@contextmanager
def in_precision(precision: str) -> Iterator[None]:
    """Inside, networks pass in that precision, and gradients go back in it."""
    with tf32(precision == "tf32"), passes_in(PASSES[precision]):
        yield


def advice(precision: str, bf16_ratio: float) -> str:
    """What to do where numbers fail in a precision, by what bf16 rounds: a wish for the user."""
    if precision == "fp16" and bf16_ratio <= SMALL:
        return "train in --precision bf16 or fp32"
    why = f" (bf16 rounds {bf16_ratio:.2g} of the difference between neighbours)"
    return f"train in --precision fp32{why if math.isfinite(bf16_ratio) else ''}"


@dataclass
class LossScale:
    """A power of 2 that multiplies the loss, so that small gradients do not vanish in float16.

    It is halved when a gradient overflows, which skips a step, and doubled after `grow_after` good
    updates in a row: start, halving and growth are those of torch.amp's GradScaler.
    """

    factor: float = 2.0**16
    good: int = 0  # updates since the last change
    in_a_row: int = 0  # skipped
    skipped: int = 0  # in all
    grow_after = 2000

    def update(self, overflow: bool) -> None:
        """Counts a step, and changes the factor if it is time."""
        if overflow:
            self.factor /= 2
            self.good = 0
            self.in_a_row += 1
            self.skipped += 1
            return
        self.in_a_row = 0
        self.good += 1
        if self.good == self.grow_after:
            self.factor *= 2
            self.good = 0

    def tensors(self) -> dict[str, Tensor]:
        """All of it, for a checkpoint."""
        values = asdict(self)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}

    @staticmethod
    def of(tensors: dict[str, Tensor]) -> LossScale:
        """The scale from its `tensors`."""
        defaults = asdict(LossScale())
        values = {name: type(value)(tensors[name].item()) for name, value in defaults.items()}
        return LossScale(**values)
