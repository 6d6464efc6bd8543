"""Jobs on all cores, each in a process of one thread; their outcomes as they come."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, Self

import torch

from fewstep.base.errors import FewstepError, Stopped
from fewstep.base.signals import stop_requests

BLINK = 0.2  # seconds between two looks at whether to stop

# (job, tell) -> result; tell(value) says something meanwhile.
Work = Callable[[Any, Callable[[Any], None]], Any]


def ignore(job: Any, value: Any) -> None:
    """What a job tells is not heard."""


class Pool:
    """`with Pool(work, count) as pool: for job, outcome in pool.outcomes(jobs): ...`

    work: a function of a module or a partial of one, since it crosses to other processes.
    count: processes; 1 works in this one. Where something stops it, on the way out a training that
    still runs saves itself; a second request to stop waits for nothing.
    """

    def __init__(self, work: Work, count: int) -> None:
        self.work, self.count = work, count
        self.workers: list[_Worker] = []
        self.signals = ExitStack()
        self.stops: list[int] = []

    def __enter__(self) -> Self:
        if self.count > 1:
            self.stops = self.signals.enter_context(stop_requests())
        return self

    def __exit__(self, *_: object) -> None:
        self.signals.close()
        try:
            for worker in self.workers:
                worker.process.terminate()
            for worker in self.workers:
                worker.connection.close()
                worker.process.join()
        finally:
            for worker in self.workers:
                worker.process.kill()

    def outcomes(
        self, jobs: Sequence[Any], hear: Callable[[Any, Any], None] = ignore
    ) -> Iterator[tuple[Any, Any]]:
        """(job, its result, or the FewstepError that ended it), in no order.

        hear: called with a job and each value that it tells. The death of a process is an error of
        its job alone. Raises Stopped where a job, or this process, was asked to stop.
        """
        steps = self._here(jobs, hear) if self.count == 1 else self._elsewhere([*jobs], hear)
        for job, outcome in steps:
            if isinstance(outcome, Stopped):
                raise outcome
            yield job, outcome

    def _here(
        self, jobs: Sequence[Any], hear: Callable[[Any, Any], None]
    ) -> Iterator[tuple[Any, Any]]:
        for job in jobs:
            yield job, _outcome(self.work, job, partial(hear, job))

    def _elsewhere(
        self, jobs: list[Any], hear: Callable[[Any, Any], None]
    ) -> Iterator[tuple[Any, Any]]:
        busy: dict[Connection, tuple[_Worker, Any]] = {}
        while jobs or busy:
            while jobs and len(busy) < self.count:
                worker = self._idle([one for one, _ in busy.values()])
                busy[worker.connection] = worker, jobs[0]
                worker.connection.send(jobs.pop(0))
            for connection in wait([*busy], BLINK):
                worker, job = busy[connection]  # type: ignore[index]
                is_end, value = worker.receive()
                if not is_end:
                    hear(job, value)
                    continue
                del busy[worker.connection]
                if not worker.process.is_alive():
                    self.workers.remove(worker)
                yield job, value
            if self.stops:
                raise Stopped("stopped")

    def _idle(self, busy: list[_Worker]) -> _Worker:
        """A process without a job; a new one where there is none."""
        for worker in self.workers:
            if worker not in busy:
                return worker
        self.workers.append(_Worker(self.work))
        return self.workers[-1]


class _Worker:
    """A process and the pipe to it."""

    def __init__(self, work: Work) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, work))
        with _no_interrupt():
            self.process.start()
        theirs.close()

    def receive(self) -> tuple[bool, Any]:
        """(whether the job has ended, its outcome or what it tells)."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return True, FewstepError(
                f"its process was ended from outside (exit code {self.process.exitcode}), perhaps"
                " for lack of memory: the same command goes on from there"
            )


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Inside, Ctrl-C waits, and a process that is started never hears it.

    It reaches all processes of a terminal; the parent decides what the others do.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, work: Work) -> None:
    """A worker's life: jobs from the pipe until it is closed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)

    def tell(value: Any) -> None:
        with suppress(OSError):
            connection.send((False, value))

    with suppress(EOFError, OSError):
        while True:
            connection.send((True, _outcome(work, connection.recv(), tell)))


def _end_with_parent() -> None:
    """Asks this process to stop when its parent is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _outcome(work: Work, job: Any, tell: Callable[[Any], None]) -> Any:
    """The result of a job, or its error without what cannot cross to another process."""
    try:
        return work(job, tell)
    except FewstepError as error:
        return type(error)(str(error))
    except Exception as error:  # of a user's own code, or ours
        traceback.print_exc()
        return FewstepError(f"{type(error).__name__}: {error}")
