"""In which quantity two points are compared: `(process, x_t, x0_hat, times) -> tensor like x0_hat`."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from fewstep.process import Process
from fewstep.times import Times


class Space(Protocol):
    """Maps a guess of the data, seen from x_t, to what the distance compares."""

    def __call__(self, process: Process, x_t: Tensor, x0_hat: Tensor, times: Times) -> Tensor: ...


def x0(process: Process, x_t: Tensor, x0_hat: Tensor, times: Times) -> Tensor:
    """The data itself."""
    return x0_hat
