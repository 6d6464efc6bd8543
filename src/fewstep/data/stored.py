"""Rows that become the model's when they are taken: those of a file, and latents of moments."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.base import disk
from fewstep.base.cache import cache_file
from fewstep.base.errors import UserError
from fewstep.base.mapped import file_of, first_byte
from fewstep.data.archives import file_mark
from fewstep.data.latents import Law, draw, latent_shape, row_noise
from fewstep.data.units import BYTES, Units

AT_ONCE = 2**19  # numbers of a piece of rows: they stay in the processor's cache
MOST_NUMBERS = 2**27  # that samples in memory have: 0.5 GB in float32
RECORDS, FACTS = "records", "facts.json"  # files of a folder beside the data


@dataclass(frozen=True, eq=False)
class Stored:
    """Rows `[N, ...]` of a memory-mapped file: `stored[index]` is what a tensor of all would give.

    source: the file's rows as it has them `[M, ...]`. index: which of these, in order `[N]`. units:
    None leaves them as they are, as parts of a condition. mask: with axes like the source's, False
    where rows are 0. law: of latents, how the source holds their moments (`fewstep.data.latents`).
    """

    source: Tensor
    index: Tensor
    units: Units | None
    file: Path | None  # None: the source is in memory
    mask: Tensor | None = None
    law: Law = ""
    mask_mark: str = ""  # what tells the mask from others
    place: str = ""  # where in the file the source lies, and in which type

    @staticmethod
    def of(rows: Any, source: Tensor, units: Units | None = None, **more: Any) -> Stored:
        """All rows of a file; source: they, as a view of it."""
        file, place = file_of(rows), ""
        if file is not None:
            place = f"{first_byte(rows)} {rows.shape} {rows.strides} {rows.dtype}"
        return Stored(source, torch.arange(len(source)), units, file, place=place, **more)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shape(self) -> torch.Size:
        rest = self.source.shape[1:]
        return torch.Size((len(self.index), *(latent_shape(rest) if self.law else rest)))

    @property
    def ndim(self) -> int:
        return self.source.ndim

    @property
    def dtype(self) -> torch.dtype:
        return self.source.dtype if self.units is None else torch.float32

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Some rows, in memory; of latents a draw that is the same for a row each time."""
        return self.sample(rows, None)

    def sample(self, rows: Tensor | slice, noise: Tensor | None) -> Tensor:
        """Some rows; of latents those that this unit noise `[B, ...]` leads to."""
        places = self.index[rows]
        x = self.source[places]
        if self.law:
            own = row_noise(places, tuple(self.shape[1:])) if noise is None else noise
            x = draw(x, self.law, own)
        if self.units is not None:
            x = self.units.to_model(x)
        if self.mask is not None:
            x = x.masked_fill(~self.mask[places], 0)
        return x.contiguous()

    def choose(self, rows: Tensor) -> Stored:
        """Some rows, which stay in the file."""
        return replace(self, index=self.index[rows])

    def pieces(self, numbers: int = AT_ONCE) -> Iterator[slice]:
        """All rows as slices of so many numbers."""
        size = rows_of(numbers, self.shape[1:])
        return (slice(first, first + size) for first in range(0, len(self), size))

    def blocks(self, numbers: int = AT_ONCE) -> Iterator[Tensor]:
        """All rows in pieces of so many numbers."""
        return (self[rows] for rows in self.pieces(numbers))

    def mark(self) -> str:
        """What tells these rows, as they are taken, from others."""
        digest = hashlib.sha256(self.index.numpy().tobytes())
        units = None if self.units is None else self.units.to_json()
        about = [units, self.file and file_mark(self.file), self.place, self.law, self.mask_mark]
        digest.update(json.dumps(about).encode())
        return digest.hexdigest()[:16]

    def deviation(self) -> float:
        """Of all numbers that are not the same in all rows."""
        if self.source.dtype == torch.uint8 and self.units == BYTES and self.mask is None:
            values = BYTES.to_model(torch.arange(256, dtype=torch.uint8)[:, None, None, None])
            return _deviation_of(values.flatten().double().numpy(), self._histogram())
        varies = (self.units or Units()).varies(tuple(self.shape[1:]))

        def mean_of(change: Callable[[np.ndarray], np.ndarray]) -> float:
            total, count = 0.0, 0
            for rows in self.pieces():
                block = self[rows]
                real = varies if self.mask is None else varies & self.mask[self.index[rows]]
                numbers = change(block[real.expand_as(block)].numpy())
                total += float(numbers.sum(dtype=np.float64))
                count += numbers.size
            return total / max(count, 1)

        mean = mean_of(lambda numbers: numbers)
        return mean_of(lambda numbers: np.square(numbers - mean, dtype=np.float64)) ** 0.5

    def _histogram(self) -> np.ndarray:
        """How often each byte occurs, in the order of the file."""
        counts = np.zeros(256, np.int64)
        index = self.index.sort()[0]
        for rows in index.split(rows_of(AT_ONCE, self.shape[1:])):
            counts += np.bincount(self.source[rows].flatten().numpy(), minlength=256)
        return counts

    def remember(self, name: str, make: Callable[[], Any]) -> Any:
        """A fact about these rows, JSON: kept beside the file, or made.

        Where nothing can be written it is made each time.
        """
        if self.file is None:
            return make()
        name = f"{name} of {self.mark()}"
        folder = self.file.parent if self.file.name == RECORDS else beside(self.file)
        try:
            facts = json.loads((folder / FACTS).read_text())
            if name in facts:
                return facts[name]
        except (OSError, ValueError, TypeError):
            facts = {}
        value = make()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            disk.replace(folder / FACTS, json.dumps({**facts, name: value}, indent=1).encode())
        except OSError:
            pass
        return value


def rows_of(numbers: int, shape: tuple[int, ...]) -> int:
    """How many rows of that shape have so many numbers, at least one."""
    return max(1, numbers // max(1, math.prod(shape)))


def _deviation_of(values: np.ndarray, counts: np.ndarray) -> float:
    """The deviation of values that occur so often."""
    mean = np.average(values, weights=counts)
    deviation: float = np.average(np.square(values - mean), weights=counts) ** 0.5
    return deviation


def beside(path: Path) -> Path:
    """The folder for what was read of a data set: beside it, or in the user's cache folder."""
    if os.access(path.absolute().parent, os.W_OK):
        return path.with_name(f"{path.name}.fewstep")
    return below(cache_file("data"), path)


def below(folder: Path, path: Path) -> Path:
    """The folder of a data set below one for many."""
    digest = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
    return folder / f"{path.name}-{digest[:8]}"


def check_finite(name: str, blocks: Iterator[Tensor]) -> bool:
    """True; raises UserError for NaN and infinity, naming the first sample that holds one."""
    first, bad, rows = -1, 0, 0
    for block in blocks:
        wrong = (~torch.isfinite(block.flatten(1))).any(1).nonzero().flatten()
        if len(wrong) and first < 0:
            first = rows + int(wrong[0])
        bad += len(wrong)
        rows += len(block)
    if bad:
        raise UserError(
            f"data {name!r}: {bad} of {rows} samples hold NaN or infinity, the first is"
            f" sample {first}: remove or repair them, or leave them out by a mask"
        )
    return True
