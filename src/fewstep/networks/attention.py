"""Attention and norms whose values and derivatives are right, under a jvp as outside of one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention


def has_tangent(*parts: Tensor) -> bool:
    """Whether a jvp is running through any of the tensors."""
    return any(forward_ad.unpack_dual(part).tangent is not None for part in parts)


def written_out(*parts: Tensor) -> AbstractContextManager[None]:
    """Inside, torch's own attention is written out if a jvp runs: its fused kernels have none."""
    return sdpa_kernel(SDPBackend.MATH) if has_tangent(*parts) else nullcontext()


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """float32 for the half-precision types, any other as it is."""
    return torch.promote_types(dtype, torch.float32)


def attend(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of `[B, heads, tokens, d]`.

    keep: bool, broadcasts to `[B, heads, queries, keys]`, False at keys that a query does not see.
    A query that would see none sees all, so that no output is NaN. Written out under a jvp, since
    fused kernels have none.
    """
    if keep is not None:
        keep = keep | ~keep.any(-1, keepdim=True)
    if not has_tangent(q, k, v):
        return scaled_dot_product_attention(q, k, v, keep)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if keep is not None:
        scores = scores.masked_fill(~keep, -torch.inf)
    return torch.softmax(scores, -1, dtype=at_least_float32(q.dtype)).to(v.dtype) @ v


def attend_pixels(qkv: Tensor, heads: int) -> Tensor:
    """`attend` over pixels, `[B, 3 C, H, W] -> [B, C, H, W]`.

    Channels are (head, dim, q|k|v), as EDM's.
    """
    rows, channels, *sides = qkv.shape
    parts = qkv.reshape(rows, heads, channels // heads // 3, 3, -1)
    # Contiguous, since other layouts leave the fast path.
    q, k, v = parts.permute(3, 0, 1, 4, 2).contiguous().unbind()
    return attend(q, k, v).transpose(2, 3).reshape(rows, channels // 3, *sides)


class GroupNorm(nn.GroupNorm):
    """torch's, whose derivative under a jvp needs contiguous inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous() if has_tangent(x) else x)


class LayerNorm(nn.LayerNorm):
    """torch's over the last axis; written out under a jvp, whose gradient its kernel gets wrong."""

    def __init__(self, width: int, affine: bool = True) -> None:
        super().__init__(width, elementwise_affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        if not has_tangent(x):
            return super().forward(x)
        exact = x.to(at_least_float32(x.dtype))
        deviation = exact - exact.mean(-1, keepdim=True)
        variance = deviation.square().mean(-1, keepdim=True)
        h = (deviation * (variance + self.eps).rsqrt()).to(x.dtype)
        if self.elementwise_affine:
            h = torch.addcmul(self.bias, h, self.weight)
        return h


def make_derivable(network: nn.Module) -> None:
    """Puts these norms in place of torch's in somebody's network: equal, with true derivatives."""
    for module in network.modules():
        if type(module) is nn.GroupNorm:
            module.__class__ = GroupNorm
        elif type(module) is nn.LayerNorm and len(module.normalized_shape) == 1:
            module.__class__ = LayerNorm
