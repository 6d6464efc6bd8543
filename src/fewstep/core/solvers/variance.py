"""aDDIM, and the variance of x0 given x_t that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fewstep.base.conditions import Cond
from fewstep.base.device import send
from fewstep.core import abilities
from fewstep.core.denoiser import Denoiser
from fewstep.core.noise import root
from fewstep.core.process import Process, Time, expand, per_row, wide
from fewstep.core.solvers.moves import move


@dataclass(frozen=True, kw_only=True)
class PriorVariance:
    """x_var = share / (1 / prior + SNR): a share of the posterior variance of N(0, prior).

    Source: MCM, arXiv 2403.06807, section 4: 0.1 / (2 + SNR).
    """

    process: Process
    share: float = 0.1
    prior: float = 0.5

    def __call__(self, x0_hat: Tensor, t: Tensor) -> Tensor:
        signal, noise = self.process.alpha(t).square(), self.process.sigma(t).square()
        return self.share * noise / (noise / self.prior + signal)  # finite at both ends


@dataclass(frozen=True)
class TableVariance:
    """x_var by time, measured beforehand: linear between increasing `times`, constant outside.

    Source: MCM, arXiv 2403.06807, section 4: x_var(t) = eta E ||x0 - D(x_t, t)||^2 / d, eta = 0.75.
    """

    times: tuple[float, ...]
    values: tuple[float, ...]

    def __call__(self, x0_hat: Tensor, t: Tensor) -> Tensor:
        times = torch.as_tensor(self.times, dtype=t.dtype, device=t.device)
        values = torch.as_tensor(self.values, dtype=t.dtype, device=t.device)
        if len(times) == 1:
            return values.expand(t.shape)
        after = torch.searchsorted(times, t.contiguous()).clamp(1, len(times) - 1)
        share = ((t - times[after - 1]) / (times[after] - times[after - 1])).clamp(0, 1)
        return torch.lerp(values[after - 1], values[after], share)


Variance = float | Tensor | Callable[[Tensor, Tensor], Tensor]


def addim(
    process: Process,
    denoiser: Denoiser,
    x: Tensor,
    t: Time,
    s: Time,
    cond: Cond = None,
    *,
    x_var: Variance | None = None,
    final_step: Literal["addim", "ddim"] = "addim",
) -> Tensor:
    """aDDIM: DDIM with the noise part lengthened by what x0_hat averages away.

    z_hat = (x - alpha_t x0_hat) / sigma_t, z_var = (alpha_s - alpha_t sigma_s / sigma_t)^2 x_var,
    x_s = alpha_s x0_hat + sqrt(sigma_s^2 + d z_var / ||z_hat||^2) z_hat; x_var = 0 is `ddim`.
    x_var is the variance of x0 given x_t, per scalar: a number, `[B]`, or a function
    (x0_hat, t) -> `[B]`; left out it is `PriorVariance`.
    In the move to t = 0 the paper's rule adds this even to the sample itself; final_step = "ddim"
    does not.
    Source: MCM, arXiv 2403.06807, section 4.
    """
    t, s = per_row(t, x), per_row(s, x)
    # Under guidance the variance is that of the unguided guess.
    both = abilities.both(denoiser)
    if both:
        x0_hat, plain = both(x, t, cond)
    else:
        x0_hat = plain = denoiser(x, t, cond)
    if x_var is None:
        x_var = PriorVariance(process=process)
    variance = torch.as_tensor(x_var(plain, t) if callable(x_var) else x_var)
    variance = variance.to(wide(x), torch.float64).expand(len(x))
    sigma_t = process.sigma(t)
    divisor = torch.where(sigma_t == 0, 1.0, sigma_t)
    z_hat = (x - expand(process.alpha(t), x) * x0_hat) / expand(divisor, x)
    make = process.alpha(s) - process.alpha(t) * process.sigma(s) / divisor
    if final_step == "ddim":
        make = torch.where(s == 0, 0.0, make)
    # ||z_hat||^2 / d
    per_scalar = z_hat.square().flatten(1).mean(1).to(wide(x), torch.float64)
    per_scalar = per_scalar.clamp_min(torch.finfo(torch.float32).tiny)
    extra = send(make.square(), wide(x)) * variance / per_scalar
    length = root(send(process.sigma(s).square(), wide(x)) + extra)
    return move(x, t, s, expand(process.alpha(s), x) * x0_hat + expand(length, x) * z_hat)
