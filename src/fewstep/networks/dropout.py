"""Dropout by explicit masks: a mask is a function of (layer, seed), so two passes can share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fewstep.base.errors import require
from fewstep.base.randomness import block_seed


@dataclass(frozen=True)
class Masks:
    """The masks of a batch, drawn when a layer asks: a seed for each equal run of `rows`.

    A seed is the block number of a layer's stream, so none collide. Masks are drawn on the data's
    device, since another kind of device draws other numbers. They are stored as bits, since several
    passes ask for the same.
    """

    rows: int
    seeds: tuple[int, ...]
    index: Tensor | None = None  # which of all rows
    _cache: dict[int, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def at(self, index: Tensor) -> Masks:
        """The masks of some of the rows that these are of."""
        return replace(self, index=index if self.index is None else self.index[index])

    def anew(self, caches: dict[int, dict[int, Tensor]]) -> Masks:
        """The same masks, not drawn yet; those of one drawing share one of the caches."""
        return replace(self, _cache=caches.setdefault(id(self._cache), {}))

    def draw(self, layer: int, shape: Sequence[int], keep: float, device: torch.device) -> Tensor:
        """1 / keep with probability `keep`, else 0: `[rows, *shape]` in float32."""
        if layer not in self._cache:
            self._cache[layer] = self._all(layer, shape, keep, device)
        bits = self._cache[layer]
        if self.index is not None:
            bits = bits[self.index.to(device)]
        return bits.float() / keep

    def _all(self, layer: int, shape: Sequence[int], keep: float, device: torch.device) -> Tensor:
        size = self.rows // len(self.seeds)

        def part(seed: int) -> Tensor:
            source = torch.Generator(device).manual_seed(block_seed(0, f"dropout {layer}", seed))
            return torch.empty(size, *shape, device=device).bernoulli_(keep, generator=source)

        return torch.cat([part(seed) for seed in self.seeds]).bool()


def probability(dropout: float) -> float:
    """The probability itself. Raises UserError unless it is in [0, 1)."""
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
