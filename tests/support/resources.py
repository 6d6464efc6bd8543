"""The memory of this process, measured by a thread; calls in a process with limits of its own."""

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
    """Bytes that the process has in memory now; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0


class Watch:
    """The most that was in memory above the start, sampled every few milliseconds."""

    def __init__(self, every: float = 0.005) -> None:
        self.every = every
        self.first = self.most = resident()
        self.stop_event = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self.stop_event.wait(self.every):
            self.most = max(self.most, resident())

    def start(self) -> None:
        self.first = self.most = resident()
        self.thread.start()

    def stop(self) -> None:
        self.stop_event.set()
        self.thread.join()

    def growth(self) -> int:
        self.most = max(self.most, resident())
        return self.most - self.first


class Outcome(NamedTuple):
    """The outcome of a call in a process of its own."""

    value: Any  # what it returned, or the exception's type and text
    seconds: float  # of the processor
    growth: int  # bytes above the start
    end: str  # "returned", "raised" or "killed"


class _Late(BaseException):
    pass


def contained(call: Callable[[], Any], seconds: float = 30.0, memory: int = 512 * MIB) -> Outcome:
    """The outcome of a call in a forked child with these limits of time and memory."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 on forks beside threads: none holds a lock.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            message = json.dumps(_outcome(call, seconds, memory), default=str).encode()
            os.write(writer, message[:60_000])
        finally:
            os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], 2 * seconds)
    with os.fdopen(reader, "rb") as file:
        if not ready:
            os.kill(child, signal.SIGKILL)
        message = file.read()
    os.waitpid(child, 0)
    return Outcome(*json.loads(message)) if message else Outcome("", seconds, 0, "killed")


def _outcome(call: Callable[[], Any], seconds: float, memory: int) -> list[Any]:
    def late(number: int, frame: object) -> None:
        raise _Late(f"more than {seconds} s")

    sizes = Path("/proc/self/statm")
    if sizes.exists():
        limit = int(sizes.read_text().split()[0]) * _PAGE + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    watch = Watch()
    start = time.process_time()
    watch.start()
    try:
        value, end = call(), "returned"
    except BaseException as error:
        value, end = [type(error).__name__, str(error)], "raised"
    signal.setitimer(signal.ITIMER_REAL, 0)
    seconds_used = time.process_time() - start
    watch.stop()
    return [value, seconds_used, watch.growth(), end]
