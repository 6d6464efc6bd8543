"""How the two points of a pair arise: `(models, process, x0, z, times, cond) -> x_t, x_r`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fewstep.denoiser import Cond, Models
from fewstep.process import Process
from fewstep.times import Times


class Coupling(Protocol):
    """x0, z `[B, ...]` -> the point x_t the student sees and its neighbour x_r on the same trajectory."""

    def __call__(
        self, models: Models, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
    ) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Data:
    """Independent coupling: both points mix the same x0 and the same z (CT, arXiv 2303.01469, eq. 10)."""

    def __call__(
        self, models: Models, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
    ) -> tuple[Tensor, Tensor]:
        return process.mix(x0, z, times.t), process.mix(x0, z, times.r)
