"""The best denoiser and flow from the data's mean and covariance alone: a Gaussian's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.core.process import Process, Time, expand, per_row

# Elements of a sample up to which the whole covariance is used; beyond them its diagonal.
MOST = 2048


@dataclass(frozen=True)
class Linear:
    """A Gaussian with the mean and covariance of some rows, `axes diag(values) axes^T`.

    `axes` is None where the covariance is taken as diagonal. All in float64 and flat.
    """

    mean: Tensor  # [d]
    values: Tensor  # [d]
    axes: Tensor | None  # [d, d]

    def denoise(self, process: Process, x_t: Tensor, t: Time) -> Tensor:
        """The best linear denoiser (Wiener's), s the noise level.

        mean + C (C + s^2)^-1 (x_t / alpha - mean). A good denoiser has no larger E||D - x0||^2.
        """
        return self._shrink(process, x_t, t, power=1.0)

    def flow(self, process: Process, x_t: Tensor, t: Time) -> Tensor:
        """The end of the Gaussian's probability-flow ODE.

        mean + (C (C + s^2)^-1)^1/2 (x_t / alpha - mean), s the noise level.
        """
        return self._shrink(process, x_t, t, power=0.5)

    def along(self, x: Tensor) -> Tensor:
        """x `[B, ...]` along the axes, flat; the mean is not taken away."""
        flat = x.flatten(1).cpu().double()
        return flat if self.axes is None else flat @ self.axes

    def _shrink(self, process: Process, x_t: Tensor, t: Time, power: float) -> Tensor:
        """mean + (C (C + s^2)^-1)^power (x_t / alpha - mean)."""
        t = per_row(t, x_t)
        level = process.level(t)[:, None]
        y = self.along(x_t / expand(process.alpha(t), x_t)) - self.along(self.mean[None])
        share = self.values / (self.values + level.square()).clamp_min(1e-300)
        y = y * (share if power == 1.0 else share.sqrt())
        y = y if self.axes is None else y @ self.axes.T
        return (self.mean + y).to(x_t.dtype).to(x_t.device).reshape(x_t.shape)


def linear_of(x0: Tensor) -> Linear:
    """The mean and covariance of rows `[N, ...]`."""
    flat = x0.flatten(1).cpu().double()
    mean = flat.mean(0)
    if flat.shape[1] > MOST:
        return Linear(mean, flat.var(0, correction=0), None)
    away = flat - mean
    values, axes = torch.linalg.eigh(away.T @ away / len(flat))
    return Linear(mean, values.clamp_min(0.0), axes)
