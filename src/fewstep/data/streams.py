"""Rows that are read block by block, and kept in files that all processes map.

| in the folder | |
|---|---|
| `records` | the samples' rows one behind the other, in the type that the source has them in |
| `cond.features`, `mask`, ... | likewise parts of the condition; `cond.label.npy` labels |
| `manifest.json` | what they are, of which source, and a SHA-256 of each block; written last |
| `journal` | while they are made: a line for each block that is on the disk |
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from fewstep.base import disk
from fewstep.base.errors import UserError, require, storage
from fewstep.base.mapped import file_of
from fewstep.base.progress import Progress
from fewstep.data.columns import Names
from fewstep.data.journal import (
    ENOUGH,
    MANIFEST,
    Block,
    Journal,
    digest_of,
    digests,
    is_whole,
    lock,
)
from fewstep.data.reading import Content, Reading
from fewstep.data.stored import MOST_NUMBERS, RECORDS, below, beside

log = logging.getLogger("fewstep")

VERSION = 1


@dataclass(frozen=True)
class Stream:
    """Rows `[N, ...]` that are read in their order.

    blocks: those from a row on, all of one type and shape of a row; records with fields are rows
    too. is_optional: of a mask, that it is none where it is True everywhere. enough: bytes after
    which they are written, fewer where a row takes long.
    """

    rows: int
    blocks: Callable[[int], Iterator[np.ndarray]]
    is_optional: bool = False
    enough: int | None = None

    def __len__(self) -> int:
        return self.rows

    def map(self, change: Callable[[np.ndarray], np.ndarray]) -> Stream:
        return replace(self, blocks=lambda first: map(change, self.blocks(first)))

    def load(self) -> np.ndarray:
        """All rows, in memory."""
        return np.concatenate([*self.blocks(0)])


def is_large(numbers: int, reading: Reading) -> bool:
    """Whether so many numbers are kept in a file: too many, or some and the user names a folder."""
    return numbers > (MOST_NUMBERS if reading.cache is None else 0)


def as_condition(name: str, values: Any) -> Any:
    """A stream of a condition in the types that conditions have."""
    if not isinstance(values, Stream):
        return values

    def change(block: np.ndarray) -> np.ndarray:
        if block.dtype.kind == "b":
            return block
        is_whole = block.dtype.kind in "iu" and name != "features"
        return block.astype(np.int64 if is_whole else np.float32)

    return values.map(change)


@dataclass(frozen=True)
class Place:
    """The folder for the rows of a source that are read in one way.

    source: what tells whether the source has changed. mark: what it said before anything was read.
    """

    name: str  # of the data, for messages
    folder: Path
    source: Callable[[], str]
    mark: str
    verb: str = "reads"  # what is done with the data, for the note

    @staticmethod
    def of(name: str, path: Path, choices: Any, source: Callable[[], str], cache: Any) -> Place:
        is_inside = cache is not None and Path(cache).resolve().is_relative_to(path.resolve())
        require(not is_inside, "cache", str(cache), f"a folder outside of {path}, which it changes")
        folder = beside(path) if cache is None else below(Path(cache), path)
        key = hashlib.sha256(json.dumps(choices, default=str).encode()).hexdigest()[:8]
        return Place(name, folder / f"rows-{key}", source, source())

    def header(self) -> dict[str, Any]:
        return {"version": VERSION, "source": self.mark}

    def check(self) -> None:
        """Raises UserError where the source has changed since."""
        if self.source() != self.mark:
            raise UserError(f"data {self.name} changed while they were read: read them again")

    def content(self) -> Content | None:
        """What is kept, mapped; None where nothing is, or of another source."""
        if not (self.folder / MANIFEST).exists():
            return None
        try:
            manifest = json.loads((self.folder / MANIFEST).read_text())
            if manifest["header"] != self.header():
                return None
            data: dict[str, Any] = {"x0": None, "cond": None}
            for key, about in manifest["parts"].items():
                part = self._part(about, manifest)
                if part is None:
                    log.warning(
                        "fewstep: %s was changed by somebody: it is made again", self.folder
                    )
                    return None
                _put(data, key, part)
            names = Names.from_json(manifest["names"])
            return Content(data, names or Names(), tuple(manifest["left_out"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _part(self, about: dict[str, Any], manifest: dict[str, Any]) -> np.ndarray | None:
        file = self.folder / about["file"]
        is_same = file.stat().st_mtime_ns == about["time"]
        is_own = "blocks" in about  # else of a folder that has a manifest itself
        if not is_same and not (is_own and is_whole(file, about, manifest)):
            return None
        if file.suffix == ".npy":
            rows: np.ndarray = np.load(file, allow_pickle=False)
            return rows
        return np.memmap(file, _type_of(about["dtype"]), "c", shape=tuple(about["shape"]))

    def keep(self, content: Content) -> Content:
        """Writes what was read, from where an earlier pass was killed, and maps it.

        Raises StorageError, and UserError where rows are of several shapes or the source changed.
        """
        parts = dict(_parts(content.data))
        with lock(self.folder):
            if (result := self.content()) is not None:  # another process was quicker
                return result
            header = self.header()
            total = sum(len(part) for part in parts.values() if isinstance(part, Stream))
            with Progress(total, "row") as bar:
                bar.note(f"{self.verb} {self.name} into {self.folder}, once")
                writer = _Writer(self.name, self.folder, header, bar)
                about = {key: writer.part(key, part) for key, part in parts.items()}
            self.check()
            manifest = {
                "header": header,
                "parts": {key: one for key, one in about.items() if one is not None},
                "names": content.names.storable().to_json(),
                "left_out": content.left_out,
            }
            writer.journal.finish(manifest)
            result = self.content()
            assert result is not None
            return result


def has_streams(content: Content) -> bool:
    return any(isinstance(part, Stream) for _, part in _parts(content.data))


def _parts(data: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The arrays of a content by their names."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _parts(value, f"{name}.{key}" if name else key)
    elif data is not None:
        yield name, data


def _put(data: dict[str, Any], name: str, value: Any) -> None:
    head, dot, rest = name.partition(".")
    if not dot:
        data[head] = value
        return
    data[head] = data.get(head) or {}
    _put(data[head], rest, value)


def _type_of(kind: Any) -> np.dtype[Any]:
    """The type of rows as JSON has it: a word, or [name, word, shape] of each field."""
    if isinstance(kind, str):
        return np.dtype(kind)
    return npy.descr_to_dtype([(*one[:2], *map(tuple, one[2:])) for one in kind])


class _Writer:
    """Appends blocks of rows, each with a line in the journal, so that a killed pass goes on."""

    def __init__(self, name: str, folder: Path, header: dict[str, Any], bar: Progress) -> None:
        self.name, self.folder, self.bar = name, folder, bar
        self.journal = Journal(folder, header)

    def part(self, key: str, rows: Any) -> dict[str, Any] | None:
        """Writes a part, and returns what the manifest says of it; None of a mask that is none.

        Rows that are mapped stay in their file.
        """
        if isinstance(rows, np.memmap) and (own := file_of(rows)) is not None:
            about = {"file": str(own.resolve()), "shape": rows.shape, "dtype": rows.dtype.str}
            return {**about, "time": own.stat().st_mtime_ns}
        if not isinstance(rows, Stream):
            file = self.folder / f"{key}.npy"
            content = io.BytesIO()
            np.save(content, np.asarray(rows), allow_pickle=False)
            with storage(f"cannot write to {self.folder}"):
                disk.replace(file, content.getvalue())
            whole = {"bytes": len(content.getvalue()), "sha256": digest_of(content.getvalue())}
            return {"file": file.name, "time": file.stat().st_mtime_ns, "blocks": [whole]}
        file = self.folder / (RECORDS if key == "x0" else key)
        blocks = self._stream(key, file, rows)
        first, count = blocks[0], sum(block["rows"] for block in blocks)
        shape, dtype = [count, *first["shape"]], first["dtype"]
        if rows.is_optional and bool(np.memmap(file, bool, "r", shape=tuple(shape)).all()):
            file.unlink()
            return None
        about = {"file": file.name, "shape": shape, "dtype": dtype, "blocks": digests(blocks)}
        return {**about, "time": file.stat().st_mtime_ns}

    def _stream(self, key: str, file: Path, rows: Stream) -> list[Block]:
        """All blocks of a stream, the sound ones of an earlier pass first."""
        blocks = self.journal.sound(file, key)
        count = sum(block["rows"] for block in blocks)
        self.bar.update(count)
        waiting: list[np.ndarray] = []
        for block in rows.blocks(count) if count < len(rows) else ():
            waiting.append(np.ascontiguousarray(block))
            self.bar.update(len(block))
            if sum(one.nbytes for one in waiting) >= (rows.enough or ENOUGH):
                blocks.append(self._flush(key, file, waiting, blocks))
                waiting = []
        if waiting:
            blocks.append(self._flush(key, file, waiting, blocks))
        return blocks

    def _flush(
        self, key: str, file: Path, waiting: list[np.ndarray], before: list[dict[str, Any]]
    ) -> dict[str, Any]:
        shapes = {(one.shape[1:], one.dtype) for one in waiting}
        shapes |= {(tuple(one["shape"]), _type_of(one["dtype"])) for one in before[:1]}
        if len(shapes) > 1:
            one, other = sorted(f"{shape} of {dtype}" for shape, dtype in shapes)[:2]
            raise UserError(
                f"data {self.name}: rows of {key} of shape {one} and {other}: expected one shape:"
                " pad them and say where with a mask"
            )
        content = b"".join(one.tobytes() for one in waiting)
        kind = npy.dtype_to_descr(waiting[0].dtype)
        about = {"shape": list(waiting[0].shape[1:]), "dtype": kind}
        return self.journal.add(file, content, part=key, rows=sum(map(len, waiting)), **about)
