"""The best denoiser and flow from the data's mean and covariance alone: a Gaussian's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.core.process import Process, Time, per_row

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
        """The best linear denoiser (Wiener's): mean + alpha C V^-1 (x_t - alpha mean).

        V = alpha^2 C + sigma^2. A good denoiser has no larger E||D - x0||^2.
        """
        alpha = process.alpha(per_row(t, x_t))[:, None]
        return self._shrink(process, x_t, t, lambda v: alpha * self.values / v)

    def flow(self, process: Process, x_t: Tensor, t: Time) -> Tensor:
        """The end of the Gaussian's flow along its ODE: mean + (C V^-1)^1/2 (x_t - alpha mean)."""
        return self._shrink(process, x_t, t, lambda v: (self.values / v).sqrt())

    def along(self, x: Tensor) -> Tensor:
        """x `[B, ...]` along the axes, flat; the mean is not taken away."""
        flat = x.flatten(1).cpu().double()
        return flat if self.axes is None else flat @ self.axes

    def _shrink(
        self, process: Process, x_t: Tensor, t: Time, share: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """mean + share(V) (x_t - alpha mean), along the axes; finite where alpha = 0 too."""
        t = per_row(t, x_t)
        alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
        y = self.along(x_t) - alpha * self.along(self.mean[None])
        y = y * share((alpha.square() * self.values + sigma.square()).clamp_min(1e-300))
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
