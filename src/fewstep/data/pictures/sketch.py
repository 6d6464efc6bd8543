"""PNG by Pillow alone, without axes: pictures as tiles, the plane as dots, others as curves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

_SIDE = 640  # pixels of a grid, about
CURVES = 16  # of a grid of curves
_PAPER, _INK, _FRAME = 255, 40, 215


def is_tiles(x: Tensor) -> bool:
    """Whether samples `[N, C, H, W]` can be drawn as pictures, grey or in colours."""
    return x.ndim == 4 and x.shape[1] in (1, 3)


def save(path: Path | IO[bytes], x: Tensor, columns: int | None = None) -> None:
    """Writes samples `[N, ...]` in the model's range as one PNG.

    The range is about [-1, 1] for tiles, any for the rest.
    """
    if is_tiles(x):
        picture = _tiles(x, columns or math.ceil(math.sqrt(len(x))))
    else:
        sketch = {1: _histogram, 2: _dots}.get(x[0].numel(), _curves)
        picture = sketch(x.flatten(1).double().cpu().numpy())
    picture.save(path, "PNG")


def pixels(x: Tensor) -> np.ndarray:
    """Bytes `[N, H, W, C]` of pictures `[N, C, H, W]` in [-1, 1]."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _tiles(x: Tensor, columns: int) -> Image.Image:
    n, _, height, width = x.shape
    zoom = max(1, _SIDE // (columns * (width + 1)))
    lines = -(-n // columns)
    size = (lines * (height * zoom + zoom), columns * (width * zoom + zoom), 3)
    sheet = np.full(size, _PAPER, np.uint8)
    for number, tile in enumerate(pixels(x)):
        top = (number // columns) * (height + 1) * zoom
        left = (number % columns) * (width + 1) * zoom
        big = tile.repeat(zoom, 0).repeat(zoom, 1)
        sheet[top : top + height * zoom, left : left + width * zoom] = big
    return Image.fromarray(sheet[:-zoom, :-zoom])


def _unit(x: np.ndarray) -> np.ndarray:
    """x shifted and scaled as a whole to [-0.9, 0.9]. Raises ValueError where it is not finite."""
    low = float(x.min())
    high = float(x.max())
    if not math.isfinite(high - low):
        raise ValueError("the samples hold NaN or infinity")
    return 1.8 * (x - (low + high) / 2) / ((high - low) or 1.0)


def _dots(x: np.ndarray) -> Image.Image:
    where = ((_unit(x) + 1) / 2 * (_SIDE - 1)).round().astype(int)
    counts = np.zeros((_SIDE, _SIDE))
    np.add.at(counts, (_SIDE - 1 - where[:, 1], where[:, 0]), 1.0)
    for axis in (0, 1):  # dots of 3x3 pixels
        counts = counts + np.roll(counts, 1, axis) + np.roll(counts, -1, axis)
    grey = _PAPER - (_PAPER - _INK) * np.minimum(counts, 3.0) / 3.0
    return Image.fromarray(grey.astype(np.uint8))


def _histogram(x: np.ndarray) -> Image.Image:
    heights = np.histogram(_unit(x), bins=64, range=(-1, 1))[0]
    sheet = Image.new("L", (_SIDE, _SIDE // 2), _PAPER)
    wide = _SIDE // 64
    draw = ImageDraw.Draw(sheet)
    for number, height in enumerate(heights / max(heights.max(), 1)):
        top = (1 - 0.9 * height) * _SIDE // 2
        draw.rectangle((number * wide, top, number * wide + wide - 2, _SIDE // 2), fill=_INK)
    return sheet


def _curves(x: np.ndarray) -> Image.Image:
    flat = _unit(x[:CURVES])
    tile = _SIDE // 4
    sheet = Image.new("L", (_SIDE, tile * -(-len(flat) // 4)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, curve in enumerate(flat):
        left = number % 4 * tile
        top = number // 4 * tile
        draw.rectangle((left, top, left + tile - 1, top + tile - 1), outline=_FRAME)
        across = left + 4 + np.linspace(0, tile - 9, len(curve))
        up = top + tile / 2 - curve * (tile / 2)
        draw.line(list(zip(across.tolist(), up.tolist(), strict=True)), fill=_INK)
    return sheet
