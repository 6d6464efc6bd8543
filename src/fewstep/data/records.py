"""Pictures that were decoded once, kept as records of one size that all processes map.

| in the folder | |
|---|---|
| `records` | the rows one behind the other, `[N, C, H, W]` of bytes, or float32 of 16 bits |
| `labels.npy` | their labels or features, where there are any |
| `manifest.json` | what they are, of which source, and a SHA-256 of each block; written last |
| `journal` | while they are made: a line for each block that is on the disk |

A source that has changed is noticed by the sizes and times of its files. A pass that was killed
goes on: what it had made of the files before the first changed one stays.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.base import disk
from fewstep.base.errors import storage
from fewstep.data.gathering import Census, Kind
from fewstep.data.journal import ENOUGH, JOURNAL, MANIFEST, Journal, digests, is_whole
from fewstep.data.stored import RECORDS

log = logging.getLogger("fewstep")

VERSION = 1
LABELS = "labels.npy"


@dataclass(frozen=True)
class Records:
    """What a folder holds: the mapped rows, their labels, and the rest of its manifest."""

    rows: np.ndarray
    labels: np.ndarray | None
    census: Census
    about: dict[str, Any]


def open_records(folder: Path, header: dict[str, Any]) -> Records | None:
    """The rows in a folder, mapped; None where it holds none, or others than the header says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["header"] != header:
            return None
        file, shape, dtype = folder / RECORDS, tuple(manifest["shape"]), np.dtype(manifest["dtype"])
        if file.stat().st_mtime_ns != manifest["time"] and not is_whole(file, manifest, manifest):
            log.warning("fewstep: %s was changed by somebody: it is made again", file)
            return None
        rows = np.memmap(file, dtype, "c", shape=shape) if shape[0] else np.empty(shape, dtype)
        labels = np.load(folder / LABELS, allow_pickle=False) if manifest["labels"] else None
        return Records(rows, labels, Census.from_json(manifest["census"]), manifest["about"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Wider(Exception):
    """A picture needs more channels or bits than the records have: they are made again."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind


Marks = Callable[[int, int], str]  # what tells whether the files of these places have changed


def head_of(folder: Path, size: int | None) -> tuple[Kind, Census]:
    """The kind of rows and the start of the pass that a journal is of; where none is, the least."""
    with suppress(OSError, ValueError, KeyError, TypeError), (folder / JOURNAL).open() as file:
        head = json.loads(file.readline())
        if (head["version"], head["size"]) == (VERSION, size):
            return Kind(*head["kind"]), Census(first_size=head["start"])
    return Kind(), Census()


class Writer:
    """Appends blocks of rows, each with a line in the journal, so that a killed pass goes on.

    kind: that all rows have. start: of the pass. census: what it has met so far.
    """

    def __init__(self, folder: Path, marks: Marks, size: int | None, start: Census, kind: Kind):
        self.folder, self.marks, self.kind = folder, marks, kind
        head = {"version": VERSION, "size": size, "start": start.first_size, "kind": [*kind]}
        self.shape: list[int] = []
        self.census = start
        self.waiting: list[np.ndarray] = []
        self.fresh = Census(first_size=start.first_size)  # with those that wait
        self.journal = Journal(folder, head)
        self.journal.sound(folder / RECORDS, accept=self._accept)

    def _accept(self, block: dict[str, Any]) -> bool:
        """Whether the files of a block of an earlier pass are still the same; then it counts."""
        new = Census.from_json(block["census"])
        is_same: bool = self._marks_of(new) == block["files"]
        if is_same:
            self._add(block, new)
        return is_same

    def _marks_of(self, new: Census) -> str:
        """Of the files of the next block; before it is added."""
        return self.marks(self.census.count, self.census.count + new.count)

    def _add(self, block: dict[str, Any], new: Census) -> None:
        self.shape = block["shape"] or self.shape
        self.census.add(new)

    def take(self, rows: Sequence[np.ndarray], new: Census) -> None:
        """Writes the rows, once there are enough. Raises Wider."""
        need = self.kind
        for row in rows:
            need = need.with_(row)
        if need != self.kind:
            if self.journal.blocks or self.waiting:
                raise Wider(need)
            self.kind, self.journal.head["kind"] = need, [*need]
            self.journal.rewrite()
        self.waiting += [self.kind.record(row) for row in rows]
        self.fresh.add(new)
        if sum(row.nbytes for row in self.waiting) >= ENOUGH:
            self.flush()

    def flush(self) -> None:
        """Writes a block of the rows that wait. Raises StorageError."""
        rows, new = self.waiting, self.fresh
        content = memoryview(b"")
        if rows:  # by one copy: pictures have their channels last
            whole = np.empty((len(rows), *rows[0].shape), rows[0].dtype)
            content = np.stack(rows, out=whole).data.cast("B")
        about = {"shape": list(rows[0].shape) if rows else [], "census": new.to_json()}
        files = self._marks_of(new)
        block = self.journal.add(self.folder / RECORDS, content, **about, files=files)
        self._add(block, new)
        self.waiting, self.fresh = [], Census()

    def finish(
        self, header: dict[str, Any], census: Census, labels: Any, about: dict[str, Any]
    ) -> None:
        """Writes the labels and the manifest, which makes the records valid."""
        file = self.folder / RECORDS
        dtype = np.float32 if self.kind.is_deep else np.uint8
        manifest = {
            "header": header,
            "shape": [census.rows, *(self.shape or (1, 1, 1))],
            "dtype": np.dtype(dtype).str,
            "time": file.stat().st_mtime_ns,
            "labels": labels is not None,
            "census": census.to_json(),
            "about": about,
            "blocks": digests(self.journal.blocks),
        }
        with storage(f"cannot write to {self.folder}"):
            if labels is not None:
                content = io.BytesIO()
                np.save(content, labels, allow_pickle=False)
                disk.replace(self.folder / LABELS, content.getvalue())
        self.journal.finish(manifest)
