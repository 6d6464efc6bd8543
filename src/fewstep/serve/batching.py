"""A few threads that sample for many: requests that wait are rows of one batch.

While the network works, requests gather; then the oldest takes its rows, and others with the same
sampler and times fill the batch. A request with more rows than a batch has goes to the back after
its turn, so that small ones do not wait for all of it. On a processor several batches at once, each
with few threads, are quicker than one with all of them.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

import torch
from torch import Tensor

from fewstep.base.errors import FewstepError, NonFiniteError, UserError
from fewstep.base.memory import FEW, MOST
from fewstep.base.surroundings import surroundings, threads
from fewstep.core.compiling import is_compiled
from fewstep.run.generator import Generator
from fewstep.run.plan import Plan, cut, make

log = logging.getLogger("fewstep")

MOST_WORKERS = 4
# Samples of the passes that are compiled before the first request: two numbers for all, since torch
# has to see a second, and one for a single sample.
FIRST_SIZES = (2, 3, 1)
SMOOTHING = 0.2  # weight of the newest batch in the rate
# Bytes that a batch's tensors take where it is quickest: more leave the processor's caches.
QUICK = {"cpu": 2**25}


class Job:
    """The samples of one plan: those that are there, and what waits for all of them."""

    def __init__(self, plan: Plan, parts: Iterator[Tensor] | None) -> None:
        self.plan = plan
        self.parts = parts  # of one that shares no batch
        self.result: Future[Tensor] = Future()
        self.next = 0  # row that no batch has yet
        self.count = 0  # rows that are there
        self.samples: Tensor | None = None
        self.lock = threading.Lock()

    def shares(self, other: Job) -> bool:
        """Whether rows of both may be in one batch."""
        alone = self.parts is not None or other.parts is not None
        same = self.plan.sampler == other.plan.sampler and self.plan.grid == other.plan.grid
        return same and not alone

    def take(self, most: int) -> range:
        """The next rows, so many at most."""
        rows = range(self.next, min(self.next + most, self.plan.n))
        self.next = rows.stop
        return rows

    def put(self, rows: range, part: Tensor) -> None:
        """Keeps the samples of these rows. The last ones complete the job."""
        if not bool(part.isfinite().all()):
            self.fail(NonFiniteError("the samples are not finite: the run's weights have diverged"))
            return
        with self.lock:
            if self.samples is None:
                self.samples = part.new_empty(self.plan.n, *part.shape[1:])
            self.samples[rows.start : rows.stop] = part
            self.count += len(rows)
            is_complete = self.count == self.plan.n
        if is_complete:
            self._end(self.samples)

    def fail(self, error: Exception) -> None:
        self._end(error)

    def _end(self, outcome: Tensor | Exception) -> None:
        try:
            if isinstance(outcome, Exception):
                self.result.set_exception(outcome)
            else:
                self.result.set_result(outcome)
        except InvalidStateError:
            pass  # whoever asked has gone


class Batcher:
    """The queue of a generator's jobs, and the threads that work on them.

    batch: rows at once; None is what is quick and memory takes. workers: batches at once; None is 4
    on a processor of so many cores, and 1 elsewhere. thread_count: torch's, of each worker; None
    shares the cores among them.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        batch: int | None = None,
        workers: int | None = None,
        thread_count: int | None = None,
    ) -> None:
        self.generator = generator
        self._plain = generator.compile("off")
        self.batch = batch
        cores = torch.get_num_threads()
        few = min(cores, MOST_WORKERS) if generator.device.type == "cpu" else 1
        self.workers = few if workers is None else workers
        self.thread_count = max(cores // self.workers, 1) if thread_count is None else thread_count
        self._all_threads = cores
        self._worker_rate = 0.0  # samples per second of late
        self._jobs: deque[Job] = deque()
        self._change = threading.Condition()
        self._exact = threading.Lock()  # one at a time: they set the number of threads
        self._is_closing = False
        self._ready = threading.Barrier(self.workers + 1)
        self._threads = [
            threading.Thread(target=self._work, name=f"fewstep-samples-{number}", daemon=True)
            for number in range(self.workers)
        ]

    def start(self) -> None:
        """Begins to work; passes are compiled before, for as many threads.

        Of a generator that needs conditions beyond a label the first request compiles them.
        """
        if is_compiled(self.generator.denoiser):
            with threads(self.thread_count), suppress(UserError):
                for n in FIRST_SIZES:
                    self.generator.sample(n, batch=n)
        for thread in self._threads:
            thread.start()
        self._ready.wait()

    def close(self) -> None:
        """Ends the threads when all jobs are done."""
        with self._change:
            self._is_closing = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    @property
    def is_alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    @property
    def rate(self) -> float:
        """Samples per second of late, with all workers at work; 0 while that is unknown."""
        return self.workers * self._worker_rate

    def submit(self, plan: Plan, *, exact: bool = False) -> Future[Tensor]:
        """The samples of a plan, once they are there; cancel it where nobody waits any more.

        exact: in batches of its own and with all threads, as `Generator.sample` in a process of its
        own, and so with the same bits.
        """
        job = Job(plan, self._alone(plan) if exact else None)
        with self._change:
            self._jobs.append(job)
            self._change.notify()
        return job.result

    def _alone(self, plan: Plan) -> Iterator[Tensor]:
        g = self._plain
        return g.room.parts(plan.n, lambda rows: make(g, [(plan, rows)]), None, g.device)

    def _work(self) -> None:
        with surroundings(), threads(self.thread_count):
            self._ready.wait()
            while pieces := self._next():
                start = time.monotonic()
                rate = self._make(pieces) / max(time.monotonic() - start, 1e-9)
                before = self._worker_rate or rate
                self._worker_rate = before + SMOOTHING * (rate - before)

    def _next(self) -> list[tuple[Job, range]]:
        """Rows of jobs for the next batch; nothing when the thread is to end."""
        with self._change:
            while True:
                while self._jobs and self._jobs[0].result.done():
                    self._jobs.popleft()
                if self._jobs:
                    break
                if self._is_closing:
                    return []
                self._change.wait()
            first = self._jobs.popleft()
            if first.parts is not None:
                return [(first, range(first.count, first.plan.n))]
        most = self._most(first.plan)
        with self._change:
            return self._fill(first, most)

    def _fill(self, first: Job, most: int) -> list[tuple[Job, range]]:
        """The first job's next rows, and those of others as far as there is room."""
        pieces = [(first, first.take(most))]
        room = most - len(pieces[0][1])
        others: deque[Job] = deque()
        for job in self._jobs:
            if job.result.done():
                continue
            if room and job.shares(first):
                rows = job.take(room)
                pieces.append((job, rows))
                room -= len(rows)
            if job.next < job.plan.n:
                others.append(job)
        if first.next < first.plan.n:
            others.append(first)
        self._jobs = others
        if others:
            self._change.notify()
        return pieces

    def _most(self, plan: Plan) -> int:
        """Rows of a batch."""
        g = self.generator
        if self.batch is None:
            size = g.room.rows(MOST, lambda rows: make(g, [(plan, range(1))] * len(rows)), g.device)
            quick = QUICK.get(g.device.type, math.inf) / max(g.room.row or 0.0, 1.0)
            self.batch = int(max(min(size, quick), min(size, FEW)))
        return max(int(min(self.batch, g.room.most)), 1)

    def _make(self, pieces: Sequence[tuple[Job, range]]) -> int:
        """Makes the rows and hands them out, and says how many there were.

        Where that fails, each job's are tried alone, so that one cannot spoil another.
        """
        try:
            if pieces[0][0].parts is not None:
                return self._make_alone(pieces[0][0])
            return self._make_together(pieces)
        except Exception as error:
            if len(pieces) > 1:
                return sum(self._make([piece]) for piece in pieces)
            if not isinstance(error, FewstepError):
                log.exception("fewstep: a request failed")
            pieces[0][0].fail(error)
            return 0

    def _make_together(self, pieces: Sequence[tuple[Job, range]]) -> int:
        g = self.generator
        plans = [(job.plan, rows) for job, rows in pieces]
        counts = [len(rows) for _, rows in pieces]
        total = sum(counts)
        parts = list(g.room.parts(total, lambda rows: make(g, cut(plans, rows)), total, g.device))
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        for (job, rows), samples in zip(pieces, whole.split(counts), strict=True):
            job.put(rows, samples)
        return total

    def _make_alone(self, job: Job) -> int:
        """The next part of a job that shares no batch; then it is another's turn."""
        assert job.parts is not None
        with self._exact, threads(self._all_threads):
            part = next(job.parts)
        job.put(range(job.count, job.count + len(part)), part)
        if not job.result.done():
            with self._change:
                self._jobs.append(job)
        return len(part)
