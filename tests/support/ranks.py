"""Several ranks of one run on this machine: forked children that meet at a free port, and how each
of them ended.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass
class Ended:
    """How a rank ended: its exit code (negative: the signal), what it said on stderr, when
    (monotonic seconds).
    """

    code: int
    said: str
    at: float


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _child(work: Callable[[], object], env: dict[str, str], said: Path) -> None:
    """The work as a rank; never returns."""
    code = 1
    try:
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        os.environ.update(env)
        torch.set_num_threads(1)
        work()
        code = 0
    except BaseException as error:
        code = getattr(error, "exit_code", 1)
        print(
            f"{type(error).__name__}: {error}" if code != 1 else traceback.format_exc(),
            file=sys.stderr,
        )
    finally:
        sys.stderr.flush()
        os._exit(code)


def start(size: int, work: Callable[[], object], folder: Path, **env: str) -> list[int]:
    """Forks the ranks; their process ids."""
    folder.mkdir(parents=True, exist_ok=True)
    port, pids = str(free_port()), []
    for rank in range(size):
        own = (
            {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
            if size > 1
            else {}
        )
        if not (pid := os.fork()):
            _child(
                work,
                {**own, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **env},
                folder / f"rank-{rank}.txt",
            )
        pids.append(pid)
    return pids


def wait(pids: list[int], folder: Path, seconds: float = 60.0) -> list[Ended]:
    """Waits for all of them; whoever is still there after so many seconds is killed."""
    ended: dict[int, Ended] = {}
    until = time.monotonic() + seconds
    while len(ended) < len(pids):
        for rank, pid in enumerate(pids):
            if rank in ended:
                continue
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                said = (folder / f"rank-{rank}.txt").read_text()
                ended[rank] = Ended(os.waitstatus_to_exitcode(status), said, time.monotonic())
            elif time.monotonic() > until:
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
        time.sleep(0.01)
    return [ended[rank] for rank in range(len(pids))]


def run(
    size: int, work: Callable[[], object], folder: Path, seconds: float = 60.0, **env: str
) -> list[Ended]:
    """Runs the work on so many ranks to its end."""
    return wait(start(size, work, folder, **env), folder, seconds)
