"""What a network's output means: `(process, t) -> Coefficients`.

x0_hat = skip x_t + out F(in x_t, noise). A preconditioning (EDM, VP, VE) and a kind of prediction
(eps, v, flow, x0) are the same thing here, so any output converts to any other through x0_hat, in
both directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fewstep.base.errors import require, unknown
from fewstep.core.process import Process, Time, expand, per_row


class Coefficients(NamedTuple):
    """D = skip x + out F(in_ x, noise, cond), each `[B]` float64 (EDM, arXiv 2206.00364, eq. 7)."""

    skip: Tensor
    out: Tensor
    in_: Tensor
    noise: Tensor


class Scaling(Protocol):
    """t `[B]` float64 -> the coefficients of its rows. Ability: `sigma_data`."""

    def __call__(self, process: Process, t: Tensor) -> Coefficients: ...


def to_x0(scaling: Scaling, process: Process, x_t: Tensor, raw: Tensor, t: Time) -> Tensor:
    """x0_hat = skip x_t + out raw, raw being the network's output."""
    c = scaling(process, per_row(t, x_t))
    return expand(c.skip, x_t) * x_t + expand(c.out, x_t) * raw


def from_x0(scaling: Scaling, process: Process, x_t: Tensor, x0_hat: Tensor, t: Time) -> Tensor:
    """The output that means x0_hat: (x0_hat - skip x_t) / out; 0 where out = 0 and any would do."""
    c = scaling(process, per_row(t, x_t))
    is_free = c.out == 0
    inverse = torch.where(is_free, 0.0, 1 / torch.where(is_free, 1.0, c.out))
    return expand(inverse, x_t) * (x0_hat - expand(c.skip, x_t) * x_t)


def level(process: Process, t: Tensor) -> Tensor:
    """The noise level sigma / alpha in 1e-20 .. 1e20, so that its logarithm is finite."""
    return (process.sigma(t) / process.alpha(t)).clamp(1e-20, 1e20)


def angle(process: Process, t: Tensor, unit: float) -> Tensor:
    """atan(level / unit) of a time: from 0 at the data to pi / 2 in pure noise."""
    return torch.atan2(process.sigma(t), unit * process.alpha(t))


@dataclass(frozen=True, kw_only=True)
class Edm:
    """EDM's preconditioning, and with `shift` > 0 the consistency model's, in s = sigma / alpha.

    skip = sd^2 / ((s - shift)^2 + sd^2), out = (s - shift) sd / sqrt(s^2 + sd^2),
    in = 1 / sqrt(s^2 + sd^2), noise = noise_scale ln s, of x_t / alpha: EDM's own (arXiv
    2206.00364, table 1) where alpha = 1, and -v-prediction where alpha^2 + sigma^2 = 1 = sd.
    The shift moves the boundary D(x, t) = x from 0 to s = shift (CM, arXiv 2303.01469, appendix C);
    there `in` and the root of `out` keep s, in the paper as in its code.
    """

    sigma_data: float = 0.5  # standard deviation of the data
    shift: float = 0.0  # the boundary's noise level: 0, or t_min for CM, iCT and GC
    noise_scale: float = 0.25  # ECT, TCM, GC: 1/4; CM's code: 1000/4

    def __post_init__(self) -> None:
        require(0 < self.sigma_data < math.inf, "sigma_data", self.sigma_data, "above 0")
        require(0 <= self.shift < math.inf, "shift", self.shift, "0 or more")

    def __call__(self, process: Process, t: Tensor) -> Coefficients:
        alpha, sigma = process.alpha(t), process.sigma(t)
        variance = alpha.square() * self.sigma_data**2
        gap = sigma - self.shift * alpha
        root = (sigma.square() + variance).sqrt()
        noise = self.noise_scale * level(process, t).log()
        skip = alpha * self.sigma_data**2 / (gap.square() + variance)
        return Coefficients(skip, gap * self.sigma_data / root, 1 / root, noise)


@dataclass(frozen=True, kw_only=True)
class Trig:
    """TrigFlow's preconditioning: `Edm`'s with the angle atan(s / sd) as the noise label.

    On `trig` the angle is the time, skip = cos t, out = sd sin t and in = 1/sd, up to the sign of F
    (sCM, arXiv 2410.11081, section 3).
    """

    sigma_data: float = 0.5

    def __call__(self, process: Process, t: Tensor) -> Coefficients:
        c = Edm(sigma_data=self.sigma_data)(process, t)
        return c._replace(noise=angle(process, t, self.sigma_data))


