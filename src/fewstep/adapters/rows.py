"""Rows with their noise, and the error of the best simple denoiser on them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fewstep.adapters.linear_bound import Linear
from fewstep.base.conditions import Cond, each
from fewstep.core.distances import mse
from fewstep.core.process import Process


@dataclass(frozen=True)
class Rows:
    """Samples of one split with their noise, which is the same at all levels."""

    x0: Tensor
    cond: Cond
    z: Tensor

    def __len__(self) -> int:
        return len(self.x0)

    def at(self, process: Process, t: float | Tensor) -> Tensor:
        """x_t `[N, ...]`."""
        return process.mix(self.x0, self.z, t)

    def first(self, count: int) -> Rows:
        """The first of them."""
        return Rows(self.x0[:count], each(lambda part: part[:count], self.cond), self.z[:count])


def bound(linear: Linear, process: Process, rows: Rows, t: float) -> Tensor:
    """The error per row of the best of three simple denoisers, chosen by their means.

    The noise left in, ||x_t / alpha - x0||^2 / d; the data's mean, ||mean - x0||^2 / d; the best
    linear denoiser. A good denoiser stays below it.
    """
    x_t = rows.at(process, t)
    mean = linear.mean.to(x_t.dtype).reshape(x_t.shape[1:])
    guesses = (
        x_t / float(process.alpha(t)),
        mean.expand(x_t.shape),
        linear.denoise(process, x_t, t),
    )
    return min((mse(guess, rows.x0) for guess in guesses), key=lambda errors: float(errors.mean()))
