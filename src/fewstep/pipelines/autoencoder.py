"""Pictures as the moments of a pipeline's latents."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from fewstep.base.errors import UserError
from fewstep.data.entries import Files
from fewstep.data.gathering import decode_all
from fewstep.pipelines.folder import Folder
from fewstep.pipelines.pictures import Bucket, Picture, fit
from fewstep.pipelines.records import pack


def has_micro(folder: Folder) -> bool:
    """Whether the network takes SDXL's micro-conditions."""
    return folder.config.get("addition_embed_type") == "text_time"


@dataclass(frozen=True)
class Encoder:
    """Pictures as moments of latents, in the network's units."""

    folder: Folder
    sizes: Sequence[Bucket]
    has_buckets: bool
    vae: Any

    def blocks(
        self, path: Path, files: Files, names: list[str], batch: int, first: int
    ) -> Iterator[np.ndarray]:
        """Records of consecutive pictures from one on. Raises UserError for a bad one."""
        convert = partial(fit, buckets=self.sizes)
        for outcomes in decode_all(path, files, names[first:], convert, batch):
            errors = [one.error for one in outcomes if one.error]
            if errors:
                raise UserError(errors[0])
            yield self.records([one.row for one in outcomes])

    def records(self, pictures: list[Picture]) -> np.ndarray:
        """The records of a batch; those of one size are encoded together."""
        moments: list[Any] = [None] * len(pictures)
        shapes = [one.pixels.shape for one in pictures]
        for shape in dict.fromkeys(shapes):
            places = [place for place, own in enumerate(shapes) if own == shape]
            pixels = torch.from_numpy(np.stack([pictures[place].pixels for place in places]))
            for place, row in zip(places, self.moments(pixels), strict=True):
                moments[place] = row
        parts: dict[str, Any] = {}
        if has_micro(self.folder):
            parts["micro"] = np.array([one.micro for one in pictures])
        if not self.has_buckets:
            return pack({"x0": torch.stack(moments), **parts})
        most = max(height * width for height, width in self.sizes) // self.folder.factor**2
        parts["size"] = np.array([row.shape[1:] for row in moments])
        parts["mask"] = np.arange(most) < parts["size"].prod(1)[:, None, None]
        rows = [row.flatten(1) for row in moments]
        x0 = torch.stack([pad(row, (0, most - row.shape[1])) for row in rows])
        return pack({"x0": x0, **parts})

    def moments(self, pixels: Tensor) -> Tensor:
        """Bytes `[B, 3, H, W]` -> means and log-variances `[B, 2 C, h, w]`."""
        place = next(self.vae.parameters()).device
        law = self.vae.encode(pixels.to(place).float() / 127.5 - 1).latent_dist
        mean = (law.mean - self.folder.shift) * self.folder.scale
        return torch.cat([mean, law.logvar + 2 * math.log(self.folder.scale)], 1).cpu()
