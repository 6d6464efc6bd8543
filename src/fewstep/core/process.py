"""Noising processes: x_t = alpha(t) x0 + sigma(t) z, and the moves along their trajectories.

Times are floats or tensors `[B]`, kept in float64 on the host. Only their coefficients are cast to
the data's dtype and moved to its device. So rows can be chosen by their time without waiting for a
device, which may not have float64 either. Data is `[B, ...]` with any number of axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.base.device import send
from fewstep.base.errors import UserError, require, unknown
from fewstep.core.noise import Cosine, Curve, Edm, Linear, Schedule, Table, Trig

Time = float | Tensor


def as_time(t: Time) -> Tensor:
    """A time in float64, on the host."""
    return torch.as_tensor(t.cpu() if isinstance(t, Tensor) else t, dtype=torch.float64)


def per_row(t: Time, x: Tensor, name: str = "t") -> Tensor:
    """The time of every row of x, float64 `[B]` on the host.

    Raises UserError for another shape, with the time's name.
    """
    times = as_time(t)
    if times.ndim > 1 or (times.ndim == 1 and len(times) not in (1, len(x))):
        raise UserError(
            f"{name} of shape {tuple(times.shape)}: expected a number or one for each of the"
            f" {len(x)} rows"
        )
    return times.expand(len(x))


def wide(x: Tensor) -> torch.device:
    """The device for x's numbers in float64: its own, or the host where that has no float64."""
    return torch.device("cpu") if x.device.type == "mps" else x.device


def expand(c: Tensor, x: Tensor) -> Tensor:
    """Per-row numbers `[B]` (or one number) in x's dtype and on its device, shaped to multiply `x`.

    Cast before they move: a device may have no float64.
    """
    return send(c.to(x.dtype), x.device).reshape(-1, *[1] * (x.ndim - 1))


