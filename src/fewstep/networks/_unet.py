"""A U-Net along one to three axes: DDPM's (arXiv 2006.11239), which Diffuser has for series.

Diffuser is arXiv 2205.09991. The residual blocks are ADM's (arXiv 2105.05233), where the embedding
scales and shifts behind the second norm. Chosen here: the data enter in patches, as the pictures of
simple diffusion (arXiv 2301.11093), beside their mask and positions; a skip from the input to the
output, whose gains the embedding gives, since noise in the data passes the network as it came;
masked convolutions and norms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from fewstep.base.conditions import apply_mask, mask_of
from fewstep.base.errors import require
from fewstep.networks import attention, blocks
from fewstep.networks.attention import at_least_float32
from fewstep.networks.dropout import Masks, drop, masks_for, probability
from fewstep.networks.ends import EndEmbedding
from fewstep.networks.patches import grid_of, patch_of, patchify, unpatchify
from fewstep.networks.transformer_blocks import Embedding, SelfAttention, positions, zero

LEAST = 8  # channels of a normalisation group: of fewer it would take too much
HEAD = 32  # channels of an attention head
POSITIONS = 16  # channels that tell places apart


def over_axes(rows: Tensor, h: Tensor) -> Tensor:
    """Numbers `[B, C]` or `[C]` so that they meet all places of h `[B, C, *axes]`."""
    return rows.reshape(*rows.shape, *[1] * (h.ndim - 2))


def halve(keep: Tensor) -> Tensor:
    """bool `[B, 1, *axes]`, each axis half as long: whether any of the places is kept."""
    axes = keep.shape[2:]
    halves = [2] * len(axes)
    return patchify(keep, halves).any(-1).reshape(keep.shape[0], 1, *grid_of(axes, halves))


def double(h: Tensor, axes: Sequence[int]) -> Tensor:
    """Each place of `[B, C, *]` twice along each axis, as many as the axes have."""
    for axis, size in enumerate(axes, 2):
        h = h.repeat_interleave(2, axis).narrow(axis, 0, size)
    return h


class Kept(nn.Module):
    """A convolution for which places that are not kept are zeros, as those beyond the ends."""

    def forward(self, h: Tensor, keep: Tensor | None = None) -> Tensor:
        out: Tensor = super().forward(h if keep is None else h * keep)
        return out


class Conv1d(Kept, nn.Conv1d):
    pass


class Conv2d(Kept, nn.Conv2d):
    pass


class Conv3d(Kept, nn.Conv3d):
    pass


CONVOLUTIONS = (Conv1d, Conv2d, Conv3d)


def conv(
    axes: int, cin: int, cout: int, kernel: int = 3, stride: int = 1
) -> Conv1d | Conv2d | Conv3d:
    """The convolution over so many axes."""
    return CONVOLUTIONS[axes - 1](cin, cout, kernel, stride, padding=kernel // 2)


class GroupNorm(attention.GroupNorm):
    """Over as many groups as leave each `LEAST` channels; its moments are of the places kept."""

    def __init__(self, width: int) -> None:
        most = max(width // LEAST, 1)
        super().__init__(next(n for n in range(most, 0, -1) if width % n == 0), width)

    def forward(self, h: Tensor, keep: Tensor | None = None) -> Tensor:
        if keep is None:
            return super().forward(h)
        exact = h.to(at_least_float32(h.dtype)).unflatten(1, (self.num_groups, -1))
        weight = keep[:, None].to(exact.dtype)
        inside = tuple(range(2, exact.ndim))
        number = weight.sum(inside, keepdim=True).clamp_min(1) * exact.shape[2]
        deviation = exact - (exact * weight).sum(inside, keepdim=True) / number
        variance = (deviation.square() * weight).sum(inside, keepdim=True) / number
        norm = (deviation * (variance + self.eps).rsqrt()).flatten(1, 2).to(h.dtype)
        return torch.addcmul(over_axes(self.bias, h), norm, over_axes(self.weight, h))


class Block(blocks.Block):
    """x + conv(drop(silu(norm(conv(silu(norm(x)))) (1 + scale) + shift))), both of the embedding.

    x passes a 1x1 convolution where the channels change. A fresh block is this map of x alone.
    """

    def __init__(self, axes: int, cin: int, cout: int, emb: int, dropout: float, site: int) -> None:
        super().__init__()
        self.dropout = dropout
        self.site = site
        self.norm = GroupNorm(cin)
        self.inner = conv(axes, cin, cout)
        self.modulate = nn.Linear(emb, 2 * cout)
        self.norm_inner = GroupNorm(cout)
        self.outer = conv(axes, cout, cout)
        self.skip = conv(axes, cin, cout, 1) if cin != cout else nn.Identity()
        zero(self.outer)

    def forward(self, x: Tensor, emb: Tensor, keep: Tensor | None, masks: Masks | None) -> Tensor:
        scale, shift = over_axes(self.modulate(emb), x).chunk(2, 1)
        h = self.inner(silu(self.norm(x, keep)), keep)
        h = silu(torch.addcmul(shift, self.norm_inner(h, keep), 1 + scale))
        return self.skip(x) + self.outer(drop(h, self.dropout, self.site, masks), keep)


class Level(nn.ModuleList):
    """The blocks of a resolution, one after the other."""

    def forward(self, h: Tensor, emb: Tensor, keep: Tensor | None, masks: Masks | None) -> Tensor:
        for block in self:
            h = block(h, emb, keep, masks)
        return h


class Middle(nn.Module):
    """Block, h + attention(norm(h)), block, at the lowest resolution."""

    def __init__(
        self, axes: int, width: int, emb: int, dropout: float, sites: tuple[int, int]
    ) -> None:
        super().__init__()
        blocks = (Block(axes, width, width, emb, dropout, site) for site in sites)
        self.before, self.after = blocks
        self.norm = GroupNorm(width)
        self.attention = SelfAttention(width, math.gcd(max(width // HEAD, 1), width))
        zero(self.attention.out)

    def forward(self, h: Tensor, emb: Tensor, keep: Tensor | None, masks: Masks | None) -> Tensor:
        h = self.before(h, emb, keep, masks)
        tokens = self.norm(h, keep).flatten(2).transpose(1, 2).contiguous()
        tokens = self.attention(tokens, None if keep is None else keep.flatten(1))
        h = h + tokens.transpose(1, 2).reshape(h.shape)
        return self.after(h, emb, keep, masks)


class UNet(nn.Module):
    """The network. forward(x `[B, C, *axes]`, noise_label `[B]`, cond, masks, end) -> like x.

    cond: labels `[B]` int64 (-1 is no label: its embedding is 0), features `[B, ...]`, or a dict of
    "label", "features" and "mask". Where the mask is False x counts as 0, which the network sees,
    and places without any value as lying beyond the ends: more padding behind changes nothing. Axes
    of any length: an odd one is halved to the next number up. A fresh network gives 0.
    """

    places: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        features: int = 0,
        ends: int = 0,
        *,
        width: int,
        mult: Sequence[int],
        blocks: int,
        patch: int | Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        axes = len(shape) - 1
        require(1 <= axes <= 3, "shape", shape, "channels first, then one to three axes")
        require(width > 3, "width", width, "at least 4 channels")
        require(bool(mult) and min(mult) > 0, "mult", mult, "a positive factor for each resolution")
        require(blocks > 0, "blocks", blocks, "at least 1 block")
        self.ends = ends
        self.patch = patch_of(patch, shape[1:])
        self.dropout = probability(dropout)
        channels = shape[0] * math.prod(self.patch)
        widths = [width * m for m in mult]
        emb = 4 * width
        sites = count()

        def level(cin: int, cout: int) -> Level:
            inputs = [cin, *[cout] * (blocks - 1)]
            return Level(Block(axes, n, cout, emb, dropout, next(sites)) for n in inputs)

        grid = grid_of(shape[1:], self.patch)
        table = positions(grid, POSITIONS).t().reshape(POSITIONS, *grid)
        self.register_buffer("places", table, persistent=False)
        self.embedding = Embedding(classes, emb, features)
        self.inlet = conv(axes, 2 * channels + POSITIONS, width)
        steps = list(pairwise(widths))
        self.down = nn.ModuleList(level(top, top) for top, _ in steps)
        self.shrink = nn.ModuleList(conv(axes, top, low, stride=2) for top, low in steps)
        self.middle = Middle(axes, widths[-1], emb, dropout, (next(sites), next(sites)))
        self.grow = nn.ModuleList(conv(axes, low, top) for top, low in reversed(steps))
        self.up = nn.ModuleList(level(2 * top, top) for top, _ in reversed(steps))
        self.norm = GroupNorm(width)
        self.outlet = conv(axes, width, channels)
        self.gain = nn.Linear(emb, shape[0])
        zero(self.outlet)
        zero(self.gain)
        self.end = EndEmbedding(ends, emb)

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
        x = apply_mask(x, cond)
        mask = mask_of(x, cond)

        # Patches.
        keep = None
        presence = torch.ones_like(x)
        if mask is not None:
            presence = mask.expand_as(x).to(x.dtype)
            keep = self.to_patches(presence).any(1, keepdim=True)
        h = self.to_patches(torch.cat([x, presence], 1))
        h = torch.cat([h, self.places.to(h.dtype).expand(h.shape[0], *self.places.shape)], 1)
        h = self.inlet(h, keep)

        # Encoder.
        skips: list[tuple[Tensor, Tensor | None]] = []
        for level, shrink in zip(self.down, self.shrink, strict=True):
            h = level(h, emb, keep, masks)
            skips.append((h, keep))
            h = shrink(h, keep)
            keep = None if keep is None else halve(keep)
        h = self.middle(h, emb, keep, masks)

        # Decoder.
        for grow, level in zip(self.grow, self.up, strict=True):
            skip, keep = skips.pop()
            h = grow(double(h, skip.shape[2:]), keep)
            h = level(torch.cat([h, skip], 1), emb, keep, masks)
        h = self.outlet(silu(self.norm(h, keep)), keep)
        out = unpatchify(h.flatten(2).transpose(1, 2), self.patch, x.shape[1:])
        return out + over_axes(self.gain(emb), x) * x

    def to_patches(self, x: Tensor) -> Tensor:
        """`[B, C, *axes]` -> `[B, C pixels, *grid]`."""
        tokens = patchify(x, self.patch)
        return tokens.transpose(1, 2).unflatten(2, grid_of(x.shape[2:], self.patch))
