"""How noise levels are weighted against each other: `(loss_b [B], times, models) -> [B]`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from fewstep.base.device import send
from fewstep.base.errors import require, unknown
from fewstep.core import weights
from fewstep.core.denoiser import Models
from fewstep.core.process import expand
from fewstep.core.times import Times
from fewstep.networks.edm2_layers import Uncertainty


class Balance(Protocol):
    """A change of the losses per sample.

    Abilities: `module(shape)` makes what is trained beside the student; `needs`, the models used.
    """

    def __call__(self, loss_b: Tensor, times: Times, models: Models) -> Tensor: ...


def unbalanced(loss_b: Tensor, times: Times, models: Models) -> Tensor:
    """The loss as it is."""
    return loss_b


@dataclass(frozen=True)
class Adaptive:
    """loss / (sg loss + c)^p: p = 1 makes every row's gradient alike, p = 1/2 is a pseudo-Huber's.

    by_share: the divisor has the loss over (t - r) / (t - a), the share of the way to the
    neighbour, by which `weights.share` multiplied it.
    Source: MeanFlow, arXiv 2505.13447, section 4.3.
    """

    p: float = 1.0
    c: float = 1e-2
    by_share: bool = False

    def __post_init__(self) -> None:
        require(0 <= self.p <= 1, "p", self.p, "in 0 .. 1")
        require(0 < self.c < math.inf, "c", self.c, "above 0")

    def __call__(self, loss_b: Tensor, times: Times, models: Models) -> Tensor:
        size = loss_b.detach()
        if self.by_share:
            size = size / expand(weights.share(times), size)
        return loss_b / (size + self.c) ** self.p


@dataclass(frozen=True)
class LogVariance:
    """loss e^-u + u with a learned u(ln(t) / 4): at the optimum e^u is the level's mean loss.

    Every level then has the same gradient scale. u is EDM2's uncertainty head (arXiv 2312.02696,
    section 2).
    """

    channels: int = 128
    needs = frozenset({"balance"})

    def module(self) -> nn.Module:
        """The u to be trained, initialised from torch's global generator."""
        return Uncertainty(self.channels)

    def __call__(self, loss_b: Tensor, times: Times, models: Models) -> Tensor:
        assert models.balance is not None
        label = (times.t.clamp_min(1e-20).log() / 4).to(loss_b.dtype)
        label = send(label, loss_b.device)
        u = models.balance(label)
        return loss_b * (-u).exp() + u


def by_name(name: str) -> Balance:
    """The balance that a method's option names. Raises UserError."""
    balances: dict[str, Balance] = {"none": unbalanced, "learned": LogVariance()}
    if name not in balances:
        raise unknown("balance", name, balances)
    return balances[name]
