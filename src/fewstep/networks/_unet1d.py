"""A U-Net along one axis: DDPM's (arXiv 2006.11239), which Diffuser has for series (2205.09991).

Its residual blocks are ADM's (arXiv 2105.05233), where the embedding scales and shifts behind the
second norm. Chosen here: series enter in patches, as the pictures of simple diffusion (arXiv
2301.11093), beside their mask and positions; a skip from the input to the output, whose gains the
embedding gives, since noise in the data passes the network as it came; masked convolutions and
norms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from fewstep.base.conditions import apply_mask, mask_of
from fewstep.base.errors import require
from fewstep.networks import attention
from fewstep.networks.attention import at_least_float32
from fewstep.networks.dropout import Masks, drop, masks_for, probability
from fewstep.networks.transformer_blocks import Embedding, SelfAttention, positions, zero

LEAST = 8  # channels of a normalisation group: of fewer it would take too much
HEAD = 32  # channels of an attention head
POSITIONS = 16  # channels that tell places apart


def to_patches(x: Tensor, patch: int) -> Tensor:
    """`[B, C, L] -> [B, C patch, ceil(L / patch)]`, with zeros beyond the end."""
    split = pad(x, (0, -x.shape[-1] % patch)).unflatten(-1, (-1, patch))
    return split.transpose(-1, -2).flatten(1, 2)


def from_patches(h: Tensor, patch: int, length: int) -> Tensor:
    """The inverse of `to_patches`: `[B, C patch, ceil(L / patch)] -> [B, C, L]`."""
    return h.unflatten(1, (-1, patch)).transpose(-1, -2).flatten(-2)[..., :length]


def halve(keep: Tensor) -> Tensor:
    """bool `[B, 1, L] -> [B, 1, ceil(L / 2)]`: whether any of the two places is kept."""
    return pad(keep, (0, keep.shape[-1] % 2)).unflatten(-1, (-1, 2)).any(-1)


class Conv(nn.Conv1d):
    """A convolution for which places that are not kept are zeros, as those beyond the ends."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1) -> None:
        super().__init__(cin, cout, kernel, stride, padding=kernel // 2)

    def forward(self, h: Tensor, keep: Tensor | None = None) -> Tensor:
        return super().forward(h if keep is None else h * keep)


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
        number = weight.sum((2, 3), keepdim=True).clamp_min(1) * exact.shape[2]
        deviation = exact - (exact * weight).sum((2, 3), keepdim=True) / number
        variance = (deviation.square() * weight).sum((2, 3), keepdim=True) / number
        h = (deviation * (variance + self.eps).rsqrt()).flatten(1, 2).to(h.dtype)
        return torch.addcmul(self.bias[:, None], h, self.weight[:, None])


class Block(nn.Module):
    """x + conv(drop(silu(norm(conv(silu(norm(x)))) (1 + scale) + shift))), both of the embedding.

    x passes a 1x1 convolution where the channels change. A fresh block is this map of x alone.
    """

    def __init__(self, cin: int, cout: int, emb: int, dropout: float, site: int) -> None:
        super().__init__()
        self.dropout = dropout
        self.site = site
        self.norm = GroupNorm(cin)
        self.inner = Conv(cin, cout, 3)
        self.modulate = nn.Linear(emb, 2 * cout)
        self.norm_inner = GroupNorm(cout)
        self.outer = Conv(cout, cout, 3)
        self.skip = Conv(cin, cout, 1) if cin != cout else nn.Identity()
        zero(self.outer)

    def forward(self, x: Tensor, emb: Tensor, keep: Tensor | None, masks: Masks | None) -> Tensor:
        scale, shift = self.modulate(emb)[:, :, None].chunk(2, 1)
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

    def __init__(self, width: int, emb: int, dropout: float, sites: tuple[int, int]) -> None:
        super().__init__()
        self.before, self.after = (Block(width, width, emb, dropout, site) for site in sites)
        self.norm = GroupNorm(width)
        self.attention = SelfAttention(width, math.gcd(max(width // HEAD, 1), width))
        zero(self.attention.out)

    def forward(self, h: Tensor, emb: Tensor, keep: Tensor | None, masks: Masks | None) -> Tensor:
        h = self.before(h, emb, keep, masks)
        tokens = self.norm(h, keep).transpose(1, 2).contiguous()
        h = h + self.attention(tokens, None if keep is None else keep[:, 0]).transpose(1, 2)
        return self.after(h, emb, keep, masks)


class UNet1d(nn.Module):
    """The network. forward(x `[B, C, L]`, noise_label `[B]`, cond, masks) -> like x.

    cond: labels `[B]` int64 (-1 is no label: its embedding is 0), features `[B, ...]`, or a dict of
    "label", "features" and "mask". Where the mask is False x counts as 0, which the network sees,
    and places without any value as lying beyond the ends: more padding behind changes nothing. Any
    L: an odd one is halved to the next number up. A fresh network gives 0.
    """

    places: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        features: int = 0,
        *,
        width: int,
        mult: Sequence[int],
        blocks: int,
        patch: int,
        dropout: float,
    ) -> None:
        super().__init__()
        require(len(shape) == 2, "shape", shape, "series (channels, length)")
        require(width > 3, "width", width, "at least 4 channels")
        require(bool(mult) and min(mult) > 0, "mult", mult, "a positive factor for each resolution")
        require(blocks > 0, "blocks", blocks, "at least 1 block")
        require(patch > 0, "patch", patch, "a length above 0")
        self.patch = min(patch, shape[1])
        self.dropout = probability(dropout)
        channels = shape[0] * self.patch
        widths = [width * m for m in mult]
        emb = 4 * width
        sites = count()

        def level(cin: int, cout: int) -> Level:
            inputs = [cin, *[cout] * (blocks - 1)]
            return Level(Block(n, cout, emb, dropout, next(sites)) for n in inputs)

        table = positions([math.ceil(shape[1] / self.patch)], POSITIONS).t().contiguous()
        self.register_buffer("places", table, persistent=False)
        self.embedding = Embedding(classes, emb, features)
        self.inlet = Conv(2 * channels + POSITIONS, width, 3)
        steps = list(pairwise(widths))
        self.down = nn.ModuleList(level(top, top) for top, _ in steps)
        self.shrink = nn.ModuleList(Conv(top, low, 3, stride=2) for top, low in steps)
        self.middle = Middle(widths[-1], emb, dropout, (next(sites), next(sites)))
        self.grow = nn.ModuleList(Conv(low, top, 3) for top, low in reversed(steps))
        self.up = nn.ModuleList(level(2 * top, top) for top, _ in reversed(steps))
        self.norm = GroupNorm(width)
        self.outlet = Conv(width, channels, 3)
        self.gain = nn.Linear(emb, shape[0])
        zero(self.outlet)
        zero(self.gain)

    def masks(self, rows: int, seeds: Sequence[int]) -> Masks | None:
        """The masks of a batch, one layer per block; None without dropout."""
        return masks_for(rows, seeds, self.dropout)

    def forward(
        self, x: Tensor, noise_label: Tensor, cond: Any = None, masks: Masks | None = None
    ) -> Tensor:
        emb = self.embedding(noise_label, cond)
        x = apply_mask(x, cond)
        mask = mask_of(x, cond)

        # Patches.
        keep = None
        presence = torch.ones_like(x)
        if mask is not None:
            presence = mask.expand_as(x).to(x.dtype)
            keep = to_patches(presence, self.patch).any(1, keepdim=True)
        h = to_patches(torch.cat([x, presence], 1), self.patch)
        h = torch.cat([h, self.places.to(h.dtype).expand(len(h), -1, -1)], 1)
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
            h = grow(h.repeat_interleave(2, -1)[..., : skip.shape[-1]], keep)
            h = level(torch.cat([h, skip], 1), emb, keep, masks)
        h = self.outlet(silu(self.norm(h, keep)), keep)
        return from_patches(h, self.patch, x.shape[-1]) + self.gain(emb)[:, :, None] * x
