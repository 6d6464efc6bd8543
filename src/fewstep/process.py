"""Noising processes: x_t = alpha(t) x0 + sigma(t) z, and the moves along their trajectories.

Times are floats or tensors `[B]`; they are held in float64 and only their coefficients are cast to the
data's dtype. Data is `[B, ...]` with any number of axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Time = float | Tensor


def as_time(t: Time) -> Tensor:
    """A time in float64, on its own device (on the CPU where the device has no float64)."""
    if isinstance(t, Tensor) and t.device.type == "mps":
        t = t.cpu()
    return torch.as_tensor(t, dtype=torch.float64)


def per_row(t: Time, x: Tensor) -> Tensor:
    """The time of every row of x: float64 `[B]`, on x's device where that has float64."""
    place = "cpu" if x.device.type == "mps" else x.device
    return torch.as_tensor(t, dtype=torch.float64, device=place).expand(len(x))


def expand(c: Tensor, x: Tensor) -> Tensor:
    """Per-row numbers `[B]` (or one number) in x's dtype and on its device, shaped to multiply `x`.

    Cast before they move: a device may have no float64.
    """
    return c.to(x.dtype).to(x.device).reshape(-1, *[1] * (x.ndim - 1))


class Schedule(Protocol):
    """The coefficients of a process and their rates in t, all `[B] -> [B]` in float64."""

    def alpha(self, t: Tensor) -> Tensor: ...
    def sigma(self, t: Tensor) -> Tensor: ...
    def alpha_rate(self, t: Tensor) -> Tensor: ...
    def sigma_rate(self, t: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Edm:
    """alpha = 1, sigma(t) = t: time is the noise level (EDM, arXiv 2206.00364, table 1)."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def alpha_rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_rate(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True)
class Process:
    """A schedule and the range of times that is used; t = 0 is the data."""

    schedule: Schedule
    t_min: float  # where sampling grids end before their last move to 0
    t_max: float  # where sampling starts: x = sigma(t_max) z

    def alpha(self, t: Time) -> Tensor:
        return self.schedule.alpha(as_time(t))

    def sigma(self, t: Time) -> Tensor:
        return self.schedule.sigma(as_time(t))

    def mix(self, x0: Tensor, z: Tensor, t: Time) -> Tensor:
        """x_t = alpha(t) x0 + sigma(t) z."""
        return expand(self.alpha(t), x0) * x0 + expand(self.sigma(t), x0) * z

    def prior(self, z: Tensor) -> Tensor:
        """Where sampling starts: sigma(t_max) z."""
        return expand(self.sigma(self.t_max), z) * z

    def _move(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """(keep, make) with x_s = keep x_t + make x0_hat: the DDIM move written in x0."""
        clean = self.sigma(t) == 0  # 0/0: there is no noise to scale
        keep = torch.where(clean, 1.0, self.sigma(s) / torch.where(clean, 1.0, self.sigma(t)))
        return keep, self.alpha(s) - keep * self.alpha(t)

    def jump(self, x_t: Tensor, x0_hat: Tensor, t: Time, s: Time) -> Tensor:
        """The DDIM move from t to s: alpha(s) x0_hat + sigma(s)/sigma(t) (x_t - alpha(t) x0_hat).

        Where t = s it returns x_t whatever x0_hat holds, and stays differentiable in s.
        Source: DDIM, arXiv 2010.02502, eq. 12 with zero variance.
        """
        t, s = as_time(t), as_time(s)
        keep, make = self._move(t, s)
        unused = (t == s).to(x_t.device).reshape(-1, *[1] * (x_t.ndim - 1))
        x0_hat = torch.where(unused & ~torch.isfinite(x0_hat), 0.0, x0_hat)  # 0 * NaN is not 0
        return expand(keep, x_t) * x_t + expand(make, x_t) * x0_hat

    def aim(self, x_t: Tensor, x_s: Tensor, t: Time, s: Time) -> Tensor:
        """The x0_hat for which `jump(x_t, x0_hat, t, s)` lands on x_s (t > s; x_s where t = s).

        With s at the data end it is x_s itself. In float32 its error is about 10 eps / (t - s).
        """
        keep, make = self._move(as_time(t), as_time(s))
        stuck = make == 0
        keep, make = torch.where(stuck, 0.0, keep), torch.where(stuck, 1.0, make)
        return (x_s - expand(keep, x_t) * x_t) / expand(make, x_t)

    def velocity(self, x_t: Tensor, x0_hat: Tensor, t: Time) -> Tensor:
        """dx/dt of the probability-flow ODE: alpha'(t) x0_hat + sigma'(t) z_hat, the rate of `jump` at s = t.

        z_hat = (x_t - alpha x0_hat) / sigma; where sigma(t) = 0 the noise is unknown and taken as 0.
        """
        t = as_time(t)
        clean = self.sigma(t) == 0
        per_sigma = torch.where(clean, 0.0, self.schedule.sigma_rate(t) / torch.where(clean, 1.0, self.sigma(t)))
        noise = x_t - expand(self.alpha(t), x_t) * x0_hat
        return expand(self.schedule.alpha_rate(t), x_t) * x0_hat + expand(per_sigma, x_t) * noise


def edm(*, t_min: float = 0.002, t_max: float = 80.0) -> Process:
    """The EDM process x_t = x0 + t z; times are noise levels in units of the data (EDM, arXiv 2206.00364)."""
    return Process(Edm(), t_min=t_min, t_max=t_max)
