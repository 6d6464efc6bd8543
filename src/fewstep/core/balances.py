"""How noise levels are weighted against each other: `(loss_b [B], t [B], models) -> [B]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from fewstep.base.errors import unknown
from fewstep.core.denoiser import Models
from fewstep.networks.edm2_layers import Uncertainty


class Balance(Protocol):
    """A change of the losses per sample.

    Abilities: `module()` makes what is trained beside the student; `needs` names the models used.
    """

    def __call__(self, loss_b: Tensor, t: Tensor, models: Models) -> Tensor: ...


def unbalanced(loss_b: Tensor, t: Tensor, models: Models) -> Tensor:
    """The loss as it is."""
    return loss_b


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

    def __call__(self, loss_b: Tensor, t: Tensor, models: Models) -> Tensor:
        assert models.balance is not None
        label = (t.clamp_min(1e-20).log() / 4).to(loss_b.dtype).to(loss_b.device)
        u = models.balance(label)
        return loss_b * (-u).exp() + u


def by_name(name: str) -> Balance:
    """The balance that a method's option names. Raises UserError."""
    balances: dict[str, Balance] = {"none": unbalanced, "learned": LogVariance()}
    if name not in balances:
        raise unknown("balance", name, balances)
    return balances[name]
