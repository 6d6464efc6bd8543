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

import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.base import disk
from fewstep.base.errors import storage
from fewstep.data.gathering import Census, Kind
from fewstep.data.stored import FACTS, RECORDS

try:
    import fcntl
except ImportError:  # a system without it has no such locks
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("fewstep")

VERSION = 1
ENOUGH = 2**24  # bytes of a block
MANIFEST, JOURNAL, LABELS, LOCK = "manifest.json", "journal", "labels.npy", "lock"


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


def is_whole(file: Path, about: dict[str, Any], manifest: dict[str, Any]) -> bool:
    """Whether every block has its digest; then the file's new time is kept.

    about: what the manifest says of the file.
    """
    with file.open("rb") as source:
        for block in about["blocks"]:
            content = source.read(block["bytes"])
            if hashlib.sha256(content).hexdigest() != block["sha256"]:
                return False
        if source.read(1):
            return False
    about["time"] = file.stat().st_mtime_ns
    with suppress(OSError):
        disk.replace(file.parent / MANIFEST, json.dumps(manifest).encode())
    return True


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
        self.head = {"version": VERSION, "size": size, "start": start.first_size, "kind": [*kind]}
        self.shape: list[int] = []
        self.blocks: list[dict[str, Any]] = []
        self.census = start
        self.waiting: list[np.ndarray] = []
        self.fresh = Census(first_size=start.first_size)  # with those that wait
        self._restore()
        if not self.blocks:
            for name in (RECORDS, MANIFEST, FACTS):
                (folder / name).unlink(missing_ok=True)
            disk.replace(folder / JOURNAL, line(self.head))

    def _restore(self) -> None:
        """Takes over the blocks of an earlier pass whose files and bytes are still the same."""
        lines: list[Any] = []
        with suppress(OSError, ValueError):
            lines = list(map(json.loads, (self.folder / JOURNAL).read_text().splitlines()))
        if not lines or lines[0] != self.head:
            return
        damage = suppress(OSError, KeyError, TypeError, ValueError)  # by a crash
        with damage, (self.folder / RECORDS).open("rb") as source:
            for block in lines[1:]:
                new = Census.from_json(block["census"])
                is_same = digest_of(source.read(block["bytes"])) == block["sha256"]
                if not is_same or self._marks_of(new) != block["files"]:
                    break
                self._add(block, new)
        if self.blocks:
            os.truncate(self.folder / RECORDS, sum(block["bytes"] for block in self.blocks))
            disk.replace(self.folder / JOURNAL, b"".join(map(line, (self.head, *self.blocks))))

    def _marks_of(self, new: Census) -> str:
        """Of the files of the next block; before it is added."""
        return self.marks(self.census.count, self.census.count + new.count)

    def _add(self, block: dict[str, Any], new: Census) -> None:
        self.blocks.append(block)
        self.shape = block["shape"] or self.shape
        self.census.add(new)

    def take(self, rows: Sequence[np.ndarray], new: Census) -> None:
        """Writes the rows, once there are enough. Raises Wider."""
        need = self.kind
        for row in rows:
            need = need.with_(row)
        if need != self.kind:
            if self.blocks or self.waiting:
                raise Wider(need)
            self.kind, self.head["kind"] = need, [*need]
            disk.replace(self.folder / JOURNAL, line(self.head))
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
        block = {
            "bytes": len(content),
            "shape": list(rows[0].shape) if rows else [],
            "sha256": digest_of(content),
            "files": self._marks_of(new),
            "census": new.to_json(),
        }
        with storage(f"cannot write to {self.folder}"):
            disk.append(self.folder / RECORDS, content)
            disk.sync(self.folder / RECORDS)
            disk.append(self.folder / JOURNAL, line(block))
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
            "blocks": [{name: one[name] for name in ("bytes", "sha256")} for one in self.blocks],
        }
        with storage(f"cannot write to {self.folder}"):
            if labels is not None:
                content = io.BytesIO()
                np.save(content, labels, allow_pickle=False)
                disk.replace(self.folder / LABELS, content.getvalue())
            disk.replace(self.folder / MANIFEST, json.dumps(manifest).encode())
            (self.folder / JOURNAL).unlink(missing_ok=True)


def digest_of(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()


def line(values: dict[str, Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Inside, this process alone makes what is in the folder; others wait, and say so.

    Raises StorageError where nothing can be written there.
    """
    with storage(f"cannot write to {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.warning("fewstep: another process writes to %s: waiting for it", folder)
                fcntl.flock(handle, fcntl.LOCK_EX)
            except OSError as error:  # a file system that knows no locks
                log.warning("fewstep: %s cannot be locked (%s)", folder, error.strerror)
        yield
    finally:
        os.close(handle)
