"""The profiles of averages: how much of itself an average keeps at each step. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fewstep.base.errors import UserError


def ema_rate(step: int, decay: float) -> float:
    """How much of itself an average keeps after step 0, 1, ...: `decay`, less in the first steps.

    min(decay, (1 + step) / (10 + step)), so that the initial weights are forgotten.
    """
    return min(decay, (1 + step) / (10 + step))


def halflife_rate(step: int, batch: int, halflife: float) -> float:
    """0.5^(batch / halflife), where `halflife` is in samples and at most 0.05 of those so far.

    Source: EDM, arXiv 2206.00364, its training loop (ramp-up ratio 0.05).
    """
    return float(0.5 ** (batch / max(min(halflife, 0.05 * step * batch), 1e-8)))


def power_rate(step: int, exponent: float) -> float:
    """(1 - 1/k)^(exponent + 1) at update k = step + 1: time t then has weight t^exponent.

    The first update forgets the initial weights. Source: EDM2, arXiv 2312.02696, section 3.1.
    """
    return float((1 - 1 / (step + 1)) ** (exponent + 1))


def power_std(exponent: float) -> float:
    """Standard deviation of t^g on [0, 1]: sqrt((g + 1) / ((g + 2)^2 (g + 3))) (EDM2)."""
    return math.sqrt((exponent + 1) / ((exponent + 2) ** 2 * (exponent + 3)))


# The exponent of the largest standard deviation, 0.3003: power_std' = 0.
_WIDEST = (math.sqrt(5) - 3) / 2
# A standard deviation whose exponent is below 1e6, so that its square does not overflow.
_NARROWEST = 1e-6


def power_exponent(std: float) -> float:
    """The exponent whose profile has that standard deviation, the larger of two."""
    if not 0 < std < power_std(_WIDEST):
        raise UserError(f"standard deviation {std} of a power average: expected in 0 .. 0.3")
    low = _WIDEST
    high = 1 / std  # power_std(g) < 1 / (g + 2)
    while low < (middle := (low + high) / 2) < high:
        if power_std(middle) > std:
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True)
class Profile:
    """An average of the weights, written KIND:VALUE."""

    kind: str
    value: float

    @property
    def name(self) -> str:
        """KIND-VALUE: fit to name a file."""
        return f"{self.kind}-{self.value:.12g}"

    def rate(self, step: int, batch: int) -> float:
        """How much of itself the average keeps after step 0, 1, ... of `batch` samples each."""
        return _KINDS[self.kind](step, batch, self.value)


_KINDS: dict[str, Callable[[int, int, float], float]] = {
    "decay": lambda step, batch, decay: ema_rate(step, decay),
    "halflife": halflife_rate,
    "power": lambda step, batch, std: power_rate(step, power_exponent(std)),
}


def profile(text: str) -> Profile:
    """The average that KIND:VALUE describes, or its name KIND-VALUE. Raises UserError."""
    kind, _, number = text.partition(":" if ":" in text else "-")
    try:
        value = float(number)
        fine = {
            "decay": 0 <= value < 1,
            "halflife": 0 < value < math.inf,
            "power": _NARROWEST <= value < power_std(_WIDEST),
        }[kind]
    except (ValueError, KeyError):
        fine = False
    if not fine:
        raise UserError(
            f"average {text!r}: expected decay:D (0 .. 1), halflife:SAMPLES or power:STD (0 .."
            " 0.3), such as power:0.05"
        )
    return Profile(kind, value)
