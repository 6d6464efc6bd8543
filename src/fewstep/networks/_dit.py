"""A diffusion transformer with adaLN-zero blocks (arXiv 2212.09748), for any number of axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from fewstep.base.errors import require
from fewstep.networks.attention import LayerNorm
from fewstep.networks.dropout import Masks, drop, masks_for, probability
from fewstep.networks.transformer_blocks import Embedding, SelfAttention, positions, zero


def patchify(x: Tensor, patch: int) -> Tensor:
    """`[B, C, *axes] -> [B, tokens, C patch^n]`: tokens and their pixels by the axes' order."""
    grid = [size // patch for size in x.shape[2:]]
    n = len(grid)
    split = x.reshape(*x.shape[:2], *(part for size in grid for part in (size, patch)))
    tokens = split.permute(0, *range(2, 2 * n + 2, 2), 1, *range(3, 2 * n + 3, 2))
    return tokens.reshape(len(x), math.prod(grid), -1)


def unpatchify(tokens: Tensor, patch: int, shape: Sequence[int]) -> Tensor:
    """The inverse of `patchify`: `[B, tokens, C patch^n] -> [B, *shape]`."""
    n = len(shape) - 1
    split = tokens.reshape(
        len(tokens), *(size // patch for size in shape[1:]), shape[0], *[patch] * n
    )
    pairs = (axis for i in range(n) for axis in (i + 1, i + n + 2))
    return split.permute(0, n + 1, *pairs).reshape(len(tokens), *shape)


class Block(nn.Module):
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

    def forward(self, h: Tensor, emb: Tensor, masks: Masks | None) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.modulate(emb)[:, None].chunk(6, -1)

        # Attention.
        h = h + gate * self.attention(torch.addcmul(shift, self.norm(h), 1 + scale))

        # MLP.
        inside = self.inner(torch.addcmul(shift2, self.norm(h), 1 + scale2))
        inside = gelu(inside, approximate="tanh")
        return h + gate2 * self.outer(drop(inside, self.dropout, self.site, masks))


class DiT(nn.Module):
    """The transformer. forward(x `[B, C, *axes]`, noise_label `[B]`, cond, masks) -> like x.

    cond: labels `[B]` int64 or None; label -1 is no label: its embedding is 0. A fresh network
    gives 0.
    """

    positions: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        dropout: float,
    ) -> None:
        super().__init__()
        require(len(shape) > 1, "shape", shape, "(channels, one or more axes)")
        axes = ", ".join(map(str, shape[1:]))
        fits = patch > 0 and not any(size % patch for size in shape[1:])
        require(fits, "patch", patch, f"a divisor of every axis of the data, {axes}")
        require(depth > 0, "depth", depth, "at least 1 block")
        require(mlp_ratio >= 1, "mlp_ratio", mlp_ratio, "at least 1")
        probability(dropout)
        self.patch = patch
        self.dropout = dropout
        size = shape[0] * patch ** (len(shape) - 1)
        grid = [n // patch for n in shape[1:]]

        self.register_buffer("positions", positions(grid, width), persistent=False)
        self.embedding = Embedding(classes, width)
        self.inlet = nn.Linear(size, width)
        blocks = (Block(width, heads, mlp_ratio, dropout, site) for site in range(depth))
        self.blocks = nn.ModuleList(blocks)
        self.norm = LayerNorm(width, affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.outlet = nn.Linear(width, size)
        zero(self.modulate)
        zero(self.outlet)

    def masks(self, rows: int, seeds: Sequence[int]) -> Masks | None:
        """The masks of a batch, one layer per block; None without dropout."""
        return masks_for(rows, seeds, self.dropout)

    def forward(
        self, x: Tensor, noise_label: Tensor, cond: Tensor | None = None, masks: Masks | None = None
    ) -> Tensor:
        emb = self.embedding(noise_label, cond)

        # Tokens.
        h = self.inlet(patchify(x, self.patch)) + self.positions
        for block in self.blocks:
            h = block(h, emb, masks)

        # Pixels.
        shift, scale = self.modulate(emb)[:, None].chunk(2, -1)
        h = self.outlet(torch.addcmul(shift, self.norm(h), 1 + scale))
        return unpatchify(h, self.patch, x.shape[1:])
