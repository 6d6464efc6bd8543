"""One writer per run folder: a lock that the kernel frees when its holder dies. Needs no torch."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from fewstep.base.errors import UserError, storage

try:
    import fcntl
except ImportError:  # a system without it has no such locks
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("fewstep")

NAME = "lock"


def refuse_old(out: Path) -> None:
    """Raises UserError where the folder holds a run, or checkpoints of one."""
    names = [path.name for path in out.glob("checkpoints/step-*")]
    has_checkpoint = any(name.removeprefix("step-").isdigit() for name in names)
    if has_checkpoint or (out / "run.json").exists():
        raise UserError(
            f"{out} already holds a run: continue it with --resume (beyond its end with --resume"
            " --extend N), or choose another --out"
        )


def holder(path: Path) -> str:
    """The process that holds the lock, as its file says."""
    try:
        about = json.loads(path.read_text())
        pid = int(about["pid"])
        host = str(about["host"])[:64]
        since = str(about["since"])[:32]
        return f"process {pid} on {host} since {since}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _acquire(path: Path) -> int:
    """The handle of the lock file, locked. Raises UserError where another process holds it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(handle, path)
            if _is(path, handle):  # else its last holder removed it meanwhile
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int, path: Path) -> None:
    """Locks without waiting. Raises UserError."""
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{path.parent} is being trained by {holder(path)}: wait for it, stop it, or choose"
            " another --out"
        ) from None
    except OSError as error:  # a file system that knows no locks
        log.warning(
            "fewstep: %s cannot be locked (%s): start no second run there",
            path.parent,
            error.strerror,
        )


def _is(path: Path, handle: int) -> bool:
    """Whether the file of that name is the one that is open."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(handle))
    return False


@contextmanager
def hold(folder: Path) -> Iterator[int]:
    """Holds the folder's lock; gives its handle, which a forked child has to close.

    Folders that were created for it are removed if they are empty afterwards. Raises UserError
    where another process holds it, StorageError where nothing can be written there.
    """
    path = folder / NAME
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    about = {
        "pid": os.getpid(),
        "host": platform.node(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    with ExitStack() as stack:
        with storage(f"cannot write to {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            handle = _acquire(path)
            stack.callback(os.close, handle)
            os.truncate(handle, 0)
            os.write(handle, json.dumps(about).encode())
        stack.callback(_release, path, handle, new)
        yield handle


def _release(path: Path, handle: int, new: list[Path]) -> None:
    """Removes the lock file before it is free, so that a process that waits for it notices."""
    with suppress(OSError):
        if _is(path, handle):
            path.unlink()
        for folder in new:
            folder.rmdir()


def refuse_second(folder: Path) -> None:
    """Raises UserError where another process trains in the folder; changes nothing there."""
    path = folder / NAME
    if not path.exists() or fcntl is None:
        return
    with storage(f"cannot write to {folder}"):
        handle = os.open(path, os.O_RDWR)
        try:
            _lock(handle, path)
        finally:
            os.close(handle)
