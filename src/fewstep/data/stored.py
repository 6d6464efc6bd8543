"""Rows that stay in a file: read, and brought to the model's units, when they are taken."""

from __future__ import annotations

import hashlib
import json
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
from fewstep.data.archives import file_mark
from fewstep.data.units import BYTES, Units

AT_ONCE = 2**19  # numbers of a piece of rows: they stay in the processor's cache
MOST_NUMBERS = 2**27  # that samples in memory have: 0.5 GB in float32
RECORDS, FACTS = "records", "facts.json"  # files of a folder beside the data


@dataclass(frozen=True, eq=False)
class Stored:
    """Rows `[N, ...]` of a memory-mapped file: `stored[index]` is what a tensor of all would give.

    source: the file's rows as it has them `[M, ...]`. index: which of these, in order `[N]`.
    """

    source: Tensor
    index: Tensor
    units: Units
    file: Path

    @staticmethod
    def of(rows: np.memmap, source: Tensor) -> Stored:
        """All rows of a file in the user's units; source: they, as a view of it."""
        return Stored(source, torch.arange(len(source)), Units(), Path(str(rows.filename)))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.index), *self.source.shape[1:]))

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Some rows, float32, in memory."""
        return self.units.to_model(self.source[self.index[rows]]).contiguous()

    def choose(self, rows: Tensor) -> Stored:
        """Some rows, which stay in the file."""
        return replace(self, index=self.index[rows])

    def blocks(self) -> Iterator[Tensor]:
        """All rows in pieces."""
        for first in range(0, len(self), self._at_once):
            yield self[first : first + self._at_once]

    @property
    def _at_once(self) -> int:
        return max(1, AT_ONCE // max(1, self.shape[1:].numel()))

    def deviation(self) -> float:
        """Of all numbers that are not the same in all rows."""
        if self.source.dtype == torch.uint8 and self.units == BYTES:
            values = self.units.to_model(torch.arange(256, dtype=torch.uint8)[:, None, None, None])
            return _deviation_of(values.flatten().double().numpy(), self._histogram())
        varies = self.units.varies(tuple(self.shape[1:]))

        def mean_of(change: Callable[[np.ndarray], np.ndarray]) -> float:
            total, count = 0.0, 0
            for block in self.blocks():
                numbers = change(block[varies.expand_as(block)].numpy())
                total += float(numbers.sum(dtype=np.float64))
                count += numbers.size
            return total / max(count, 1)

        mean = mean_of(lambda numbers: numbers)
        return mean_of(lambda numbers: np.square(numbers - mean, dtype=np.float64)) ** 0.5

    def _histogram(self) -> np.ndarray:
        """How often each byte occurs, in the order of the file."""
        counts = np.zeros(256, np.int64)
        index = self.index.sort()[0]
        for rows in index.split(self._at_once):
            counts += np.bincount(self.source[rows].flatten().numpy(), minlength=256)
        return counts

    def remember(self, name: str, make: Callable[[], Any]) -> Any:
        """A fact about these rows, JSON: kept beside the file, or made.

        Where nothing can be written it is made each time.
        """
        rows = hashlib.sha256(self.index.numpy().tobytes())
        rows.update(json.dumps([self.units.to_json(), file_mark(self.file)]).encode())
        name = f"{name} of {rows.hexdigest()[:16]}"
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
