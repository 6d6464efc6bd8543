"""Every change of a run's folder is one of these calls: a test can end the process before any."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

CHUNK = 2**20  # bytes of one write


def _ignore(call: str, path: Path) -> None:
    """Called before each change: does nothing."""


watch: Callable[[str, Path], None] = _ignore

_numbers = itertools.count()


def temporary(path: Path) -> Path:
    """A name beside the path that no other process or thread writes to."""
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


def append(path: Path, content: bytes | memoryview) -> None:
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
    """Writes `path` in one move, unless it has this content: a reader sees the old or the new."""
    if path.is_file() and path.read_bytes() == content:
        return
    new = temporary(path)
    write(new, content)
    watch("rename", path)
    os.replace(new, path)
    sync(path.parent)


def remove(path: Path) -> None:
    """Removes a folder; after a kill its rest has a temporary name, which nothing reads."""
    if path.is_symlink():  # its target may be the user's own
        watch("remove", path)
        path.unlink()
        return
    watch("rename", path)
    rest = path if ".tmp-" in path.name else path.rename(temporary(path))
    for inside in sorted(rest.iterdir()):
        watch("remove", inside)
        if inside.is_dir():
            shutil.rmtree(inside)
        else:
            inside.unlink()
    watch("rmdir", rest)
    rest.rmdir()
