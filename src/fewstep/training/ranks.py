"""Several processes as one run: how they find each other, and how one that is lost is noticed and
named.

Processes are started by torchrun, by Slurm's srun or by accelerate's launcher; PyTorch's engine
connects them. Each shows signs of life in the store that they met at. A collective operation with a
dead process would wait for as long as half an hour, so a thread beside it watches the signs and
ends the process that waits.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch

from fewstep.base.device import pick_device
from fewstep.base.errors import (
    FewstepError,
    NonFiniteError,
    RankLost,
    Stopped,
    StorageError,
    UserError,
    require,
)
from fewstep.base.world import ALONE, World

# seconds without a sign of life after which a rank is lost; FEWSTEP_RANK_TIMEOUT sets another
LIMIT = 8.0
BEAT = 0.5  # seconds between signs
MEETING = timedelta(minutes=30)  # that ranks wait for each other at the start, and in one operation

_runs = 0  # of this process so far, so that each has signs of its own


def launched_world(env: Mapping[str, str] = os.environ) -> World:
    """The place that a launcher gave this process: torchrun's and accelerate's variables, else
    those of an srun step.

    Raises UserError where a launcher says that there are several processes and not where they meet.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "WORLD_SIZE" not in env:
        names = (
            "SLURM_PROCID",
            "SLURM_STEP_NUM_TASKS",
            "SLURM_LOCALID",
        )  # not of the batch script itself: it is one
    try:
        rank, size, local = (
            int(env.get(name, default))
            for name, default in zip(names, ("0", "1", "0"), strict=True)
        )
    except ValueError as error:
        raise UserError(
            f"{', '.join(names)} of the environment: expected whole numbers ({error})"
        ) from error
    if size == 1:
        return ALONE
    require(0 <= rank < size, names[0], rank, f"a rank in 0 .. {size - 1}")
    if lost := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in env]:
        raise UserError(
            f"{size} processes without {' and '.join(lost)}: export where rank 0 listens, or use"
            " torchrun"
        )
    return World(rank, size, local)


@contextmanager
def joined(device: str) -> Iterator[tuple[World, torch.device]]:
    """The world of a run and this rank's device, connected for as long as this lasts; alone without
    a launcher.

    What fails on one rank is told to the others, which then end with its exit code, or 5. Raises
    UserError.
    """
    world = launched_world()
    place = pick_device(device, world.local if world.size > 1 else None)
    if place.type == "cuda":
        torch.cuda.set_device(place)  # fused kernels, nccl and generators go by it
    if world.size == 1:
        yield world, place
        return
    from torch import distributed

    own = not distributed.is_initialized()
    if own:
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo",
            rank=world.rank,
            world_size=world.size,
            timeout=MEETING,
        )
    told = logging.getLogger("fewstep")
    level = told.level
    told.setLevel(level if world.main else logging.ERROR)  # rank 0 warns for all
    watch = Watch(world)
    try:
        yield world, place
        watch.done()
    except (Stopped, NonFiniteError):  # which all ranks are alike
        watch.done()
        raise
    except BaseException as error:
        watch.failed(error)
        raise
    finally:
        told.setLevel(level)
    if own:  # only where all have ended well: with an operation pending, this could wait for ever
        distributed.destroy_process_group()


def limit_of(env: Mapping[str, str] = os.environ) -> float:
    """Seconds without a sign of life after which a rank is lost. Raises UserError."""
    text = env.get("FEWSTEP_RANK_TIMEOUT", str(LIMIT))
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    require(value > 0, "FEWSTEP_RANK_TIMEOUT", text, "seconds above 0")
    return value


def agree(world: World, what: str, mine: str) -> None:
    """Raises UserError where a rank says something else than rank 0 does."""
    told = world.texts(mine)
    for rank, text in enumerate(told):
        if text != told[0]:
            raise UserError(
                f"{what}: rank {rank} has {text!r}, rank 0 has {told[0]!r}: all ranks must see the"
                " same"
            )


