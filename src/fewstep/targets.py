"""Which network says where the neighbour leads: `(models) -> Denoiser`, called without gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fewstep.denoiser import Denoiser, Models


class Target(Protocol):
    """Chooses or builds the target network from the models; `needs` names those it uses."""

    @property
    def needs(self) -> frozenset[str]: ...
    def __call__(self, models: Models) -> Denoiser: ...


@dataclass(frozen=True)
class Student:
    """The student itself, its gradient stopped (iCT, arXiv 2310.14189, section 3.2)."""

    needs = frozenset({"student"})

    def __call__(self, models: Models) -> Denoiser:
        return models.student


@dataclass(frozen=True)
class Ema:
    """A moving average of the student, of its own rate mu(progress) (CM, arXiv 2303.01469, eq. 8)."""

    rate: Callable[[float], float]
    needs = frozenset({"ema"})

    def __call__(self, models: Models) -> Denoiser:
        assert models.ema is not None
        return models.ema
