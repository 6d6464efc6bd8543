"""A residual MLP with time and label conditioning; dropout by explicit masks only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from fewstep.base.errors import require
from fewstep.networks import blocks
from fewstep.networks.attention import LayerNorm
from fewstep.networks.dropout import Masks, drop, masks_for, probability
from fewstep.networks.embedding import NoiseFeatures, features_fit, labels_fit, parts_of
from fewstep.networks.ends import EndEmbedding


class Block(blocks.Block):
    """h + out(mask * silu(inner(norm(h) * (1 + scale) + shift))), both from the condition."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.norm = LayerNorm(width, affine=False)
        self.modulate = nn.Linear(embedding, 2 * width)
        self.inner = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, h: Tensor, emb: Tensor, dropout: Callable[[Tensor], Tensor]) -> Tensor:
        scale, shift = self.modulate(emb).chunk(2, 1)
        inside = silu(self.inner(torch.addcmul(shift, self.norm(h), 1 + scale)))
        return h + self.out(dropout(inside))


class ResidualMLP(nn.Module):
    """Flat data through residual blocks; every block sees the noise label and the class.

    forward(x `[B, *shape]`, noise_label `[B]`, cond, masks, end `[B, ends]`) -> like x, where cond
    is labels `[B]` int64 (-1 is no label: a zero embedding), features `[B, ...]` of floats, or a
    dict with "label" and "features". A network with classes needs labels, one without takes none,
    and likewise features and end; each mistake is a UserError.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        features: int = 0,
        ends: int = 0,
        *,
        width: int,
        depth: int,
        dropout: float,
        features_at: Literal["blocks", "both"] | None = None,
    ) -> None:
        super().__init__()
        require(width > 0, "width", width, "at least 1 unit")
        require(depth > 0, "depth", depth, "at least 1 block")
        probability(dropout)
        self.classes = classes
        self.ends = ends
        self.dropout = dropout
        size = math.prod(shape)
        embedding = 64

        self.noise = NoiseFeatures(embedding // 4)
        self.time = nn.Linear(embedding // 2, embedding)
        self.label = nn.Embedding(classes, embedding) if classes else None
        self.inlet = nn.Linear(size, width)
        self.blocks = nn.ModuleList(Block(width, embedding) for _ in range(depth))
        self.norm = LayerNorm(width)
        self.outlet = nn.Linear(width, size)
        nn.init.zeros_(self.outlet.weight)
        nn.init.zeros_(self.outlet.bias)
        self.given = nn.Linear(features, embedding) if features else None
        is_both = bool(features) and features_at == "both"
        self.beside = nn.Linear(features, width, bias=False) if is_both else None
        self.end = EndEmbedding(ends, embedding)

    def masks(self, rows: int, seeds: Sequence[int]) -> Masks | None:
        """The masks of a batch, one layer per block; None without dropout."""
        return masks_for(rows, seeds, self.dropout)

    def embed(self, noise_label: Tensor, cond: Any, end: Tensor | None = None) -> Tensor:
        emb = self.time(self.noise(noise_label).to(self.time.weight.dtype))
        label, features, _ = parts_of(cond)
        labels_fit(self.classes, label)
        features_fit(self.given.in_features if self.given else 0, features)
        if self.label is not None and label is not None:
            emb = emb + self.label(label.clamp_min(0)) * (label >= 0)[:, None]
        if self.given is not None and features is not None:
            emb = emb + self.given(features.to(emb.dtype))
        return silu(self.end(emb, end))

    def forward(
        self,
        x: Tensor,
        noise_label: Tensor,
        cond: Any = None,
        masks: Masks | None = None,
        end: Tensor | None = None,
    ) -> Tensor:
        emb = self.embed(noise_label, cond, end)

        h = self.inlet(x.flatten(1))
        features = parts_of(cond).features
        if self.beside is not None and features is not None:
            h = h + self.beside(features.to(h.dtype))  # as one layer of (x, features)
        for number, block in enumerate(self.blocks):
            h = block(h, emb, partial(drop, probability=self.dropout, layer=number, masks=masks))
        return self.outlet(silu(self.norm(h))).reshape(x.shape)
