"""Low-precision training: the type that network passes compute in, and float16's loss scale."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

PASSES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

MOST_SKIPPED = (
    30  # in a row: from 2^16 down to 2^-14, where no gradient that could be used overflows
)


@dataclass
class LossScale:
    """A power of 2 that keeps small gradients above float16's least; halved when one overflows,
    which skips a step.

    After `grow_after` good updates in a row it doubles: the start, halving and growth of
    torch.amp's GradScaler.
    """

    factor: float = 2.0**16
    good: int = 0  # updates since the last change
    in_a_row: int = 0  # skipped
    skipped: int = 0  # in all
    grow_after = 2000

    def update(self, overflowed: bool) -> None:
        """Takes note of a step."""
        if overflowed:
            self.factor, self.good = self.factor / 2, 0
            self.in_a_row, self.skipped = self.in_a_row + 1, self.skipped + 1
            return
        self.in_a_row, self.good = 0, self.good + 1
        if self.good == self.grow_after:
            self.factor, self.good = self.factor * 2, 0

    def tensors(self) -> dict[str, Tensor]:
        """All of it, for a checkpoint."""
        return {
            name: torch.tensor(value, dtype=torch.float64) for name, value in asdict(self).items()
        }

    @staticmethod
    def of(tensors: dict[str, Tensor]) -> LossScale:
        """What `tensors` gave."""
        return LossScale(
            **{
                name: type(value)(tensors[name].item())
                for name, value in asdict(LossScale()).items()
            }
        )
