"""Batches in the order of steps, drawn ahead by worker processes; their number changes no bit.

A batch is a pure function of its step: workers hold no state, and one that dies loses nothing. They
are forked, so they share the data's memory. They use one thread, leave the signals that stop a run
to it and close the files that it has locked. They end when the iterator is closed, or within
seconds of the run's own death.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader, Dataset

from fewstep.base.errors import FewstepError, UserError, WorkerError, require
from fewstep.base.randomness import generator
from fewstep.training.batches import Batch

AHEAD = 2  # batches that each worker draws before they are needed
STOPS = {
    *(signal.SIGINT, signal.SIGTERM),
    getattr(signal, "SIGHUP", signal.SIGTERM),
    getattr(signal, "SIGUSR1", signal.SIGTERM),
}
HINTS = {"SIGKILL": " (out of memory?)", "SIGBUS": " (is /dev/shm full?)"}


def batches(
    draw: Callable[[int], Batch],
    first: int,
    last: int,
    workers: int = 0,
    release: Sequence[int] = (),
) -> Generator[Batch, None, None]:
    """The batches of the steps [first, last) in order; closing the iterator ends its workers.

    draw: a function of the step alone, on the CPU. workers: processes that draw; 0 draws here, when
    a batch is needed. release: file descriptors that workers close, such as that of a lock, which a
    fork would go on holding.
    Raises a FewstepError of `draw` as it is; WorkerError, within seconds, where a worker dies.
    """
    require(workers >= 0, "workers", workers, "0 or more")
    if workers == 0:
        yield from map(draw, range(first, last))
        return
    if "fork" not in multiprocessing.get_all_start_methods():
        raise UserError(
            f"workers = {workers}: this system cannot fork: --workers 0 draws in the run itself"
        )
    with _quietly():
        loader = DataLoader(
            _Draws(draw, first, last),
            sampler=range(first, last),
            batch_size=None,
            num_workers=min(workers, max(1, last - first)),
            collate_fn=_as_it_is,
            prefetch_factor=AHEAD,
            multiprocessing_context="fork",
            worker_init_fn=_Start(tuple(release)),
            # Nothing here draws from it; without it PyTorch would draw from the global one.
            generator=generator(0, "workers"),
        )
        iterator: Any = iter(loader)
    try:
        for step in range(first, last):
            yield _next(iterator, step)
    finally:
        _end(iterator)


@dataclass(frozen=True)
class _Draws(Dataset[Any]):
    """The batch of each step, or the error of drawing it, which the run raises as its own."""

    draw: Callable[[int], Batch]
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, step: int) -> Batch | FewstepError:
        try:
            return self.draw(step)
        except FewstepError as error:
            return error


def _as_it_is(batch: Any) -> Any:
    return batch


@dataclass(frozen=True)
class _Start:
    """What a worker does first: a signal to the whole group of processes is the run's to answer."""

    release: tuple[int, ...]

    def __call__(self, number: int) -> None:
        for stop in STOPS:
            signal.signal(stop, signal.SIG_IGN)
        for descriptor in self.release:
            with suppress(OSError):
                os.close(descriptor)


@contextmanager
def _quietly() -> Iterator[None]:
    """Starts workers out of reach of signals, without the handler that torch sets for their death.

    That handler raises wherever the run is, even in an update of the weights; here a death is
    noticed when the next batch is needed. The warnings are of forks beside threads (tqdm's) and of
    few cores.
    """
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGCHLD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # workers inherit it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if main:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if handler is None else handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _next(iterator: Any, step: int) -> Batch:
    try:
        result: Batch | FewstepError = next(iterator)
    except Exception as error:  # raised in a worker, or by its death
        raise _death(iterator._workers, step) or error from None
    if isinstance(result, FewstepError):
        raise result
    return result


def _death(workers: Sequence[BaseProcess], step: int) -> WorkerError | None:
    """The error that names the worker which has died; None where none has."""
    end = time.monotonic() + 1  # its pipes break before the system says that it is gone
    while not (dead := [n for n, worker in enumerate(workers) if not worker.is_alive()]):
        if time.monotonic() > end:
            return None
        time.sleep(0.01)
    worker = workers[dead[0]]
    code = worker.exitcode or 0
    if code < 0:
        name = signal.Signals(-code).name
        how = f"was killed by {name}{HINTS.get(name, '')}"
    else:
        how = f"ended with exit code {code}"
    return WorkerError(
        f"worker {dead[0]} (pid {worker.pid}) {how} while step {step} was awaited: continue with"
        " --resume, or --workers 0"
    )


def _end(iterator: Any) -> None:
    """Ends the workers; kills them first where one has died, which may have held their lock."""
    if not all(worker.is_alive() for worker in iterator._workers):
        for worker in iterator._workers:
            worker.kill()
    iterator._shutdown_workers()
    for worker in iterator._workers:
        worker.kill()
        worker.join()
