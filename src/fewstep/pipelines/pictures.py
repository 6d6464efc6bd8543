"""Pictures for an autoencoder: their size or bucket, the crop, and SDXL's micro-conditions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from fewstep.base.errors import require
from fewstep.data.decoding import plain

LEAST_AREA = 0.9  # of size^2, that SDXL's buckets have
WIDEST = 2.0  # ratio of sides

Bucket = tuple[int, int]  # height, width


class Picture(NamedTuple):
    """A picture as it is encoded, and where it comes from, in pixels."""

    pixels: np.ndarray  # [3, H, W], bytes
    original: tuple[int, int]  # height, width
    corner: tuple[int, int]  # top, left: what was cropped of the picture of this scale

    @property
    def micro(self) -> tuple[int, ...]:
        """SDXL's micro-conditions: original size, corner of the crop, size; arXiv 2307.01952."""
        return (*self.original, *self.corner, *self.pixels.shape[1:])


def sdxl_buckets(size: int, step: int = 64) -> list[Bucket]:
    """(height, width) of SDXL's multi-aspect training, arXiv 2307.01952, appendix I.

    Sides are multiples of `step`, areas 0.9 .. 1 times size^2, ratios of sides 0.5 .. 2; for 1024
    the paper's list without its wider ones. Raises UserError where there is none.
    """
    sides = range(step, math.isqrt(int(WIDEST * size * size)) + 1, step)
    result = [
        (height, width)
        for height in sides
        for width in sides
        if LEAST_AREA * size**2 <= height * width <= size**2
        and 1 / WIDEST <= height / width <= WIDEST
    ]
    require(bool(result), "size", size, f"a size that multiples of {step} come near to")
    return result


def nearest(buckets: Sequence[Bucket], height: int, width: int) -> Bucket:
    """The bucket whose ratio of sides is nearest to a picture's: the larger of two."""

    def distance(bucket: Bucket) -> tuple[float, int]:
        ratio = bucket[0] * width / (bucket[1] * height)
        return abs(math.log(ratio)), -bucket[0] * bucket[1]

    return min(buckets, key=distance)


def fit(place: str, picture: Image.Image, buckets: Sequence[Bucket]) -> Picture:
    """The middle of a picture in its nearest bucket, resized (Lanczos), as RGB.

    place: for messages. Raises UserError for what has no known range.
    """
    height, width = nearest(buckets, picture.height, picture.width)
    scale = max(height / picture.height, width / picture.width)
    top = max(0.0, (picture.height - height / scale) / 2)
    left = max(0.0, (picture.width - width / scale) / 2)
    box = (left, top, picture.width - left, picture.height - top)
    result = _rgb(place, picture).resize((width, height), Image.Resampling.LANCZOS, box)
    corner = round(top * scale), round(left * scale)
    return Picture(np.asarray(result).transpose(2, 0, 1), (picture.height, picture.width), corner)


def _rgb(place: str, picture: Image.Image) -> Image.Image:
    result = plain(place, picture)
    if result.mode == "F":  # 0 .. 65535
        result = Image.fromarray((np.asarray(result) / 257).round().astype(np.uint8))
    return result.convert("RGB")
