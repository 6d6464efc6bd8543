"""An encoder of the data, which says what noise belongs to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fewstep import networks
from fewstep.base.options import checked_options, choose


class Encoder(nn.Module):
    """x0 -> mean and log standard deviation like x0: the halves of one of our networks of (x0, 0).

    Each is times a gain that starts at 0, so that the noise is N(0, 1) at first. Raises UserError
    for a network or options that there are not.
    """

    def __init__(self, network: str, shape: tuple[int, ...], **options: Any) -> None:
        super().__init__()
        factory = choose("encoder", networks, network)
        options = checked_options("encoder", factory, options)
        self.network = factory((2 * shape[0], *shape[1:]), **options)
        self.gain = nn.Parameter(torch.zeros(2))
        # An outlet that starts at 0 too would never move.
        for p in self.network.parameters():
            if not bool(p.any()) and p.ndim > 1:
                nn.init.normal_(p, std=p[0].numel() ** -0.5)

    def forward(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        weight = next(self.network.parameters())
        both = torch.cat([x0, torch.zeros_like(x0)], 1).to(weight.dtype)
        label = torch.zeros(len(x0), dtype=weight.dtype, device=x0.device)
        mean, log_std = self.network(both, label).to(x0.dtype).chunk(2, 1)
        return self.gain[0] * mean, self.gain[1] * log_std
