"""Patches of neighbours along any number of axes: how many, and the way there and back."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import pad

from fewstep.base.errors import require


def grid_of(axes: Sequence[int], patch: Sequence[int]) -> list[int]:
    """How many patches cover each axis; the last one may reach beyond its end."""
    return [-(-size // length) for size, length in zip(axes, patch, strict=True)]


def patchify(x: Tensor, patch: Sequence[int]) -> Tensor:
    """`[B, C, *axes] -> [B, tokens, C pixels]`: tokens and their pixels by the axes' order.

    patch: its length along each axis. Beyond the end of an axis stand zeros.
    """
    grid = grid_of(x.shape[2:], patch)
    n = len(grid)
    ends = [-size % length for size, length in zip(x.shape[2:], patch, strict=True)]
    if any(ends):
        x = pad(x, [part for end in reversed(ends) for part in (0, end)])
    pairs = (part for sizes in zip(grid, patch, strict=True) for part in sizes)
    split = x.reshape(*x.shape[:2], *pairs)
    tokens = split.permute(0, *range(2, 2 * n + 2, 2), 1, *range(3, 2 * n + 3, 2))
    return tokens.reshape(x.shape[0], math.prod(grid), -1)


def unpatchify(tokens: Tensor, patch: Sequence[int], shape: Sequence[int]) -> Tensor:
    """The inverse of `patchify`: `[B, tokens, C pixels] -> [B, *shape]`."""
    channels, *axes = shape
    grid = grid_of(axes, patch)
    n = len(axes)
    split = tokens.reshape(tokens.shape[0], *grid, channels, *patch)
    pairs = (axis for i in range(n) for axis in (i + 1, i + n + 2))
    whole = [size * length for size, length in zip(grid, patch, strict=True)]
    x = split.permute(0, n + 1, *pairs).reshape(tokens.shape[0], channels, *whole)
    for axis, size in enumerate(axes, 2):
        x = x.narrow(axis, 0, size)
    return x


def patch_of(patch: int | Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    """The patch's length along each axis, none longer than the axis. Raises UserError."""
    lengths = [patch] * len(axes) if isinstance(patch, int) else list(patch)
    fits = len(lengths) == len(axes) and min(lengths) > 0
    names = ", ".join(map(str, axes))
    require(fits, "patch", patch, f"a length above 0, or one for each of the axes of {names}")
    return tuple(map(min, lengths, axes))
