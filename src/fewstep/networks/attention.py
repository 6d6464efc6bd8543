"""Attention over the pixels of feature maps, in a form that every kind of derivative passes."""

from __future__ import annotations

from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import scaled_dot_product_attention, softmax

from fewstep.networks.embedding import at_least_float32


def forward_mode() -> bool:
    """Whether a forward-mode derivative is being taken, as under torch.func.jvp."""
    return forward_ad._current_level >= 0


def attend(qkv: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(dim)) v of each head, `[B, 3 C, H, W] -> [B, C, H, W]`.

    Channels are (head, dim, q|k|v), as EDM's. PyTorch's fused kernels know no forward-mode derivative, so there
    the softmax is written out.
    """
    rows, channels, *sides = qkv.shape
    parts = qkv.reshape(rows, heads, channels // heads // 3, 3, -1)  # [B, heads, dim, q|k|v, pixels]
    if forward_mode():
        q, k, v = parts.unbind(3)
        share = q.transpose(2, 3) @ (k * q.shape[2] ** -0.5)
        share = softmax(share, 3, dtype=at_least_float32(share.dtype)).to(v.dtype)
        seen = v @ share.transpose(2, 3)
    else:
        q, k, v = parts.permute(3, 0, 1, 4, 2).contiguous().unbind()  # other layouts leave the fast path
        seen = scaled_dot_product_attention(q, k, v).transpose(2, 3)
    return seen.reshape(rows, channels // 3, *sides)