def told_of(error: BaseException) -> str:
    """An error's type and first line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:400]


def of_another(error: BaseException) -> bool:
    """Whether an error is what a collective operation says when another process is gone."""
    from torch import distributed

    network = isinstance(error, distributed.DistError)
    return network or (
        isinstance(error, RuntimeError) and any(w in str(error) for w in ("gloo", "NCCL", "peer"))
    )


class Watch:
    """Shows this rank's signs of life and looks at those of the others; ends this process when one
    is lost.
    """

    def __init__(self, world: World) -> None:
        from torch import distributed

        global _runs
        _runs += 1
        self.world, self.limit, self.over = world, limit_of(), threading.Event()
        self.code: int | None = None  # with which a rank that failed ended
        self.seen: dict[
            int, tuple[Any, float]
        ] = {}  # the last sign of each rank, and since when it is that
        self.of = f"fewstep/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{_runs}"
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store: Any = distributed.TCPStore  # type: ignore[attr-defined]
        limit = timedelta(seconds=self.limit)
        self.store = store(*place, is_master=False, timeout=limit)  # of the thread
        self.told = store(*place, is_master=False, timeout=limit)
        self._sign(0)
        distributed.barrier()  # everybody's first sign is there
        for rank in range(world.size):
            self._lost(rank)
        self.thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.thread.start()

    def _key(self, kind: str, rank: int) -> str:
        return f"{self.of}/{kind}/{rank}"

    def _sign(self, number: int) -> None:
        told = {"pid": os.getpid(), "host": socket.gethostname(), "space": _space(), "n": number}
        self.store.set(self._key("life", self.world.rank), json.dumps(told))

    def _run(self) -> None:
        others = [rank for rank in range(self.world.size) if rank != self.world.rank]
        number = 0
        while not self.over.wait(BEAT):
            number += 1
            try:
                self._sign(number)
                for rank in others:
                    if cause := self._lost(rank):
                        self._end(rank, cause)
            except Exception as error:
                if not self.over.wait(
                    2 * BEAT
                ):  # a killed process closes its connections before it is gone
                    self._end(
                        0,
                        self._gone(0)
                        or f"the store that all ranks met at is gone ({told_of(error)})",
                    )

    def _lost(self, rank: int) -> str | None:
        """Why a rank is lost; None while it lives."""
        if self.store.check([self._key("failed", rank)]):
            told = json.loads(self.store.get(self._key("failed", rank)))
            self.code = int(told["code"])
            return str(told["told"])
        told, now = json.loads(self.store.get(self._key("life", rank))), time.monotonic()
        before, since = self.seen.get(rank, (None, now))
        self.seen[rank] = told, since if told == before else now
        if now - self.seen[rank][1] > self.limit:
            return (
                f"no sign of life for {self.limit:g} s from process {told['pid']} on {told['host']}"
            )
        return self._gone(rank)

    def _gone(self, rank: int) -> str | None:
        """Why the process of a rank is no more, where this machine can tell; None where it cannot,
        or lives.
        """
        told = self.seen.get(rank, (None, 0.0))[0]
        if told is None or told["space"] != _space() or _alive(told["pid"]):
            return None
        return f"process {told['pid']} on {told['host']} is gone: killed, or out of memory"

    def _end(self, rank: int, cause: str) -> None:
        """Ends this process: its main thread may wait in an operation that nobody will answer."""
        code = RankLost.exit_code if self.code is None else self.code
        again = "; continue with --resume" if code == RankLost.exit_code else ""
        print(
            f"fewstep: rank {self.world.rank}: rank {rank} is lost: {cause}{again}",
            file=sys.stderr,
            flush=True,
        )
        if self.world.main:
            time.sleep(
                4 * BEAT
            )  # this rank may hold the store, where the others shall find the same cause
        os._exit(code)

    def done(self) -> None:
        """Waits until every rank has come to its end: one of them holds the store."""
        from torch import distributed

        distributed.barrier()
        self.over.set()
        self.thread.join()
        distributed.barrier()

    def failed(self, error: BaseException) -> None:
        """Tells the others why this rank stops; where another one is the cause, waits until that
        one is named.
        """
        if of_another(error) and not isinstance(error, FewstepError):
            time.sleep(
                self.limit + 2
            )  # the thread ends this process as soon as it knows who it was
        self.over.set()
        with suppress(Exception):
            code = (
                error.exit_code
                if isinstance(error, UserError | StorageError)
                else RankLost.exit_code
            )
            self.told.set(
                self._key("failed", self.world.rank),
                json.dumps({"told": told_of(error), "code": code}),
            )
            if self.world.main:
                time.sleep(4 * BEAT)  # likewise


def _space() -> str:
    """Where process numbers mean the same: this start of this machine, and of this container of it."""
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
