"""The coefficients alpha(t), sigma(t) of the noising processes, their rates in t, and the inverse.

All are `[B] -> [B]` in float64; t = 0 is the data; from `end` on none is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor


class Schedule(Protocol):
    """What a process is made of; `time_at` inverts the noise level sigma / alpha."""

    def alpha(self, t: Tensor) -> Tensor: ...
    def sigma(self, t: Tensor) -> Tensor: ...
    def alpha_rate(self, t: Tensor) -> Tensor: ...
    def sigma_rate(self, t: Tensor) -> Tensor: ...
    def time_at(self, level: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Edm:
    """alpha = 1, sigma(t) = t: time is the noise level (EDM, arXiv 2206.00364, table 1)."""

    end = math.inf

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def alpha_rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_rate(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time_at(self, level: Tensor) -> Tensor:
        return level


@dataclass(frozen=True)
class Linear:
    """alpha = 1 - t, sigma = t."""

    end = 1.0

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def alpha_rate(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma_rate(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time_at(self, level: Tensor) -> Tensor:
        return 1 / (1 + 1 / level)  # also at level = 0 and infinity


@dataclass(frozen=True)
class Trig:
    """alpha = cos t, sigma = sigma_data sin t."""

    sigma_data: float
    end = math.pi / 2

    def alpha(self, t: Tensor) -> Tensor:
        return t.cos()

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_data * t.sin()

    def alpha_rate(self, t: Tensor) -> Tensor:
        return -t.sin()

    def sigma_rate(self, t: Tensor) -> Tensor:
        return self.sigma_data * t.cos()

    def time_at(self, level: Tensor) -> Tensor:
        return (level / self.sigma_data).atan()


@lru_cache(maxsize=64)
def _angles(low: float, high: float, device: torch.device) -> tuple[float, float]:
    """atan exp(low / 2) and atan exp(high / 2), as the device computes them."""
    place = torch.device("cpu") if device.type == "meta" else device
    start, end = torch.tensor([low, high], dtype=torch.float64, device=place).div(2).exp().atan()
    return start.item(), end.item()


@dataclass(frozen=True)
class Cosine:
    """alpha^2 = sigmoid(l), sigma^2 = sigmoid(-l) with an interpolated log-SNR l.

    l(t) = (1 - t) c(t; first) + t c(t; last),
    c(t; s) = s - 2 log tan(u), u running evenly
    from atan exp((s - high) / 2) to atan exp((s - low) / 2).
    """

    low: float
    high: float
    first: float = 0.0
    last: float = 0.0
    end = 1.0

    def _part(self, t: Tensor, shift: float) -> tuple[Tensor, Tensor, float]:
        """c(t; shift), u and its rate."""
        start, end = _angles(shift - self.high, shift - self.low, t.device)
        u = start + t * (end - start)
        return shift - 2 * u.tan().log(), u, end - start

    def _value(self, t: Tensor) -> Tensor:
        """The log-SNR alone."""
        a = b = self._part(t, self.first)[0]
        if self.first != self.last:
            b = self._part(t, self.last)[0]
        return (1 - t) * a + t * b

    def logsnr(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The log-SNR and its rate in t."""
        (a, u, fast), (b, v, late) = self._part(t, self.first), self._part(t, self.last)
        rates = torch.tensor([fast, late], dtype=torch.float64, device=t.device) * -4
        a_rate, b_rate = rates[0] / (2 * u).sin(), rates[1] / (2 * v).sin()
        return (1 - t) * a + t * b, (1 - t) * a_rate + t * b_rate + b - a

    def alpha(self, t: Tensor) -> Tensor:
        return self._value(t).sigmoid().sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return (-self._value(t)).sigmoid().sqrt()

    def alpha_rate(self, t: Tensor) -> Tensor:
        value, rate = self.logsnr(t)
        return value.sigmoid().sqrt() * (-value).sigmoid() * rate / 2

    def sigma_rate(self, t: Tensor) -> Tensor:
        value, rate = self.logsnr(t)
        return -(-value).sigmoid().sqrt() * value.sigmoid() * rate / 2

    def time_at(self, level: Tensor) -> Tensor:
        """By bisection, since the interpolated schedule has no closed inverse.

        Levels outside of the schedule's become its ends.
        """
        logsnr = -2 * level.log()
        return bisect(lambda t: self._value(t) <= logsnr, level, 1.0)


