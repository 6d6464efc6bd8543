"""How noise levels are weighed against each other: `(loss_b [B], t [B], models) -> [B]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from fewstep.denoiser import Models


class Balance(Protocol):
    """A change of the losses per sample; one that learns has `.module()`, which trains beside the student."""

    def __call__(self, loss_b: Tensor, t: Tensor, models: Models) -> Tensor: ...


def unbalanced(loss_b: Tensor, t: Tensor, models: Models) -> Tensor:
    """The loss as it is."""
    return loss_b


class LevelBias(nn.Module):
    """u(t): a linear map of random Fourier features of ln(t) / 4, 0 at first."""

    frequencies: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2 * torch.pi * nn.init.normal_(torch.empty(channels)))
        self.register_buffer("phases", 2 * torch.pi * nn.init.uniform_(torch.empty(channels)))
        self.weight = nn.Parameter(torch.zeros(channels))

    def forward(self, t: Tensor) -> Tensor:
        label = (t.clamp_min(1e-20).log() / 4).to(self.weight.dtype).to(self.weight.device)
        features = 2**0.5 * (label[:, None] * self.frequencies + self.phases).cos()
        return features @ self.weight / len(self.weight) ** 0.5


@dataclass(frozen=True)
class LogVariance:
    """loss e^-u(t) + u(t) with a learned u: at the optimum u is the log of the level's mean loss.

    Every level then has the same gradient scale. Source: EDM2, arXiv 2312.02696, eq. 21 and appendix B.1.
    """

    channels: int = 128
    needs = frozenset({"balance"})

    def module(self) -> nn.Module:
        """The u to be trained; random numbers come from torch's global generator, as everywhere at initialisation."""
        return LevelBias(self.channels)

    def __call__(self, loss_b: Tensor, t: Tensor, models: Models) -> Tensor:
        assert models.balance is not None
        u = models.balance(t).to(loss_b.dtype)
        return loss_b * (-u).exp() + u
