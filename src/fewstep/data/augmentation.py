"""Pictures mirrored and moved, by uniforms of each sample alone.

Source: Elucidating the Design Space of Diffusion-Based Generative Models (arXiv 2206.00364),
appendix F.2 and table 6. With the chance p each: mirrored upside down, scaled, turned, stretched
along a random axis, shifted; left and right are exchanged in half of all samples. The network is
told by nine numbers, which are 0 where nothing was done, as for samples:

| numbers | |
|---|---|
| 0, 1 | 1 where left and right, or top and bottom, are exchanged |
| 2 | log2 of the scale, over 0.2 |
| 3, 4 | cos w - 1 and sin w of the angle w |
| 5, 6 | log2 of the stretch, over 0.2, times cosine and sine of its axis |
| 7, 8 | the shift over an eighth of the picture |

Pictures go on beyond their edges as in a mirror. They are interpolated at twice their resolution,
with the orthogonal wavelet sym6 on the way there and back, so that a move by nothing changes
nothing; since sym6 is not symmetric, what is turned lies up to a fifth of a pixel off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import (
    affine_grid,
    conv2d,
    conv_transpose2d,
    grid_sample,
    pad,
)

from fewstep.base.conditions import Cond

LABELS = 9
COLUMNS = 14  # uniforms of a sample
_SCALE, _SHIFT = 0.2, 0.125
# The low-pass filter of the symlet of order 6, whose squares sum to 1.
_SYM6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)
_TAPS = len(_SYM6)
_DELAY = 5  # of the filter's middle, in half pixels


def change(x: Tensor, cond: Cond, u: Tensor, flip: bool, p: float) -> tuple[Tensor, Cond]:
    """The pictures as a network is to see them in training, and what it is told of them.

    u `[B, 14]`: uniforms of each sample. flip: left and right are exchanged in half of them. p: the
    chance of each other change, which then holds the exchange too; 0 makes none.
    """
    if p:
        x, labels = augment(x, u, p)
        return x, {**as_parts(cond), "augment": labels}
    return (mirror(x, u[:, 0] < 0.5), cond) if flip else (x, cond)


def as_parts(cond: Cond) -> Mapping[str, Cond]:
    """A condition by the names of its parts."""
    if isinstance(cond, Mapping) or cond is None:
        return cond or {}
    return {"features" if cond.is_floating_point() else "label": cond}


def mirror(x: Tensor, where: Tensor) -> Tensor:
    """Pictures `[B, C, H, W]` with left and right exchanged in the rows where `where [B]`."""
    return torch.where(where[:, None, None, None], x.flip(3), x)


def augment(x: Tensor, u: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """The pictures `[B, C, S, S]` moved, and what was done `[B, 9]`, by uniforms u `[B, 14]`."""
    normals = torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12))
    zero = torch.zeros(len(u), dtype=u.dtype)

    def by_chance(column: int, value: Tensor, chance: float = p) -> Tensor:
        return torch.where(u[:, column] < chance, value, zero)

    left = (u[:, 0] < 0.5).to(u.dtype)
    top = by_chance(1, (u[:, 2] < 0.5).to(u.dtype))
    scale = by_chance(3, normals[:, 4])
    angle = by_chance(5, math.pi * (2 * u[:, 6] - 1))
    stretch = by_chance(7, normals[:, 8])
    axis = torch.where(stretch == 0, zero, by_chance(9, math.pi * (2 * u[:, 10] - 1), 0.5))
    shift = torch.stack([by_chance(11, normals[:, 12]), by_chance(11, normals[:, 13])], 1)
    x = mirror(x, left > 0)
    x = torch.where((top > 0)[:, None, None, None], x.flip(2), x)
    # From a place of the result to the place in the picture that is seen there.
    ratio = (_SCALE * stretch).exp2()
    stretching = torch.diag_embed(torch.stack([1 / ratio, ratio], 1))
    place = turn(angle) / (_SCALE * scale).exp2()[:, None, None]
    place = place @ turn(-axis) @ stretching @ turn(axis)
    offset = -(place @ (2 * _SHIFT * shift)[:, :, None])  # in halves of a picture
    matrix = torch.cat([place, offset], 2)
    still = torch.eye(2, 3, dtype=u.dtype)
    rows = (matrix != still).flatten(1).any(1).nonzero().flatten()
    if len(rows):
        x = x.index_copy(0, rows, move(x[rows], matrix[rows].to(x.dtype)))
    turns = (angle.cos() - 1, angle.sin(), stretch * axis.cos(), stretch * axis.sin())
    labels = torch.stack((left, top, scale, *turns, shift[:, 0], shift[:, 1]), 1)
    return x, labels.to(x.dtype)


def turn(angle: Tensor) -> Tensor:
    """The matrices `[B, 2, 2]` of a rotation."""
    rows = (angle.cos(), -angle.sin(), angle.sin(), angle.cos())
    return torch.stack(rows, 1).reshape(-1, 2, 2)


def move(x: Tensor, matrix: Tensor) -> Tensor:
    """What is seen of x `[B, C, S, S]` at the places matrix `[B, 2, 3]` @ (x, y, 1).

    Places are in halves of the picture from its middle.
    """
    side = x.shape[2]
    edge = side - 1  # as far as a mirror reaches
    fine = _finer(pad(x, (edge, edge, edge, edge), mode="reflect"))
    # The same places in halves of the larger picture, at twice the resolution and a rim for the
    # filter on the way back.
    own, rim = 2 * side, _TAPS
    out = own + 2 * rim
    ratio = side / (side + 2 * edge)
    scale = torch.tensor([[out / own, out / own, 1.0]], dtype=matrix.dtype)
    places = affine_grid(ratio * matrix * scale, [len(x), 1, out, out], align_corners=False)
    values = grid_sample(fine, places, padding_mode="zeros", align_corners=False)
    return _coarser(values, rim)[:, :, :side, :side]


def _kernel(x: Tensor, gain: float) -> Tensor:
    """The filter along both axes, one for each channel."""
    taps = gain * torch.tensor(_SYM6, dtype=x.dtype) / math.sqrt(2)
    return (taps[:, None] * taps).expand(x.shape[1], 1, -1, -1)


def _finer(x: Tensor) -> Tensor:
    """Twice as many pixels along each axis; a pixel's middle stays where it was."""
    kernel, own = _kernel(x, 2.0), slice(_DELAY, None)
    y = conv_transpose2d(x, kernel, stride=2, groups=x.shape[1])[:, :, own, own]
    return y[:, :, : 2 * x.shape[2], : 2 * x.shape[3]]


def _coarser(x: Tensor, rim: int) -> Tensor:
    """Half as many pixels, without a rim that many pixels wide before."""
    own = slice(rim - _DELAY, None)
    return conv2d(x[:, :, own, own], _kernel(x, 1.0), stride=2, groups=x.shape[1])
