"""What transformers share: attention, positions, the embedding of noise label and class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from fewstep.base.errors import require
from fewstep.networks.attention import LayerNorm, attend
from fewstep.networks.embedding import NoiseFeatures, labels_fit, one_hot

MOST_POSITIONS = 2**26  # numbers of a table of positions: 256 MiB


def levels_fit(shape: Sequence[int], widths: Sequence[int]) -> None:
    """Checks that images can be halved from level to level. Raises UserError."""
    positive = len(widths) > 0 and min(widths) > 0
    require(positive, "mult", tuple(widths), "channels above 0 at each level")
    halvings = 2 ** (len(widths) - 1)
    fits = len(shape) == 3 and not any(size % halvings for size in shape[1:])
    require(fits, "shape", shape, f"(channels, height, width), both sizes divisible by {halvings}")


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
    """silu(MLP(features of the noise label) + row of the class), `[B] -> [B, width]`.

    Label -1 adds 0.
    """

    def __init__(self, classes: int, width: int, features: int = 256) -> None:
        super().__init__()
        self.classes = classes
        self.features = NoiseFeatures(features // 2)
        self.inner = nn.Linear(features, width)
        self.outer = nn.Linear(width, width)
        self.label = nn.Parameter(torch.empty(classes, width)) if classes else None
        if self.label is not None:
            nn.init.normal_(self.label, std=0.02)

    def forward(self, noise_label: Tensor, cond: Tensor | None) -> Tensor:
        labels_fit(self.classes, cond)
        features = self.features(noise_label).to(self.inner.weight.dtype)
        emb = self.outer(silu(self.inner(features)))
        if self.label is not None and cond is not None:
            emb = emb + one_hot(cond, self.classes, emb.dtype) @ self.label
        return silu(emb)


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

    def forward(self, h: Tensor) -> Tensor:
        split = self.qkv(h).reshape(*h.shape[:2], 3, self.heads, -1)
        q, k, v = split.permute(2, 0, 3, 1, 4).contiguous().unbind(0)
        out = attend(self.norm_q(q), self.norm_k(k), v)
        return self.out(out.transpose(1, 2).reshape(h.shape))


def zero(layer: nn.Linear | nn.Conv2d) -> None:
    """Makes a layer start as the zero map."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
