"""One writer per run folder: a lock that the kernel frees when its holder dies, however it dies. Needs no torch."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fewstep.errors import StorageError, UserError

try:
    import fcntl
except ImportError:  # a system without it has no such locks
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("fewstep")

NAME = "lock"


def holder(path: Path) -> str:
    """Who says in the lock file that it holds it."""
    try:
        told = json.loads(path.read_text())
        return f"process {int(told['pid'])} on {str(told['host'])[:64]} since {str(told['since'])[:32]}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _open(path: Path) -> int:
    """The lock file, locked. Raises UserError where somebody holds it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise UserError(
                f"{path.parent} is being trained by {holder(path)}: wait for it, stop it, or choose another --out"
            ) from None
        except OSError as error:  # a file system that knows no locks
            log.warning("fewstep: %s cannot be locked (%s): start no second run there", path.parent, error.strerror)
        with suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(handle).st_ino:  # else its last holder removed it meanwhile
                return handle
        os.close(handle)


@contextmanager
def held(folder: Path) -> Iterator[int]:
    """Holds the folder's lock; gives its handle, which a forked child has to close.

    A folder that was made for it and is empty afterwards goes. Raises UserError where another process holds it,
    StorageError where nothing can be written there.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _open(folder / NAME)
        os.truncate(handle, 0)
        about = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.write(handle, json.dumps(about).encode())
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot write to {folder}: {error.strerror or error}") from error
    try:
        yield handle
    finally:
        with suppress(OSError):
            (folder / NAME).unlink()  # by name before the lock is free: whoever waits for it finds that it is gone
            for path in made:
                path.rmdir()
        os.close(handle)


def refuse_second(folder: Path) -> None:
    """Raises UserError where another process trains in the folder; leaves no trace."""
    if (folder / NAME).exists():
        with held(folder):
            pass