def root(x: Tensor) -> Tensor:
    """sqrt(x), and 0 with gradient 0 for x <= 0, where the bare root's is infinite or NaN."""
    return torch.where(x > 0, torch.where(x > 0, x, 1.0).sqrt(), 0.0)


@lru_cache(maxsize=32)
def _column(power: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor((1.0, *power), dtype=torch.float64, device=device)


@dataclass(frozen=True)
class Table:
    """alpha^2 = power[t - 1] at t = 1 .. T and 1 at t = 0, linear between; sigma^2 = 1 - alpha^2.

    The rates are those of the continuous process that the steps discretise, alpha' = -beta alpha /
    2 with the beta of the step that ends at t (of the first one at t = 0), as in the field's
    solvers; the table's own differences have them up to O(beta^2).
    """

    power: tuple[float, ...]

    @property
    def end(self) -> float:
        return float(len(self.power))

    def __repr__(self) -> str:
        return (
            f"Table({len(self.power)} steps, alpha^2 {self.power[0]:.6g} .. {self.power[-1]:.6g})"
        )

    def _power(self, t: Tensor) -> Tensor:
        column = _column(self.power, t.device)
        below = t.floor().long().clamp(0, len(self.power) - 1)
        return torch.lerp(column[below], column[below + 1], t - below)

    def _beta(self, t: Tensor) -> Tensor:
        column = _column(self.power, t.device)
        step = t.ceil().long().clamp(1, len(self.power))
        return 1 - column[step] / column[step - 1]

    def alpha(self, t: Tensor) -> Tensor:
        return self._power(t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return root(1 - self._power(t))

    def alpha_rate(self, t: Tensor) -> Tensor:
        return -self._beta(t) * self.alpha(t) / 2

    def sigma_rate(self, t: Tensor) -> Tensor:
        return self._beta(t) * self._power(t) / (2 * self.sigma(t))

    def time_at(self, level: Tensor) -> Tensor:
        power = 1 / (1 + level.square())
        column = _column(self.power, level.device)
        step = torch.searchsorted(-column, -power).clamp(1, len(self.power))
        share = (column[step - 1] - power) / (column[step - 1] - column[step])
        return step - 1 + share.clamp(0, 1)


@dataclass(frozen=True)
class Curve:
    """alpha and sigma by a function of yours, `pair(t) -> (alpha, sigma)`, whose level rises.

    Rates are its derivatives, by forward mode; the inverse is by bisection in 0 .. t_max.
    """

    pair: Callable[[Tensor], tuple[Tensor, Tensor]]
    t_max: float

    @property
    def end(self) -> float:
        return self.t_max

    def _values(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.pair(t)
        return torch.as_tensor(alpha).to(t).expand_as(t), torch.as_tensor(sigma).to(t).expand_as(t)

    def alpha(self, t: Tensor) -> Tensor:
        return self._values(t)[0]

    def sigma(self, t: Tensor) -> Tensor:
        return self._values(t)[1]

    def alpha_rate(self, t: Tensor) -> Tensor:
        return torch.func.jvp(self.alpha, (t,), (torch.ones_like(t),))[1]

    def sigma_rate(self, t: Tensor) -> Tensor:
        return torch.func.jvp(self.sigma, (t,), (torch.ones_like(t),))[1]

    def time_at(self, level: Tensor) -> Tensor:
        """Levels outside of the schedule's become its ends."""
        return bisect(lambda t: self.sigma(t) / self.alpha(t) > level, level, self.t_max)


def bisect(is_late: Callable[[Tensor], Tensor], like: Tensor, most: float) -> Tensor:
    """The times in 0 .. most from which on `is_late` holds."""
    below = torch.zeros_like(like)
    above = torch.full_like(like, most)
    for _ in range(60):
        middle = (below + above) / 2
        late = is_late(middle)
        below = torch.where(late, below, middle)
        above = torch.where(late, middle, above)
    return (below + above) / 2
