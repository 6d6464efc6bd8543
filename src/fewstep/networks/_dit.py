"""A diffusion transformer with adaLN-zero blocks (arXiv 2212.09748), for any number of axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, silu

from fewstep.base.conditions import apply_mask, mask_of
from fewstep.base.errors import require
from fewstep.networks import blocks
from fewstep.networks.attention import LayerNorm
from fewstep.networks.dropout import Masks, drop, masks_for, probability
from fewstep.networks.ends import EndEmbedding
from fewstep.networks.patches import grid_of, patch_of, patchify, unpatchify
from fewstep.networks.transformer_blocks import Embedding, SelfAttention, positions, zero


class Block(blocks.Block):
    """h + gate attention(norm(h) (1 + scale) + shift), then the same with an MLP.

    The condition gives both gates, scales and shifts. The map to these six starts at 0, so a fresh
    block is the identity.
    """

    def __init__(self, width: int, heads: int, ratio: float, dropout: float, site: int) -> None:
        super().__init__()
        channels = int(ratio * width)
        self.dropout = dropout
        self.site = site
        self.norm = LayerNorm(width, affine=False)
        self.attention = SelfAttention(width, heads)
        self.inner = nn.Linear(width, channels)
        self.outer = nn.Linear(channels, width)
        self.modulate = nn.Linear(width, 6 * width)
        zero(self.modulate)

    def forward(
        self, h: Tensor, emb: Tensor, masks: Masks | None, keep: Tensor | None = None
    ) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.modulate(emb)[:, None].chunk(6, -1)

        # Attention.
        h = h + gate * self.attention(torch.addcmul(shift, self.norm(h), 1 + scale), keep)

        # MLP.
        inside = self.inner(torch.addcmul(shift2, self.norm(h), 1 + scale2))
        inside = gelu(inside, approximate="tanh")
        return h + gate2 * self.outer(drop(inside, self.dropout, self.site, masks))


class DiT(nn.Module):
    """The transformer. forward(x `[B, C, *axes]`, noise_label `[B]`, cond, masks, end) -> like x.

    cond: labels `[B]` int64 (-1 is no label: its embedding is 0), features `[B, ...]`, or a dict
    of "label", "features" and "mask". Where the mask is False x counts as 0, and no token attends
    to one without an element. Axes of any length: zeros fill their last patches. A fresh network
    gives 0.
    """

    positions: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        features: int = 0,
        ends: int = 0,
        *,
        patch: int | Sequence[int],
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        dropout: float,
    ) -> None:
        super().__init__()
        require(len(shape) > 1, "shape", shape, "(channels, one or more axes)")
        require(depth > 0, "depth", depth, "at least 1 block")
        require(mlp_ratio >= 1, "mlp_ratio", mlp_ratio, "at least 1")
        probability(dropout)
        self.ends = ends
        self.patch = patch_of(patch, shape[1:])
        self.dropout = dropout
        size = shape[0] * math.prod(self.patch)

        table = positions(grid_of(shape[1:], self.patch), width)
        self.register_buffer("positions", table, persistent=False)
        self.embedding = Embedding(classes, width, features)
        self.inlet = nn.Linear(size, width)
        blocks = (Block(width, heads, mlp_ratio, dropout, site) for site in range(depth))
        self.blocks = nn.ModuleList(blocks)
        self.norm = LayerNorm(width, affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.outlet = nn.Linear(width, size)
        zero(self.modulate)
        zero(self.outlet)
        self.end = EndEmbedding(ends, width)

    def masks(self, rows: int, seeds: Sequence[int]) -> Masks | None:
        """The masks of a batch, one layer per block; None without dropout."""
        return masks_for(rows, seeds, self.dropout)

    def forward(
        self,
        x: Tensor,
        noise_label: Tensor,
        cond: Any = None,
        masks: Masks | None = None,
        end: Tensor | None = None,
    ) -> Tensor:
        emb = silu(self.end(self.embedding(noise_label, cond), end))

        # Tokens.
        h = self.inlet(patchify(apply_mask(x, cond), self.patch)) + self.positions
        mask = mask_of(x, cond)
        keep = None if mask is None else patchify(mask.expand_as(x), self.patch).any(-1)
        for block in self.blocks:
            h = block(h, emb, masks, keep)

        # Pixels.
        shift, scale = self.modulate(emb)[:, None].chunk(2, -1)
        h = self.outlet(torch.addcmul(shift, self.norm(h), 1 + scale))
        return unpatchify(h, self.patch, x.shape[1:])
