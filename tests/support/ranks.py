"""Several ranks of one run on this machine: forked children that meet at a free port."""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import torch

import fewstep as fs
from tests.support.toys import tiny_run


@dataclass
class Outcome:
    """How a rank ended: exit code (negative: the signal), stderr, when (monotonic seconds)."""

    code: int
    text: str
    at: float


@cache
def warm_up() -> None:
    """Imports what ranks need, so that not every child spends seconds on it."""
    for module in ("torch.distributed.fsdp", "torch._dynamo"):  # shards, and blocks done again
        import_module(module)
    for method in ("sct", "tcm", "gc"):
        run = tiny_run(method=method, iterations=4)
        fs.train(run, progress=False, device="cpu")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _child(work: Callable[[], object], environment: dict[str, str], output: Path) -> None:
    """Does the work as a rank; never returns."""
    code = 1
    try:
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        os.environ.update(environment)
        torch.set_num_threads(1)
        work()
        code = 0
    except BaseException as error:
        code = getattr(error, "exit_code", 1)
        text = f"{type(error).__name__}: {error}" if code != 1 else traceback.format_exc()
        print(text, file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def start(size: int, work: Callable[[], object], folder: Path, **environment: str) -> list[int]:
    """Forks the ranks; returns their process ids. A single one gets no launcher's variables."""
    warm_up()
    folder.mkdir(parents=True, exist_ok=True)
    port = str(free_port())
    pids = []
    for rank in range(size):
        own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **environment}
        if size > 1:
            own |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
        pid = os.fork()
        if not pid:
            _child(work, own, folder / f"rank-{rank}.txt")
        pids.append(pid)
    return pids


def wait(pids: list[int], folder: Path, seconds: float = 60.0) -> list[Outcome]:
    """Waits for all of them; one that still runs after so many seconds is killed."""
    outcomes: dict[int, Outcome] = {}
    end = time.monotonic() + seconds
    while len(outcomes) < len(pids):
        for rank, pid in enumerate(pids):
            if rank in outcomes:
                continue
            child, status = os.waitpid(pid, os.WNOHANG)
            if child:
                text = (folder / f"rank-{rank}.txt").read_text()
                code = os.waitstatus_to_exitcode(status)
                outcomes[rank] = Outcome(code, text, time.monotonic())
            elif time.monotonic() > end:
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
        time.sleep(0.01)
    return [outcomes[rank] for rank in range(len(pids))]


def run(
    size: int, work: Callable[[], object], folder: Path, seconds: float = 60.0, **environment: str
) -> list[Outcome]:
    """Does the work on so many ranks to its end."""
    return wait(start(size, work, folder, **environment), folder, seconds)
