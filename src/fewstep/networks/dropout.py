"""Dropout by explicit masks: what was dropped is a function of (layer, seed), so two passes can
share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fewstep.base.errors import require
from fewstep.base.randomness import block_seed


@dataclass(frozen=True)
class Masks:
    """The masks of a batch: a seed for each equal run of `rows`, drawn where and when a layer asks
    for them.

    A seed is the block number of a layer's stream, so none collide. Drawn where the data lives,
    since another kind of device draws other numbers, and kept as bits, since several passes ask for
    the same.
    """

    rows: int
    seeds: tuple[int, ...]
    index: Tensor | None = None  # the rows that are asked for, of all
    _drawn: dict[int, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def at(self, index: Tensor) -> Masks:
        """The masks of some of the rows."""
        return replace(self, index=index)

    def draw(self, layer: int, shape: Sequence[int], keep: float, device: torch.device) -> Tensor:
        """0 or 1 / keep, `[rows, *shape]` in float32: each entry is kept with probability `keep`."""
        if layer not in self._drawn:
            self._drawn[layer] = self._all(layer, shape, keep, device)
        kept = self._drawn[layer]
        return (kept if self.index is None else kept[self.index.to(device)]).float() / keep

    def _all(self, layer: int, shape: Sequence[int], keep: float, device: torch.device) -> Tensor:
        size = self.rows // len(self.seeds)

        def part(seed: int) -> Tensor:
            source = torch.Generator(device).manual_seed(block_seed(0, f"dropout {layer}", seed))
            return torch.empty(size, *shape, device=device).bernoulli_(keep, generator=source)

        return torch.cat([part(seed) for seed in self.seeds]).bool()


def probability(dropout: float) -> float:
    """The probability itself. Raises UserError where it is none, or drops everything."""
    require(0 <= dropout < 1, "dropout", dropout, "a probability in 0 .. 1, below 1")
    return dropout


def masks_for(rows: int, seeds: Sequence[int], probability: float) -> Masks | None:
    """What a network's `masks(rows, seeds)` returns; None where nothing is ever dropped."""
    return Masks(rows, tuple(seeds)) if probability else None


def drop(h: Tensor, probability: float, layer: int, masks: Masks | None) -> Tensor:
    """h `[B, ...]` with the layer's mask on every entry; h itself without masks."""
    if masks is None or not probability:
        return h
    return h * masks.draw(layer, h.shape[1:], 1 - probability, h.device).to(h.dtype)
