"""The UViT of simple diffusion in the sizes of Multistep Consistency Models.

The latter (arXiv 2403.06807) gives stages, channels, pooling, dropout and the number of parameters.
After the former (arXiv 2301.11093), the embedding scales and shifts the second norm of a residual
block and the hidden layer of a transformer's MLP, and a residual block's branch adds the skip of
its mirror over sqrt(2). Neither says, and chosen here: 1x1 convolutions between stages, fixed
sin-cos positions and normalised q and k, skips of transformer blocks that join their input, an
embedding of 1024 channels whatever the width. The four sizes of the paper follow, the small ones
(394 M for ImageNet 64, 397 M for 128) to 0.1 %, the large ones (1.23 B, 1.25 B) to 1.1 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, silu

from fewstep.base.conditions import apply_mask
from fewstep.base.errors import require
from fewstep.networks import blocks
from fewstep.networks.attention import GroupNorm, LayerNorm
from fewstep.networks.dropout import Masks, drop, masks_for, probability
from fewstep.networks.ends import EndEmbedding
from fewstep.networks.transformer_blocks import (
    Embedding,
    SelfAttention,
    levels_fit,
    positions,
    zero,
)


def group_norm(width: int) -> GroupNorm:
    """Over 32 groups, or as many as divide the channels."""
    return GroupNorm(math.gcd(32, width), width)


class ResBlock(blocks.Block):
    """x + conv(drop(silu(norm(conv(silu(norm(x)))) (1 + scale) + shift))).

    A skip joins behind the first norm.
    """

    def __init__(self, width: int, embedding: int, skip: bool, dropout: float, site: int) -> None:
        super().__init__()
        self.dropout = dropout
        self.site = site
        self.norm = group_norm(width)
        self.norm_skip = group_norm(width) if skip else None
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.modulate = nn.Linear(embedding, 2 * width)
        self.norm_inner = group_norm(width)
        self.outer = nn.Conv2d(width, width, 3, padding=1)
        zero(self.outer)

    def forward(self, x: Tensor, skip: Tensor | None, emb: Tensor, masks: Masks | None) -> Tensor:
        h = self.norm(x)
        if self.norm_skip is not None and skip is not None:
            h = (h + self.norm_skip(skip)) / math.sqrt(2)
        scale, shift = self.modulate(emb)[:, :, None, None].chunk(2, 1)
        h = torch.addcmul(shift, self.norm_inner(self.inner(silu(h))), 1 + scale)
        return x + self.outer(drop(silu(h), self.dropout, self.site, masks))


class TransformerBlock(blocks.Block):
    """h + attention(norm(h)), then h + outer(drop(silu(inner(norm(h))) (1 + scale) + shift)).

    h is `[B, tokens, width]`. A skip joins h itself.
    """

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, embedding: int, dropout: float, site: int
    ) -> None:
        super().__init__()
        channels = int(mlp_ratio * width)
        self.dropout = dropout
        self.site = site
        self.norm = LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.norm_inner = LayerNorm(width)
        self.inner = nn.Linear(width, channels)
        self.modulate = nn.Linear(embedding, 2 * channels)
        self.outer = nn.Linear(channels, width)
        zero(self.attention.out)
        zero(self.outer)

    def forward(self, h: Tensor, skip: Tensor | None, emb: Tensor, masks: Masks | None) -> Tensor:
        if skip is not None:
            h = (h + skip) / math.sqrt(2)
        h = h + self.attention(self.norm(h))
        scale, shift = self.modulate(emb)[:, None].chunk(2, -1)
        inside = torch.addcmul(shift, silu(self.inner(self.norm_inner(h))), 1 + scale)
        return h + self.outer(drop(inside, self.dropout, self.site, masks))


class Stage(nn.Module):
    """Blocks of one kind at one resolution; with a grid, its tokens at fixed positions."""

    positions: Tensor | None

    def __init__(self, blocks: Sequence[nn.Module], width: int, grid: Sequence[int] | None) -> None:
        super().__init__()
        table = None if grid is None else positions(grid, width)
        self.register_buffer("positions", table, persistent=False)
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self, x: Tensor, skips: list[Tensor], emb: Tensor, masks: Masks | None
    ) -> tuple[Tensor, list[Tensor]]:
        """The stage's output and those of its blocks.

        skips, one per block or none, are consumed last first.
        """
        h = x
        outputs: list[Tensor] = []
        if self.positions is not None:
            h = (x.flatten(2).transpose(1, 2) + self.positions).contiguous()
        for block in self.blocks:
            h = block(h, skips.pop() if skips else None, emb, masks)
            outputs.append(h)
        if self.positions is not None:
            h = h.transpose(1, 2).reshape(x.shape)
        return h, outputs


def check_stages(stages: int, blocks: Sequence[int], residual: int, dropout: int) -> None:
    """Raises UserError for numbers that do not fit so many stages."""
    fits = len(blocks) == stages and all(n > 0 for n in blocks)
    require(fits, "blocks", blocks, f"{stages} numbers, as in mult")
    require(0 <= residual <= stages, "residual_stages", residual, f"0 .. {stages}")
    require(0 <= dropout <= stages, "dropout_stages", dropout, f"0 .. {stages}")


class UViT(nn.Module):
    """The network. forward(x `[B, C, H, W]`, noise_label `[B]`, cond, masks, end) -> like x.

    cond: labels `[B]` int64 (-1 embeds as 0), features `[B, ...]`, or a dict of "label", "features"
    and "mask", where x counts as 0 if False. Stages of residual blocks, then of transformer blocks,
    each followed by average pooling; the last is the middle; then the same stages back, each
    preceded by nearest upsampling. A fresh network gives 0.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        features: int = 0,
        ends: int = 0,
        *,
        width: int,
        mult: Sequence[int],
        blocks: Sequence[int],
        residual_stages: int,
        head_channels: int,
        mlp_ratio: float,
        embedding: int,
        dropout: float,
        dropout_stages: int,
    ) -> None:
        super().__init__()
        widths = [width * m for m in mult]
        levels_fit(shape, widths)
        stages = len(widths)
        check_stages(stages, blocks, residual_stages, dropout_stages)
        require(head_channels > 0, "head_channels", head_channels, "at least 1 channel")
        require(embedding > 0, "embedding", embedding, "at least 1 channel")
        require(mlp_ratio >= 1, "mlp_ratio", mlp_ratio, "at least 1")
        self.ends = ends
        self.dropout = probability(dropout)
        sites = count()

        def stage(level: int, up: bool) -> Stage:
            width = widths[level]
            chance = dropout if level >= stages - dropout_stages else 0.0
            numbers = [next(sites) for _ in range(blocks[level])]
            if level < residual_stages:
                convs = [ResBlock(width, embedding, up, chance, number) for number in numbers]
                return Stage(convs, width, None)
            need = f"a divisor of the {width} channels of a stage"
            require(width % head_channels == 0, "head_channels", head_channels, need)
            sizes = (width, width // head_channels, mlp_ratio, embedding)
            transformers = [TransformerBlock(*sizes, chance, number) for number in numbers]
            return Stage(transformers, width, [side >> level for side in shape[1:]])

        steps = list(pairwise(widths))
        self.embedding = Embedding(classes, embedding, features)
        self.inlet = nn.Conv2d(shape[0], widths[0], 3, padding=1)
        self.down = nn.ModuleList(stage(level, False) for level in range(stages - 1))
        self.widen = nn.ModuleList(nn.Conv2d(before, after, 1) for before, after in steps)
        self.middle = stage(stages - 1, False)
        self.narrow = nn.ModuleList(
            nn.Conv2d(after, before, 1) for before, after in reversed(steps)
        )
        self.up = nn.ModuleList(stage(level, True) for level in reversed(range(stages - 1)))
        self.norm = group_norm(widths[0])
        self.outlet = nn.Conv2d(widths[0], shape[0], 3, padding=1)
        zero(self.outlet)
        self.end = EndEmbedding(ends, embedding)

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

        # Encoder.
        h = self.inlet(apply_mask(x, cond))
        skips: list[list[Tensor]] = []
        for stage, widen in zip(self.down, self.widen, strict=True):
            h, outputs = stage(h, [], emb, masks)
            skips.append(outputs)
            h = widen(avg_pool2d(h, 2))
        h, _ = self.middle(h, [], emb, masks)

        # Decoder.
        for stage, narrow in zip(self.up, self.narrow, strict=True):
            # The 1x1 convolution commutes with upsampling, and is cheaper before it.
            h = interpolate(narrow(h), scale_factor=2.0, mode="nearest")
            h, _ = stage(h, skips.pop(), emb, masks)
        return self.outlet(silu(self.norm(h)))
