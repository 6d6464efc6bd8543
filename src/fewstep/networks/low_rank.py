"""Low-rank adapters: a copy of a network of which only W + B A with few rows in A learns."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fewstep.base.errors import require
from fewstep.base.randomness import generator

Network = TypeVar("Network", bound=nn.Module)


class Adapter(nn.Module):
    """W `[out, in]` -> W + B A, with A `[rank, in]` ~ N(0, 1 / in) and B `[out, rank]` = 0."""

    def __init__(self, weight: Tensor, rank: int, source: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        a = torch.randn(rank, columns, generator=source) / math.sqrt(columns)
        self.a = nn.Parameter(a.to(weight))
        self.b = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return torch.addmm(weight, self.b, self.a)


def low_rank(network: Network, rank: int, seed: int = 0) -> Network:
    """A copy whose linear layers learn W + B A of that rank, and nothing else; equal at first.

    Source: LoRA, arXiv 2106.09685, with alpha = rank; A is normal, as there.
    Raises UserError for a rank below 1 and for a network without linear layers.
    """
    require(rank >= 1, "rank", rank, "at least 1")
    network = copy.deepcopy(network).requires_grad_(False)
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    expected = "one with linear layers, which carry the adapters"
    require(len(layers) > 0, "network", type(network).__name__, expected)
    source = generator(seed, "low rank")
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", Adapter(layer.weight, rank, source))
    return network