@dataclass(frozen=True)
class Process:
    """A schedule and the range of times that is used; t = 0 is the data."""

    schedule: Schedule
    # where sampling grids end before their last move to 0; 0 where no such move is needed
    t_min: float
    t_max: float  # where sampling starts: x = sigma(t_max) z
    rho: float = 1.0  # sampling grids are even in t^(1/rho)

    @property
    def end(self) -> float:
        """The time from which on no data is left; t_max where the schedule does not say."""
        end: float = getattr(self.schedule, "end", self.t_max)
        return end

    def alpha(self, t: Time) -> Tensor:
        return self.schedule.alpha(as_time(t))

    def sigma(self, t: Time) -> Tensor:
        return self.schedule.sigma(as_time(t))

    def level(self, t: Time) -> Tensor:
        """The noise level sigma / alpha, in units of the data: what time is on edm."""
        t = as_time(t)
        return self.schedule.sigma(t) / self.schedule.alpha(t)

    def time_at(self, level: Time) -> Tensor:
        """The time at which sigma / alpha is this level: the inverse of `level`."""
        return self.schedule.time_at(as_time(level))

    def mix(self, x0: Tensor, z: Tensor, t: Time) -> Tensor:
        """x_t = alpha(t) x0 + sigma(t) z."""
        return expand(self.alpha(t), x0) * x0 + expand(self.sigma(t), x0) * z

    def rate(self, x0: Tensor, z: Tensor, t: Time) -> Tensor:
        """dx_t/dt of `mix`: alpha'(t) x0 + sigma'(t) z.

        Its mean given x_t is the `velocity` of E[x0 | x_t].
        """
        alpha = self.schedule.alpha_rate(as_time(t))
        sigma = self.schedule.sigma_rate(as_time(t))
        return expand(alpha, x0) * x0 + expand(sigma, x0) * z

    def prior(self, z: Tensor, t: float | None = None) -> Tensor:
        """Where sampling starts: sigma(t) z, at t_max unless said otherwise."""
        return expand(self.sigma(self.t_max if t is None else t), z) * z

    def turn(self, t: Time) -> Tensor:
        """W = alpha sigma' - alpha' sigma: alpha^2 times the rate of the noise level."""
        t = as_time(t)
        one = self.schedule
        return one.alpha(t) * one.sigma_rate(t) - one.alpha_rate(t) * one.sigma(t)

    def move(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """(keep, make) with x_s = keep x_t + make x0_hat: the DDIM move written in x0."""
        # There is no noise to scale: 0 / 0.
        clean = self.sigma(t) == 0
        keep = torch.where(clean, 1.0, self.sigma(s) / torch.where(clean, 1.0, self.sigma(t)))
        return keep, self.alpha(s) - keep * self.alpha(t)

    def jump(self, x_t: Tensor, x0_hat: Tensor, t: Time, s: Time) -> Tensor:
        """The DDIM move from t to s: alpha(s) x0_hat + sigma(s)/sigma(t) (x_t - alpha(t) x0_hat).

        Where t = s it returns x_t whatever x0_hat holds, and stays differentiable in s.
        Source: DDIM, arXiv 2010.02502, eq. 12 with zero variance.
        """
        t, s = as_time(t), as_time(s)
        keep, make = self.move(t, s)
        rests = send(t == s, x_t.device).reshape(-1, *[1] * (x_t.ndim - 1))
        # 0 * NaN is not 0.
        x0_hat = torch.where(rests & ~torch.isfinite(x0_hat), 0.0, x0_hat)
        return expand(keep, x_t) * x_t + expand(make, x_t) * x0_hat

    def aim(self, x_t: Tensor, x_s: Tensor, t: Time, s: Time) -> Tensor:
        """The x0_hat for which `jump(x_t, x0_hat, t, s)` lands on x_s (t > s; x_s where t = s).

        With s at the data end it is x_s itself. In float32 its error is about 10 eps / (t - s).
        """
        keep, make = self.move(as_time(t), as_time(s))
        rests = make == 0
        keep = torch.where(rests, 0.0, keep)
        make = torch.where(rests, 1.0, make)
        return (x_s - expand(keep, x_t) * x_t) / expand(make, x_t)

    def velocity(self, x_t: Tensor, x0_hat: Tensor, t: Time) -> Tensor:
        """dx/dt of the probability-flow ODE, alpha'(t) x0_hat + sigma'(t) z_hat.

        It is the rate of `jump` at s = t. z_hat = (x_t - alpha x0_hat) / sigma; where sigma(t) = 0
        the noise is unknown and taken as 0.
        """
        t = as_time(t)
        clean = self.sigma(t) == 0
        sigma = torch.where(clean, 1.0, self.sigma(t))
        per_sigma = torch.where(clean, 0.0, self.schedule.sigma_rate(t) / sigma)
        noise = x_t - expand(self.alpha(t), x_t) * x0_hat
        return expand(self.schedule.alpha_rate(t), x_t) * x0_hat + expand(per_sigma, x_t) * noise

    def guess_of(self, x_t: Tensor, velocity: Tensor, t: Time) -> Tensor:
        """The x0_hat of a velocity, where sigma > 0: the inverse of `velocity`.

        (sigma' x_t - sigma v) / W, see `turn`.
        """
        t = as_time(t)
        rate, sigma = self.schedule.sigma_rate(t), self.schedule.sigma(t)
        turn = self.turn(t)
        return expand(rate / turn, x_t) * x_t - expand(sigma / turn, x_t) * velocity


def edm(*, t_min: float = 0.002, t_max: float = 80.0) -> Process:
    """x_t = x0 + t z: times are noise levels (EDM, arXiv 2206.00364; also called VE)."""
    require(0 <= t_min < t_max < math.inf, "t_min", t_min, f"in 0 .. t_max={t_max}")
    return Process(Edm(), t_min=t_min, t_max=t_max, rho=7.0)


def cosine(
    *, logsnr: Sequence[float] = (-15.0, 15.0), shift: Sequence[float] = (0.0, 0.0)
) -> Process:
    """Variance preserving on t in [0, 1], cosine in log-SNR.

    `logsnr` is the log-SNR at t = 1 and at t = 0, to which the cosine is clipped.
    `shift` adds to the log-SNR at t = 0 and at t = 1: equal for the shifted schedule, 2 log(n / R)
    for noise of resolution n on images of resolution R; different for the interpolated one.
    sigma(0) = 5.5e-4, not 0.
    Source: simple diffusion, arXiv 2301.11093, sections 3.1 and A.
    """
    low, high = logsnr
    first, last = shift
    fits = -math.inf < low < high < math.inf
    require(fits, "logsnr", tuple(logsnr), "two finite numbers, the lower one first")
    return Process(Cosine(low, high, first, last), t_min=0.0, t_max=1.0)


def linear() -> Process:
    """x_t = (1 - t) x0 + t z on t in [0, 1].

    Source: rectified flow, arXiv 2209.03003; flow matching, arXiv 2210.02747.
    """
    return Process(Linear(), t_min=0.0, t_max=1.0)


def trig(*, sigma_data: float = 1.0, level_max: float = math.inf) -> Process:
    """x_t = cos(t) x0 + sigma_data sin(t) z, z of unit variance, t in [0, pi/2].

    Sampling starts at the noise level level_max = sigma_data tan(t), in sCM 80.
    Source: TrigFlow, arXiv 2410.11081.
    """
    require(0 < sigma_data < math.inf, "sigma_data", sigma_data, "above 0")
    require(level_max > 0, "level_max", level_max, "above 0")
    return Process(Trig(sigma_data), t_min=0.0, t_max=math.atan(level_max / sigma_data))


def discrete(
    *,
    betas: Sequence[float] | Tensor | None = None,
    alphas_cumprod: Sequence[float] | Tensor | None = None,
) -> Process:
    """A table of T steps, alpha(t)^2 = prod_(k <= t) (1 - beta_k): times 1 .. T, and 0 is the data.

    Give one of `betas` and `alphas_cumprod`, `[T]`. Between the steps alpha^2 is linear. Time t
    here is diffusers' timestep t - 1. Source: DDPM, arXiv 2006.11239, eq. 4.
    """
    value = None if betas is None else "given"
    is_one = (betas is None) != (alphas_cumprod is None)
    require(is_one, "betas", value, "either betas or alphas_cumprod")
    if betas is not None:
        power = (1 - torch.as_tensor(betas, dtype=torch.float64)).cumprod(0)
    else:
        power = torch.as_tensor(alphas_cumprod, dtype=torch.float64)
    before = torch.cat([torch.ones(1, dtype=torch.float64), power])
    falls = power.ndim == 1 and len(power) > 0
    falls = falls and bool((power >= 0).all() and (before[1:] < before[:-1]).all())
    name = "betas" if betas is not None else "alphas_cumprod"
    require(falls, name, tuple(power.shape), "a table whose products fall from 1 to 0")
    return Process(Table(tuple(power.tolist())), t_min=0.0, t_max=float(len(power)))


def own(pair: Callable[[Tensor], tuple[Tensor, Tensor]], *, t_max: float = 1.0) -> Process:
    """A process of yours: `pair(t [B]) -> (alpha, sigma)`, with sigma / alpha rising on 0 .. t_max.

    Raises UserError where the level does not rise.
    """
    schedule = Curve(pair, t_max)
    t = torch.linspace(0, t_max, 65, dtype=torch.float64)
    level = schedule.sigma(t) / schedule.alpha(t)
    fine = level.shape == t.shape and bool((level[1:] > level[:-1]).all())
    require(fine, "pair", getattr(pair, "__name__", "function"), "sigma / alpha that rises with t")
    return Process(schedule, t_min=0.0, t_max=t_max)


def by_name(
    name: str, shift: Sequence[float] = (0.0, 0.0), *, sigma_data: float | None = None
) -> Process:
    """The process that an option names; discrete is Stable Diffusion's.

    shift: of the cosine. sigma_data: of trig, which is not named without. Raises UserError.
    """
    need = "(0, 0): only the cosine schedule is shifted"
    require(name == "cosine" or not any(shift), "shift", tuple(shift), need)
    if name == "discrete":
        roots = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64)
        return discrete(betas=roots.square())
    processes = {"edm": edm(), "cosine": cosine(shift=shift), "linear": linear()}
    if sigma_data is not None:
        processes["trig"] = trig(sigma_data=sigma_data, level_max=80.0)
    if name not in processes:
        raise unknown("process", name, [*processes, "discrete"])
    return processes[name]
