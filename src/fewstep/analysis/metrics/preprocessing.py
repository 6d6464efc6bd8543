"""What becomes of samples before an extractor sees them: declared, since features depend on it, and
recorded.
"""

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
    # torch's, between pixels that lie at half places, not smoothed when it shrinks
    "bilinear": None,
    "pillow-bilinear": Image.Resampling.BILINEAR,  # Pillow's, of 8-bit pictures
    "pillow-bicubic": Image.Resampling.BICUBIC,
}
_EXPECTED: dict[str, tuple[type, str]] = {
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
    """What becomes of samples, whose range is [-1, 1], before they enter; as given here where it is
    not None.

    Rounded to `levels` (256: as a picture file would), grey repeated to `channels`, resized to size
    x size, mapped to `range`, and normalised as (x - mean) / std for each channel.
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
        require(
            (self.resize == "none") == (self.size is None),
            "size",
            self.size,
            "a size and a resize rule, or neither",
        )
        eight = self.levels == 256 or not self.resize.startswith("pillow")
        require(eight, "levels", self.levels, f"256, which {self.resize} works on")
        require(
            self.range is None or self.range[0] < self.range[1], "range", self.range, "low < high"
        )
        require(
            (self.mean is None) == (self.std is None),
            "std",
            self.std,
            "both mean and std, or neither",
        )

    def __call__(self, x: Tensor) -> Tensor:
        """What enters the network, of samples `[N, ...]`; raises UserError on samples that are no
        such pictures.
        """
        if self.range is not None or self.levels is not None:
            low, high = x.min().item(), x.max().item()
            if low < -1 or high > 1:
                raise UserError(
                    f"samples between {low:.3g} and {high:.3g}: this extractor takes pictures in"
                    " [-1, 1]"
                )
        x = self._coloured(x)
        x = self._resized(self._rounded(x.float()))
        if self.range is not None:
            low, high = self.range
            x = low + (x + 1) * ((high - low) / 2)
        if self.mean is not None and self.std is not None:
            mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
            x = (x - mean) / std
        return x

    def _coloured(self, x: Tensor) -> Tensor:
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

    def _rounded(self, x: Tensor) -> Tensor:
        if self.levels is None:
            return x
        half = (self.levels - 1) / 2
        return (x.clamp(-1, 1) + 1).mul(half).round() / half - 1

    def _resized(self, x: Tensor) -> Tensor:
        if self.size is None:
            return x
        rule, square = _RESIZES[self.resize], (self.size, self.size)
        if rule is None:
            return self._rounded(interpolate(x, size=square, mode="bilinear", align_corners=False))
        planes = x.add(1).mul(127.5).round().to(torch.uint8).flatten(0, 1).numpy()
        resized = np.stack(
            [np.asarray(Image.fromarray(plane).resize(square, rule)) for plane in planes]
        )
        return torch.from_numpy(resized).float().div(127.5).sub(1).unflatten(0, x.shape[:2])

    @staticmethod
    def from_json(told: Mapping[str, Any], where: str) -> Input:
        """The `Input` of a JSON object's fields; a UserError names what does not fit."""
        for key, value in told.items():
            if key not in _EXPECTED:
                raise unknown(f"key of {where}", key, [*_EXPECTED, "output", "name", "sha256"])
            kind, expected = _EXPECTED[key]
            numbers = not isinstance(value, list) or all(type(v) in (int, float) for v in value)
            require(type(value) is kind and numbers, f"{where}: {key}", value, expected)
            require(key != "range" or len(value) == 2, f"{where}: {key}", value, expected)
        given: dict[str, Any] = {
            key: tuple(value) if type(value) is list else value for key, value in told.items()
        }
        return Input(**given)
