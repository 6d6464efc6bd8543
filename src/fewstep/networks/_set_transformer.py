"""A set transformer (arXiv 1810.00825): self-attention alone, so that the order has no meaning.

Its blocks over all elements (SAB) in the form of DiT (arXiv 2212.09748): norms before, and the
embedding scales, shifts and gates. There are no inducing points (ISAB), which pay off for thousands
of elements. Chosen here: the embedding knows how many elements the set has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from fewstep.base.conditions import apply_mask, mask_of
from fewstep.base.errors import require
from fewstep.networks._dit import Block
from fewstep.networks.attention import LayerNorm
from fewstep.networks.dropout import Masks, masks_for, probability
from fewstep.networks.embedding import features_fit, parts_of
from fewstep.networks.ends import EndEmbedding
from fewstep.networks.transformer_blocks import Embedding, positions, zero

COUNT = 16  # numbers that tell how many elements a set has


class SetTransformer(nn.Module):
    """The network. forward(x `[B, L, C]`, noise_label `[B]`, cond, masks, end) -> like x.

    cond: labels `[B]` int64 (-1 is no label: its embedding is 0), features `[B, ...]`, or a dict of
    "label", "features" and "mask" `[B, L]`, False where a set has no element. Elements in another
    order give the outputs in that order; padding changes nothing. A fresh network gives 0.
    """

    counts: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        features: int = 0,
        ends: int = 0,
        *,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        dropout: float,
    ) -> None:
        super().__init__()
        require(len(shape) == 2, "shape", shape, "sets (elements, coordinates)")
        require(depth > 0, "depth", depth, "at least 1 block")
        require(mlp_ratio >= 1, "mlp_ratio", mlp_ratio, "at least 1")
        self.features = features
        self.ends = ends
        self.dropout = probability(dropout)

        self.register_buffer("counts", positions([shape[0] + 1], COUNT), persistent=False)
        self.embedding = Embedding(classes, width, features + COUNT)
        self.inlet = nn.Linear(shape[1], width)
        blocks = (Block(width, heads, mlp_ratio, dropout, site) for site in range(depth))
        self.blocks = nn.ModuleList(blocks)
        self.norm = LayerNorm(width, affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.outlet = nn.Linear(width, shape[1])
        zero(self.modulate)
        zero(self.outlet)
        self.end = EndEmbedding(ends, width)

    def masks(self, rows: int, seeds: Sequence[int]) -> Masks | None:
        """The masks of a batch, one layer per block; None without dropout."""
        return masks_for(rows, seeds, self.dropout)

    def embed(self, noise_label: Tensor, cond: Any, number: Tensor) -> Tensor:
        """The embedding `[B, width]` of the condition and the number of elements `[B]`."""
        label, features, _ = parts_of(cond)
        features_fit(self.features, features)
        counts = self.counts[number]
        if features is not None:
            counts = torch.cat([counts, features.to(counts.dtype)], 1)
        return self.embedding(noise_label, {"label": label, "features": counts})

    def forward(
        self,
        x: Tensor,
        noise_label: Tensor,
        cond: Any = None,
        masks: Masks | None = None,
        end: Tensor | None = None,
    ) -> Tensor:
        x = apply_mask(x, cond)
        mask = mask_of(x, cond)
        whole = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        keep = whole if mask is None else mask.expand_as(x).any(-1)
        emb = silu(self.end(self.embed(noise_label, cond, keep.sum(1)), end))

        # Elements.
        h = self.inlet(x)
        for block in self.blocks:
            h = block(h, emb, masks, None if mask is None else keep)

        # Coordinates.
        shift, scale = self.modulate(emb)[:, None].chunk(2, -1)
        return self.outlet(torch.addcmul(shift, self.norm(h), 1 + scale))
