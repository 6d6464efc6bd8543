"""The exponential moving average of the weights: the network that is sampled."""

from __future__ import annotations

import copy

import torch
from torch import nn


def average_of(model: nn.Module) -> nn.Module:
    """A copy of the model to hold the average: no gradient, no dropout."""
    return copy.deepcopy(model).requires_grad_(False).eval()


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, rate: float) -> None:
    """average <- rate average + (1 - rate) model, in one pass over all weights; buffers are copied."""
    kept = [p.detach() for p in average.parameters()]
    torch._foreach_lerp_(kept, [p.detach() for p in model.parameters()], 1 - rate)
    for buffer, newer in zip(average.buffers(), model.buffers(), strict=True):
        buffer.copy_(newer)