def trigflow(label: str, sigma_data: float) -> Scaling:
    """The preconditioning of a student on `trig` by its noise label. Raises UserError.

    log is ln(level) / 4, time is t. The function of x_t is the same; with log the weights are those
    of EDM's diffusion models.
    """
    scalings: dict[str, Scaling] = {
        "log": Edm(sigma_data=sigma_data),
        "time": Trig(sigma_data=sigma_data),
    }
    if label not in scalings:
        raise unknown("label", label, scalings)
    return scalings[label]


@dataclass(frozen=True, kw_only=True)
class Vp:
    """DDPM++'s preconditioning: eps-prediction with the noise label (m - 1) tau.

    tau is the VP SDE's time, s^2 = exp(beta_d tau^2 / 2 + beta_min tau) - 1; skip = 1, out = -s,
    in = 1 / sqrt(s^2 + 1), of x_t / alpha. Source: EDM, arXiv 2206.00364, table 1, column VP.
    """

    beta_d: float = 19.9
    beta_min: float = 0.1
    m: int = 1000  # steps that the network was trained with

    def __call__(self, process: Process, t: Tensor) -> Coefficients:
        alpha, sigma = process.alpha(t), process.sigma(t)
        exponent = level(process, t).square().log1p()
        tau = ((self.beta_min**2 + 2 * self.beta_d * exponent).sqrt() - self.beta_min) / self.beta_d
        root = (sigma.square() + alpha.square()).sqrt()
        return Coefficients(1 / alpha, -sigma / alpha, 1 / root, (self.m - 1) * tau)


@dataclass(frozen=True, kw_only=True)
class Ve:
    """NCSN++'s preconditioning: skip = 1, out = s, in = 1, noise = ln(s / 2), of x_t / alpha.

    Source: EDM, arXiv 2206.00364, table 1, column VE.
    """

    def __call__(self, process: Process, t: Tensor) -> Coefficients:
        alpha = process.alpha(t)
        s = process.sigma(t) / alpha
        return Coefficients(1 / alpha, s, 1 / alpha, (level(process, t) / 2).log())


def _plain(skip: Tensor, out: Tensor, t: Tensor) -> Coefficients:
    """A network that sees x_t and t as they are."""
    return Coefficients(skip, out, torch.ones_like(t), t)


@dataclass(frozen=True, kw_only=True)
class X0:
    """The output is x0 itself."""

    def __call__(self, process: Process, t: Tensor) -> Coefficients:
        return _plain(torch.zeros_like(t), torch.ones_like(t), t)


@dataclass(frozen=True, kw_only=True)
class Eps:
    """The output is z: x0_hat = (x_t - sigma z_hat) / alpha, infinite where alpha = 0.

    Source: DDPM, arXiv 2006.11239.
    """

    def __call__(self, process: Process, t: Tensor) -> Coefficients:
        alpha = process.alpha(t)
        return _plain(1 / alpha, -process.sigma(t) / alpha, t)


@dataclass(frozen=True, kw_only=True)
class V:
    """The output is v = alpha z - sigma x0: x0_hat = (alpha x_t - sigma v) / (alpha^2 + sigma^2).

    Source: progressive distillation, arXiv 2202.00512, section 4.
    """

    def __call__(self, process: Process, t: Tensor) -> Coefficients:
        alpha, sigma = process.alpha(t), process.sigma(t)
        power = alpha.square() + sigma.square()
        return _plain(alpha / power, -sigma / power, t)


@dataclass(frozen=True, kw_only=True)
class Flow:
    """The output is u = dx/dt = alpha' x0 + sigma' z, the velocity of the process.

    x0_hat = (sigma' x_t - sigma u) / (alpha sigma' - alpha' sigma); on `linear` x_t - t u.
    Source: flow matching, arXiv 2210.02747.
    """

    def __call__(self, process: Process, t: Tensor) -> Coefficients:
        alpha, sigma, schedule = process.alpha(t), process.sigma(t), process.schedule
        # 0 where the rate is infinite: at a table's data end.
        slow = sigma / schedule.sigma_rate(t)
        turn = alpha - schedule.alpha_rate(t) * slow
        return _plain(1 / turn, -slow / turn, t)


@dataclass(frozen=True, kw_only=True)
class Score:
    """The output is the score: x0_hat = (x_t + sigma^2 s) / alpha (NCSN, arXiv 1907.05600)."""

    def __call__(self, process: Process, t: Tensor) -> Coefficients:
        alpha, sigma = process.alpha(t), process.sigma(t)
        return _plain(1 / alpha, sigma.square() / alpha, t)
