"""The memory of this process, watched by a thread while it works; calls in a process that can take
no more of it.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

MIB = 2**20
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Bytes that the process has in memory now; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0


class Watch:
    """The most that was in memory above the start, looked at every few milliseconds."""

    def __init__(self, every: float = 0.005) -> None:
        self.every, self.first, self.most = every, resident(), resident()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self.ended.wait(self.every):
            self.most = max(self.most, resident())

    def start(self) -> None:
        self.first = self.most = resident()
        self.thread.start()

    def stop(self) -> None:
        self.ended.set()
        self.thread.join()

    def grown(self) -> int:
        self.most = max(self.most, resident())
        return self.most - self.first


class Outcome(NamedTuple):
    """What became of a call in a process of its own."""

    value: Any  # what it returned, or the exception's type and text
    seconds: float  # of the processor
    grown: int  # bytes above the start
    ended: str  # "returned", "raised" or "killed"


class _Late(BaseException):
    pass


def contained(call: Callable[[], Any], seconds: float = 30.0, memory: int = 512 * MIB) -> Outcome:
    """The outcome of a call in a forked child that can take neither more time nor more memory than
    that.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # Python 3.12 on forks beside threads: none holds a lock
        child = os.fork()
    if child == 0:
        try:
            told = json.dumps(_outcome(call, seconds, memory), default=str).encode()
            os.write(writer, told[:60_000])
        finally:
            os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], 2 * seconds)
    with os.fdopen(reader, "rb") as file:
        if not ready:
            os.kill(child, signal.SIGKILL)
        told = file.read()
    os.waitpid(child, 0)
    return Outcome(*json.loads(told)) if told else Outcome("", seconds, 0, "killed")


def _outcome(call: Callable[[], Any], seconds: float, memory: int) -> list[Any]:
    def late(number: int, frame: object) -> None:
        raise _Late(f"more than {seconds} s")

    size = (
        int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE
        if Path("/proc/self/statm").exists()
        else 0
    )
    if size:
        resource.setrlimit(resource.RLIMIT_AS, (size + memory, size + memory))
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    watch, began = Watch(), time.process_time()
    watch.start()
    try:
        value, ended = call(), "returned"
    except BaseException as error:
        value, ended = [type(error).__name__, str(error)], "raised"
    signal.setitimer(signal.ITIMER_REAL, 0)
    took = time.process_time() - began
    watch.stop()
    return [value, took, watch.grown(), ended]
