"""How a lost process of several is noticed, and the others end.

Each writes a sign of life into the store at which they met. A collective operation with a dead
process would wait for as long as half an hour, so a thread watches the signs and ends this process
when another one is lost.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

from fewstep.base.errors import FewstepError, RankLost, StorageError, UserError, require
from fewstep.base.world import World

# Seconds without a sign of life after which a rank is lost; FEWSTEP_RANK_TIMEOUT sets another.
LIMIT = 8.0
BEAT = 0.5  # seconds between signs


def limit_of(env: Mapping[str, str] = os.environ) -> float:
    """Seconds without a sign of life after which a rank is lost. Raises UserError."""
    text = env.get("FEWSTEP_RANK_TIMEOUT", str(LIMIT))
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    require(value > 0, "FEWSTEP_RANK_TIMEOUT", text, "seconds above 0")
    return value


def summary(error: BaseException) -> str:
    """An error's type and first line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:400]


def is_of_another(error: BaseException) -> bool:
    """Whether an error is what a collective operation raises when another process is gone."""
    from torch import distributed

    if isinstance(error, distributed.DistError):
        return True
    words = ("gloo", "NCCL", "peer")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


class Watch:
    """Writes this rank's signs of life and reads the others'; ends the process if one is lost."""

    def __init__(self, world: World, then: str, run: int) -> None:
        from torch import distributed

        self.world = world
        self.then = then
        self.limit = limit_of()
        self.over = threading.Event()
        self.code: int | None = None  # the exit code of a rank that failed
        # The last sign of each rank, and when it was read first.
        self.signs: dict[int, tuple[Any, float]] = {}
        self.prefix = f"fewstep/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{run}"
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store: Any = distributed.TCPStore  # type: ignore[attr-defined]
        limit = timedelta(seconds=self.limit)
        self.store = store(*place, is_master=False, timeout=limit)  # of the thread
        self.main_store = store(*place, is_master=False, timeout=limit)  # of the main thread
        self._sign(0)
        distributed.barrier()  # everybody's first sign is there
        for rank in range(world.size):
            self._cause(rank)
        self.thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.thread.start()

    def _key(self, kind: str, rank: int) -> str:
        return f"{self.prefix}/{kind}/{rank}"

    def _sign(self, number: int) -> None:
        sign = {"pid": os.getpid(), "host": socket.gethostname(), "space": _space(), "n": number}
        self.store.set(self._key("life", self.world.rank), json.dumps(sign))

    def _run(self) -> None:
        others = [rank for rank in range(self.world.size) if rank != self.world.rank]
        number = 0
        while not self.over.wait(BEAT):
            number += 1
            try:
                self._sign(number)
                for rank in others:
                    if cause := self._cause(rank):
                        self._end(rank, cause)
            except Exception as error:
                # A killed process closes its connections before it is gone.
                if not self.over.wait(2 * BEAT):
                    message = f"the store that all ranks met at is gone ({summary(error)})"
                    self._end(0, self._cause_of_loss(0) or message)

    def _cause(self, rank: int) -> str | None:
        """Why a rank is lost; None while it lives."""
        if self.store.check([self._key("failed", rank)]):
            failure = json.loads(self.store.get(self._key("failed", rank)))
            self.code = int(failure["code"])
            return str(failure["told"])
        sign = json.loads(self.store.get(self._key("life", rank)))
        now = time.monotonic()
        before, since = self.signs.get(rank, (None, now))
        if sign != before:
            since = now
        self.signs[rank] = sign, since
        if now - since > self.limit:
            process = f"process {sign['pid']} on {sign['host']}"
            return f"no sign of life for {self.limit:g} s from {process}"
        return self._cause_of_loss(rank)

    def _cause_of_loss(self, rank: int) -> str | None:
        """Why a rank's process is gone; None where it lives, or where this machine cannot tell."""
        sign, _ = self.signs.get(rank, (None, 0.0))
        if sign is None or sign["space"] != _space() or _alive(sign["pid"]):
            return None
        return f"process {sign['pid']} on {sign['host']} is gone: killed, or out of memory"

    def _end(self, rank: int, cause: str) -> None:
        """Ends this process: its main thread may wait in an operation that nobody will answer."""
        code = RankLost.exit_code if self.code is None else self.code
        hint = f"; {self.then}" if code == RankLost.exit_code else ""
        line = f"fewstep: rank {self.world.rank}: rank {rank} is lost: {cause}{hint}"
        print(line, file=sys.stderr, flush=True)
        self._keep_store()
        os._exit(code)

    def _keep_store(self) -> None:
        """Rank 0 may hold the store, where the others shall find the same cause: it ends last."""
        if self.world.main:
            time.sleep(4 * BEAT)

    def finish(self) -> None:
        """Waits until every rank has come to its end: one of them holds the store."""
        from torch import distributed

        distributed.barrier()
        self.over.set()
        self.thread.join()
        distributed.barrier()

    def fail(self, error: BaseException) -> None:
        """Tells the others why this rank stops; if another is the cause, waits for its name."""
        if is_of_another(error) and not isinstance(error, FewstepError):
            # The thread ends this process as soon as it knows which one it was.
            time.sleep(self.limit + 2)
        self.over.set()
        code = RankLost.exit_code
        if isinstance(error, UserError | StorageError):
            code = error.exit_code
        failure = {"told": summary(error), "code": code}
        with suppress(Exception):
            self.main_store.set(self._key("failed", self.world.rank), json.dumps(failure))
            self._keep_store()


def _space() -> str:
    """The space in which a process number has one meaning: this container, since the last boot."""
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return f"{file.read().strip()} {os.stat('/proc/self/ns/pid').st_ino}"
    return f"{socket.gethostname()} {os.getpid()}"  # unknown: no other process is in it


def _alive(pid: int) -> bool:
    """Whether a process of this machine lives, and is not only waiting to be reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    with suppress(OSError, IndexError), open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    return True
