"""Dropout by explicit masks: a mask is a function of (layer, seed), so two passes can share it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fewstep.base.device import send
from fewstep.base.errors import require
from fewstep.base.randomness import block_seed

LEVELS = 2**16  # numbers that an entry of a mask may draw

Sites = dict[int, tuple[tuple[int, ...], float]]  # of each layer the shape of a row, and `keep`


@dataclass(frozen=True)
class Masks:
    """The masks of a batch, drawn when a layer asks: a seed for each equal run of `rows`.

    A seed is the block number of a layer's stream, so none collide. Masks are drawn on the data's
    device where that is a CPU or CUDA, which draw other numbers, else on the CPU. They are stored
    as bits, since several passes ask for the same.
    """

    rows: int
    seeds: tuple[int, ...]
    index: Tensor | None = None  # which of all rows
    _cache: dict[int, Tensor] = field(default_factory=dict, compare=False, repr=False)
    sites: Sites = field(default_factory=dict, compare=False, repr=False)  # that were drawn

    def at(self, index: Tensor) -> Masks:
        """The masks of some of the rows that these are of."""
        return replace(self, index=index if self.index is None else self.index[index])

    def anew(self, caches: dict[int, dict[int, Tensor]]) -> Masks:
        """The same masks, not drawn yet; those of one drawing share one of the caches."""
        return replace(self, _cache=caches.setdefault(id(self._cache), {}))

    def draw_all(self, sites: Sites, device: torch.device) -> None:
        """Draws what layers will ask for, so that a pass itself draws nothing."""
        for layer, (shape, keep) in sites.items():
            self._bits(layer, shape, keep, device)

    def draw(self, layer: int, shape: Sequence[int], keep: float, device: torch.device) -> Tensor:
        """1 / keep with probability `keep`, else 0: `[rows, *shape]` in float32.

        keep is met to 2^-16, and is that multiple of it in both places.
        """
        bits = self._bits(layer, shape, keep, device)
        if self.index is not None:
            bits = bits[send(self.index, device)]
        return torch.where(bits, LEVELS / levels_of(keep), 0.0)

    def _bits(self, layer: int, shape: Sequence[int], keep: float, device: torch.device) -> Tensor:
        """Which entries of all rows are kept."""
        if layer not in self._cache:
            self._cache[layer] = self._all(layer, shape, keep, device)
            self.sites[layer] = tuple(shape), keep
        return self._cache[layer]

    def _all(self, layer: int, shape: Sequence[int], keep: float, device: torch.device) -> Tensor:
        size = self.rows // len(self.seeds)
        count = size * math.prod(shape)
        # Other kinds of devices are not known to draw all integers.
        place = device if device.type in ("cpu", "cuda") else torch.device("cpu")
        lowest = torch.iinfo(torch.int16).min

        def part(seed: int) -> Tensor:
            source = torch.Generator(place).manual_seed(block_seed(0, f"dropout {layer}", seed))
            words = torch.empty(-(-count // 4), dtype=torch.int64, device=place)
            words.random_(torch.iinfo(torch.int64).min, None, generator=source)
            # Sixteen bits for each entry, a fraction of the time of a uniform each.
            bits = words.view(torch.int16)[:count] < lowest + levels_of(keep)
            return bits.reshape(size, *shape)

        return send(torch.cat([part(seed) for seed in self.seeds]), device)


def levels_of(keep: float) -> int:
    """Of the 2^16 numbers that an entry may draw, how many keep it: neither none nor all."""
    return min(max(1, round(keep * LEVELS)), LEVELS - 1)


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
