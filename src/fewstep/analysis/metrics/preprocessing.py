"""The preprocessing of samples for an extractor: features depend on it, so it is recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from fewstep.base.errors import UserError, require, unknown

_RESIZES = {
    "none": None,
    # torch's, with pixel centres at half places and no smoothing when it shrinks
    "bilinear": None,
    # Pillow's, of 8-bit pictures
    "pillow-bilinear": Image.Resampling.BILINEAR,
    "pillow-bicubic": Image.Resampling.BICUBIC,
}
# The type in JSON, and what a message says of it.
_FIELDS: dict[str, tuple[type, str]] = {
    "range": (list, "[low, high]"),
    "levels": (int, "a whole number such as 256"),
    "channels": (int, "a whole number such as 3"),
    "size": (int, "a whole number such as 224"),
    "resize": (str, "the name of a rule"),
    "mean": (list, "a number for each channel"),
    "std": (list, "a number for each channel"),
}


@dataclass(frozen=True)
class Input:
    """The preprocessing of samples in [-1, 1]; None leaves a step out.

    Grey is repeated to `channels`; values are rounded to `levels` (256: as a picture file would),
    resized to size x size, mapped to `range`, and normalised as (x - mean) / std for each channel.
    """

    range: tuple[float, float] | None = None
    levels: int | None = None
    channels: int | None = None
    size: int | None = None
    resize: str = "none"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.resize not in _RESIZES:
            raise unknown("resize", self.resize, _RESIZES)
        has_both = (self.resize == "none") == (self.size is None)
        require(has_both, "size", self.size, "a size and a resize rule, or neither")
        has_8_bits = self.levels == 256 or not self.resize.startswith("pillow")
        require(has_8_bits, "levels", self.levels, f"256, which {self.resize} works on")
        rises = self.range is None or self.range[0] < self.range[1]
        require(rises, "range", self.range, "low < high")
        has_both = (self.mean is None) == (self.std is None)
        require(has_both, "std", self.std, "both mean and std, or neither")

    def __call__(self, x: Tensor) -> Tensor:
        """The network's input from samples `[N, ...]`; UserError where they do not fit."""
        if self.range is not None or self.levels is not None:
            low, high = x.min().item(), x.max().item()
            if low < -1 or high > 1:
                raise UserError(
                    f"samples between {low:.3g} and {high:.3g}: this extractor takes pictures in"
                    " [-1, 1]"
                )
        x = self._with_channels(x)
        x = self._resize(self._round(x.float()))
        if self.range is not None:
            low, high = self.range
            x = low + (x + 1) * ((high - low) / 2)
        if self.mean is not None and self.std is not None:
            mean = torch.tensor(self.mean)[:, None, None]
            std = torch.tensor(self.std)[:, None, None]
            x = (x - mean) / std
        return x

    def _with_channels(self, x: Tensor) -> Tensor:
        if x.ndim != 4 and any(rule is not None for rule in (self.channels, self.size, self.mean)):
            raise UserError(
                f"samples of shape {tuple(x.shape[1:])}: this extractor takes pictures [C, H, W]"
            )
        if self.channels is None or self.channels == x.shape[1]:
            return x
        if x.shape[1] != 1:
            raise UserError(
                f"samples of shape {tuple(x.shape[1:])}: this extractor takes [{self.channels},"
                " H, W]"
            )
        return x.expand(-1, self.channels, -1, -1)

    def _round(self, x: Tensor) -> Tensor:
        if self.levels is None:
            return x
        half = (self.levels - 1) / 2
        return (x.clamp(-1, 1) + 1).mul(half).round() / half - 1

    def _resize(self, x: Tensor) -> Tensor:
        if self.size is None:
            return x
        rule = _RESIZES[self.resize]
        square = (self.size, self.size)
        if rule is None:
            return self._round(interpolate(x, size=square, mode="bilinear", align_corners=False))
        planes = x.add(1).mul(127.5).round().to(torch.uint8).flatten(0, 1).numpy()
        pictures = [Image.fromarray(plane).resize(square, rule) for plane in planes]
        x_8_bits = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
        return x_8_bits.float().div(127.5).sub(1).unflatten(0, x.shape[:2])

    @staticmethod
    def from_json(declaration: Mapping[str, Any], where: str) -> Input:
        """The `Input` of a JSON object's fields; a UserError names what does not fit."""
        fields: dict[str, Any] = {}
        for key, value in declaration.items():
            if key not in _FIELDS:
                raise unknown(f"key of {where}", key, [*_FIELDS, "output", "name", "sha256"])
            kind, meaning = _FIELDS[key]
            has_numbers = type(value) is not list or all(type(v) in (int, float) for v in value)
            require(type(value) is kind and has_numbers, f"{where}: {key}", value, meaning)
            require(key != "range" or len(value) == 2, f"{where}: {key}", value, meaning)
            fields[key] = tuple(value) if type(value) is list else value
        return Input(**fields)
