"""Students that watch how they are asked: in which pass, at which times, under which dropout masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.analysis.verify.fixtures import Analytic
from fewstep.base.conditions import Cond


class Held(nn.Module):
    """A student whose numbers are moved in the pass at the student's own times alone: the target is
    held still.
    """

    def __init__(self, inner: Analytic, t: Tensor) -> None:
        super().__init__()
        self.inner, self.t, self.shift = inner, t, torch.zeros(4, dtype=torch.float64)

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        own = torch.is_grad_enabled() and t.shape == self.t.shape and torch.equal(t, self.t)
        numbers = self.inner.numbers.detach() + (self.shift if own else 0.0)
        found: Tensor = torch.func.functional_call(self.inner, {"numbers": numbers}, (x_t, t, cond))
        return found


class Told(nn.Module):
    """A network that notes at which times it was asked, and with which of the masks that were
    drawn.
    """

    def __init__(self, inner: Analytic) -> None:
        super().__init__()
        self.inner, self.drawn = inner, 0
        self.asked: list[tuple[Tensor, int | None]] = []

    def masks(self, rows: int, seeds: Sequence[int]) -> Any:
        self.drawn += 1
        return Note(self.drawn)

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond = None, masks: Any = None) -> Tensor:
        self.asked.append((t.detach(), masks and masks.number))
        found: Tensor = self.inner(x_t, t, cond)
        return found


class Note:
    """Masks that only know which draw they are of."""

    def __init__(self, number: int) -> None:
        self.number = number

    def at(self, index: Tensor) -> Note:
        return self
