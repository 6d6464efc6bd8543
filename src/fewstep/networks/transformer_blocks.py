"""What transformers share: attention, positions, the embedding of noise label and class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from fewstep.base.errors import require
from fewstep.networks.attention import LayerNorm, attend
from fewstep.networks.embedding import (
    NoiseFeatures,
    features_fit,
    labels_fit,
    one_hot,
    parts_of,
)

MOST_POSITIONS = 2**26  # numbers of a table of positions: 256 MiB


def levels_fit(shape: Sequence[int], widths: Sequence[int]) -> None:
    """Checks that images can be halved from level to level. Raises UserError."""
    positive = len(widths) > 0 and min(widths) > 0
    require(positive, "mult", tuple(widths), "channels above 0 at each level")
    factor = 2 ** (len(widths) - 1)
    fits = len(shape) == 3 and not any(side % factor for side in shape[1:])
    need = (
        f"(channels, height, width), both sides divisible by {factor} for the {len(widths)} levels"
        " of mult: dit takes any shape, --data-size N crops and resizes pictures of files"
    )
    require(fits, "shape", shape, need)


def positions(grid: Sequence[int], width: int) -> Tensor:
    """`[tokens, width]`: sin and cos of each axis's index at frequencies 1 .. 1e-4.

    Channels that are left over are 0.
    """
    n = width // (2 * len(grid))
    need = f"at least {2 * len(grid)} channels for {len(grid)} axes of positions"
    require(n > 0, "width", width, need)
    size = width * math.prod(grid)
    require(size <= MOST_POSITIONS, "table of positions", size, f"at most {MOST_POSITIONS} numbers")
    frequencies = torch.logspace(0, -4, n + 1)[:-1]
    sides = [torch.arange(size, dtype=torch.float32) for size in grid]
    waves: list[Tensor] = []
    for index in torch.meshgrid(*sides, indexing="ij"):
        angle = index.reshape(-1, 1) * frequencies
        waves += [angle.sin(), angle.cos()]
    table = torch.cat(waves, 1)
    return pad(table, (0, width - table.shape[1]))


class Embedding(nn.Module):
    """MLP(waves of the noise label) + row of the class + MLP(features), `[B] -> [B, width]`.

    Label -1 adds 0. The features' MLP is that of the pooled vector of SD3 (arXiv 2403.03206). The
    network adds what its end gives, then takes the silu.
    cond: labels `[B]`, features `[B, ...]`, or a dict of them.
    """

    def __init__(self, classes: int, width: int, features: int = 0, *, waves: int = 256) -> None:
        super().__init__()
        self.classes = classes
        self.features = features
        self.noise = NoiseFeatures(waves // 2)
        self.inner = nn.Linear(waves, width)
        self.outer = nn.Linear(width, width)
        self.label = nn.Parameter(torch.empty(classes, width)) if classes else None
        if self.label is not None:
            nn.init.normal_(self.label, std=0.02)
        self.given: nn.Module | None = None
        if features:
            self.given = nn.Sequential(
                nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width)
            )

    def forward(self, noise_label: Tensor, cond: Any) -> Tensor:
        label, features, _ = parts_of(cond)
        labels_fit(self.classes, label)
        features_fit(self.features, features)
        waves = self.noise(noise_label).to(self.inner.weight.dtype)
        emb = self.outer(silu(self.inner(waves)))
        if self.label is not None and label is not None:
            emb = emb + one_hot(label, self.classes, emb.dtype) @ self.label
        if self.given is not None and features is not None:
            emb = emb + self.given(features.to(emb.dtype))
        return emb


class SelfAttention(nn.Module):
    """Attention over tokens `[B, tokens, width]`; q and k are normalised over a head's channels.

    Without that norm the logits of wide transformers grow until the softmax has no gradient
    (arXiv 2302.05442).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        fits = heads > 0 and width % heads == 0
        require(fits, "heads", heads, f"a divisor of the {width} channels")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q = LayerNorm(width // heads)
        self.norm_k = LayerNorm(width // heads)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor, keep: Tensor | None = None) -> Tensor:
        """keep: bool `[B, tokens]`, False at tokens that none attends to."""
        split = self.qkv(h).reshape(*h.shape[:2], 3, self.heads, -1)
        q, k, v = split.permute(2, 0, 3, 1, 4).contiguous().unbind(0)
        keys = None if keep is None else keep[:, None, None]
        out = attend(self.norm_q(q), self.norm_k(k), v, keys)
        return self.out(out.transpose(1, 2).reshape(h.shape))


def zero(layer: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) -> None:
    """Makes a layer start as the zero map."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
