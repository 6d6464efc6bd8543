"""Every change that a run makes to its folder is one of these calls, so that a test can end the
process before any.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

CHUNK = 2**20  # bytes of one write


def _unwatched(call: str, path: Path) -> None:
    """What is told of each call before it is made: nobody listens."""


watch: Callable[[str, Path], None] = _unwatched


_numbers = itertools.count()


def temporary(path: Path) -> Path:
    """A name beside the path that nobody else writes to: no other process, and no other thread of
    this one.
    """
    return path.with_name(f"{path.name}.tmp-{os.getpid()}-{next(_numbers)}")


def make_folder(path: Path) -> None:
    watch("mkdir", path)
    path.mkdir(parents=True, exist_ok=True)


def write(path: Path, content: bytes | memoryview) -> None:
    """Writes the file and waits until it is on the disk."""
    watch("open", path)
    with open(path, "wb") as file:
        put(file.fileno(), content, path)
        watch("fsync", path)
        os.fsync(file.fileno())


def append(path: Path, content: bytes) -> None:
    """Adds to the end of a file, which need not reach the disk yet."""
    watch("append", path)
    with open(path, "ab", buffering=0) as file:
        put(file.fileno(), content, path)


def put(handle: int, content: bytes | memoryview, path: Path) -> None:
    """Writes all of the content, however little the system takes at a time."""
    rest = memoryview(content)
    while len(rest):
        watch("write", path)
        rest = rest[os.write(handle, rest[:CHUNK]) :]


def sync(path: Path) -> None:
    """Waits until a folder's entries, or a file's content, are on the disk."""
    watch("fsync", path)
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rename(old: Path, new: Path) -> None:
    """Moves in one piece, and waits until the move is on the disk."""
    watch("rename", new)
    os.rename(old, new)
    sync(new.parent)


def replace(path: Path, content: bytes) -> None:
    """Puts the content at `path` in one move, unless it is there already: a reader sees the old or
    the new.
    """
    if path.is_file() and path.read_bytes() == content:
        return
    written = temporary(path)
    write(written, content)
    watch("rename", path)
    os.replace(written, path)
    sync(path.parent)


def remove(path: Path) -> None:
    """Removes a folder: what is left of it after a kill bears a name that nobody takes for the
    whole.
    """
    if path.is_symlink():  # what it leads to is somebody's own
        watch("remove", path)
        path.unlink()
        return
    watch("rename", path)
    doomed = path if ".tmp-" in path.name else path.rename(temporary(path))
    for inside in sorted(doomed.iterdir()):
        watch("remove", inside)
        if inside.is_dir():
            shutil.rmtree(inside)
        else:
            inside.unlink()
    watch("rmdir", doomed)
    doomed.rmdir()
