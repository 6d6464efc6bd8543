"""Files that are made block by block, hold once all are there, and are told from changed ones.

`journal` has a line for each block that is on the disk, so that a pass that was killed goes on.
`manifest.json`, which is written last, has a SHA-256 of each.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fewstep.base import disk
from fewstep.base.errors import storage
from fewstep.data.stored import FACTS

try:
    import fcntl
except ImportError:  # a system without it has no such locks
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("fewstep")

ENOUGH = 2**24  # bytes of a block
MANIFEST, JOURNAL, LOCK = "manifest.json", "journal", "lock"
Block = dict[str, Any]


class Journal:
    """The blocks of the files in a folder, those of an earlier pass first.

    head: the first line, which tells whether an earlier pass read the same.
    """

    def __init__(self, folder: Path, head: dict[str, Any]) -> None:
        self.folder, self.head = folder, head
        lines: list[Any] = []
        with suppress(OSError, ValueError):  # the last line may be cut off
            for text in (folder / JOURNAL).read_text().splitlines():
                lines.append(json.loads(text))
        lines = lines[1:] if lines[:1] == [head] else []
        self.blocks: list[Block] = [block for block in lines if isinstance(block, dict)]
        with storage(f"cannot write to {folder}"):
            for file in (MANIFEST, FACTS):
                (folder / file).unlink(missing_ok=True)
        self.rewrite()

    def rewrite(self) -> None:
        """Writes all lines anew. Raises StorageError."""
        lines = (_line(values) for values in (self.head, *self.blocks))
        with storage(f"cannot write to {self.folder}"):
            disk.replace(self.folder / JOURNAL, b"".join(lines))

    def sound(
        self, file: Path, part: str = "", accept: Callable[[Block], bool] = lambda block: True
    ) -> list[Block]:
        """The first blocks of a file that have their digests; cuts off the rest.

        accept: asked of each of these in their order, whether it may stay. Raises StorageError.
        """
        blocks = [block for block in self.blocks if block.get("part", "") == part]
        sound: list[Block] = []
        damage = suppress(OSError, KeyError, TypeError, ValueError)  # by a crash
        with damage, file.open("rb") as source:
            for block in blocks:
                is_same = digest_of(source.read(block["bytes"])) == block["sha256"]
                if not (is_same and accept(block)):
                    break
                sound.append(block)
        with storage(f"cannot write to {self.folder}"):
            if sound:
                os.truncate(file, sum(block["bytes"] for block in sound))
            else:
                file.unlink(missing_ok=True)
        if len(sound) < len(blocks):  # else the lost ones' lines stand before those of new ones
            others = (block for block in self.blocks if block.get("part", "") != part)
            self.blocks = [*others, *sound]
            self.rewrite()
        return sound

    def add(self, file: Path, content: bytes | memoryview, **about: Any) -> Block:
        """Appends a block to a file, and its line. Raises StorageError."""
        block = {"bytes": len(content), "sha256": digest_of(content), **about}
        with storage(f"cannot write to {self.folder}"):
            disk.append(file, content)
            disk.sync(file)
            disk.append(self.folder / JOURNAL, _line(block))
        self.blocks.append(block)
        return block

    def finish(self, manifest: dict[str, Any]) -> None:
        """Writes the manifest, which makes the files valid. Raises StorageError."""
        with storage(f"cannot write to {self.folder}"):
            disk.replace(self.folder / MANIFEST, json.dumps(manifest).encode())
            (self.folder / JOURNAL).unlink(missing_ok=True)


def digests(blocks: Sequence[Block]) -> list[Block]:
    """What a manifest says of the blocks of a file."""
    return [{name: block[name] for name in ("bytes", "sha256")} for block in blocks]


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"


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


def digest_of(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()


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
