"""What networks share that attend: attention, positions, the embedding of noise label and class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.functional import pad, scaled_dot_product_attention, silu

from fewstep.errors import UserError, require
from fewstep.networks.residual import NoiseFeatures


def has_tangent(*parts: Tensor) -> bool:
    """Whether a jvp is running through any of the tensors."""
    return any(forward_ad.unpack_dual(part).tangent is not None for part in parts)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of `[B, heads, tokens, d]`; written out under a jvp, which no fused kernel has."""
    if not has_tangent(q, k, v):
        return scaled_dot_product_attention(q, k, v)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    exact = torch.promote_types(q.dtype, torch.float32)
    return torch.softmax(scores, -1, dtype=exact).to(v.dtype) @ v


class LayerNorm(nn.LayerNorm):
    """torch's over the last axis; written out under a jvp, whose own gradient torch's kernel gets wrong."""

    def __init__(self, width: int, affine: bool = True) -> None:
        super().__init__(width, elementwise_affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        if not has_tangent(x):
            return super().forward(x)
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        centred = exact - exact.mean(-1, keepdim=True)
        h = (centred * (centred.square().mean(-1, keepdim=True) + self.eps).rsqrt()).to(x.dtype)
        return torch.addcmul(self.bias, h, self.weight) if self.elementwise_affine else h


def levels_fit(shape: Sequence[int], widths: Sequence[int]) -> None:
    """Images that halve as often as there are levels to go down; each mistake is a UserError."""
    require(len(widths) > 0 and min(widths) > 0, "mult", tuple(widths), "channels above 0 at each level")
    halvings = 2 ** (len(widths) - 1)
    fits = len(shape) == 3 and not any(size % halvings for size in shape[1:])
    require(fits, "shape", shape, f"(channels, height, width), both sizes divisible by {halvings}")


def labels_fit(classes: int, cond: Tensor | None) -> None:
    """A network with classes needs labels, one without takes none; each mistake is a UserError."""
    if (classes == 0) != (cond is None):
        need = f"needs labels, integers 0..{classes - 1} or -1 for none" if classes else "takes no labels"
        raise UserError(f"this network {need}: got cond={'None' if cond is None else 'labels'}")


def one_hot(cond: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Rows `[B, classes]` with a 1 at each label; label -1 takes the last row of the table, which is 0."""
    return torch.eye(classes + 1, classes, dtype=dtype, device=cond.device)[cond]


def positions(grid: Sequence[int], width: int) -> Tensor:
    """`[tokens, width]`: sin and cos of each axis's index at frequencies 1 .. 1e-4; channels left over are 0."""
    n = width // (2 * len(grid))
    require(n > 0, "width", width, f"at least {2 * len(grid)} channels for {len(grid)} axes of positions")
    frequencies = torch.logspace(0, -4, n + 1)[:-1]
    index = torch.meshgrid(*(torch.arange(size, dtype=torch.float32) for size in grid), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies for axis in index]
    table = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], 1)
    return pad(table, (0, width - table.shape[1]))


class Embedding(nn.Module):
    """silu(MLP(features of the noise label) + embedding of the class), `[B] -> [B, width]`; label -1 adds 0."""

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
        emb = self.outer(silu(self.inner(self.features(noise_label).to(self.inner.weight.dtype))))
        if self.label is not None and cond is not None:
            emb = emb + one_hot(cond, self.classes, emb.dtype) @ self.label
        return silu(emb)


class SelfAttention(nn.Module):
    """Attention over tokens `[B, tokens, width]`; q and k are normalised over the channels of a head.

    Without that norm the logits of wide transformers grow until the softmax has no gradient (arXiv 2302.05442).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        require(heads > 0 and width % heads == 0, "heads", heads, f"a divisor of the {width} channels")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q = LayerNorm(width // heads)
        self.norm_k = LayerNorm(width // heads)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        split = self.qkv(h).reshape(*h.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4).contiguous()
        q, k, v = split.unbind(0)
        mixed = attend(self.norm_q(q), self.norm_k(k), v)
        return self.out(mixed.transpose(1, 2).reshape(h.shape))


def zero(layer: nn.Linear | nn.Conv2d) -> None:
    """Makes a layer start as the zero map."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
