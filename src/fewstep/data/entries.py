"""The files of a folder or zip by their names, and how quickly one of a zip is read."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import IO

import numpy as np

HEAD = struct.Struct("<4s2xHH16xHH")  # of a file in a zip: mark, flags, packing, lengths
UTF8_NAME = 0x800  # a flag; the only one that changes nothing of a stored file's bytes
AT_ONCE = 2**24  # bytes of a file that is read whole
PREAD: Callable[[int, int, int], bytes] | None = getattr(os, "pread", None)  # Windows has none


@dataclass(frozen=True)
class File:
    """How to open a file, and what tells whether it has changed."""

    open: Callable[[], IO[bytes]]
    mark: Callable[[], str]

    def __call__(self) -> IO[bytes]:
        return self.open()


Files = Mapping[str, File]  # by their names below the top


class Entries(Mapping[str, File]):
    """The plain files of a zip in the order of their names, in a few bytes for each.

    What `zipfile` holds of an entry, half a kilobyte, is made again for those that are opened. It
    would spend a quarter of a small picture's time, most of it alone: several threads may read at
    once here.
    """

    FACTS = ("header_offset", "compress_size", "file_size", "CRC", "compress_type", "flag_bits")

    def __init__(self, source: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> None:
        """entries: of the source, which are let go."""
        entries.sort(key=attrgetter("filename"))
        self.source = source
        text = "\0".join(entry.filename for entry in entries)
        rows = map(attrgetter(*self.FACTS), entries)
        self.facts = np.fromiter(rows, np.dtype((np.int64, len(self.FACTS))), len(entries))
        self.others = {e.filename: e for e in entries if e.filename != e.orig_filename}
        source.filelist.clear()
        source.NameToInfo.clear()
        entries.clear()
        self.names = text.split("\0") if text else []  # apart from what the memory held before

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, name: str) -> File:
        place = bisect_left(self.names, name)
        if place == len(self.names) or self.names[place] != name:
            raise KeyError(name)
        return File(partial(self._open, place), partial(self._mark, place))

    def _mark(self, place: int) -> str:
        _, _, size, checksum, _, _ = self.facts[place].tolist()
        return f"{size} {checksum}"

    def _open(self, place: int) -> IO[bytes]:
        facts = self.facts[place].tolist()
        name = self.names[place]
        content = self._read_plain(name, *facts)
        if content is not None:
            return io.BytesIO(content)
        entry = self.others.get(name) or zipfile.ZipInfo(name)
        for fact, value in zip(self.FACTS, facts, strict=True):
            setattr(entry, fact, value)
        return self.source.open(entry)

    def _read_plain(
        self, name: str, place: int, least: int, size: int, checksum: int, packing: int, flags: int
    ) -> bytes | None:
        """The sound bytes of a file that is stored as it is; None leaves it to `zipfile`."""
        if packing != zipfile.ZIP_STORED or least != size or size > AT_ONCE or PREAD is None:
            return None
        handle = self.source.fp.fileno()  # type: ignore[union-attr]
        text = name.encode("utf-8" if flags & UTF8_NAME else "ascii", "replace")
        content = PREAD(handle, HEAD.size + len(text), place)
        if len(content) < HEAD.size:
            return None
        mark, own, kind, length, extra = HEAD.unpack_from(content)
        is_same = (mark, own, kind, length) == (b"PK\3\4", flags, packing, len(text))
        if not is_same or flags & ~UTF8_NAME or content[HEAD.size :] != text:
            return None
        content = PREAD(handle, size, place + HEAD.size + length + extra)
        return content if len(content) == size and zlib.crc32(content) == checksum else None
