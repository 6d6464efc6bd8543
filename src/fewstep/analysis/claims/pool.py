"""Jobs on all cores: each in a process of one thread, results handed over as they come."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from fewstep.analysis.claims.measurements import Job, Store
from fewstep.base.errors import FewstepError, Stopped, require

SHARED = "shared"  # the folder beside claims.json of what several jobs read


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered(jobs: list[Job]) -> list[Job]:
    """Each once, what they need included and first; then the dearest first, so that no core is left
    with one.
    """
    found: dict[tuple[str, int], Job] = {}

    def add(job: Job) -> None:
        for row in job.row.needs:
            for seed in (job.seed,) if row.seeded else row.seeds(1):
                add(Job(row, seed))
        found.setdefault(job.key, job)

    for job in sorted(jobs, key=lambda job: -job.row.cost):
        add(job)
    needed = {row.digest for job in found.values() for row in job.row.needs}
    return sorted(found.values(), key=lambda job: job.row.digest not in needed)


def ready(job: Job, waiting: set[tuple[str, int]]) -> bool:
    """Whether nothing that the job needs is still to be measured."""
    return not any((row.digest, job.seed if row.seeded else 0) in waiting for row in job.row.needs)


def measured(job: Job, shared: Path) -> dict[str, Any]:
    """What a worker does: the numbers, and the CPU seconds they took."""
    begun = time.process_time()
    found = job.row.measure(shared, job.seed)
    return {**found, "job_seconds": time.process_time() - begun}


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    torch.set_num_threads(1)


def here(jobs: list[Job], shared: Path) -> Iterator[tuple[Job, dict[str, Any]]]:
    """The results one after another, in this process."""
    for job in jobs:
        yield job, measured(job, shared)


def spread(jobs: list[Job], shared: Path, workers: int) -> Iterator[tuple[Job, dict[str, Any]]]:
    """The results as they come, from `workers` processes that are ended whatever happens here."""
    left, running = list(jobs), dict[Future[dict[str, Any]], Job]()
    context = multiprocessing.get_context("spawn")
    before, pool = (
        set(multiprocessing.active_children()),
        ProcessPoolExecutor(workers, context, _begin),
    )
    try:
        while left or running:
            waiting = {job.key for job in (*left, *running.values())}
            for job in [job for job in left if ready(job, waiting - {job.key})][
                : workers - len(running)
            ]:
                left.remove(job)
                running[pool.submit(measured, job, shared)] = job
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(done), done.result()
        pool.shutdown()
    except BrokenProcessPool as error:
        raise FewstepError(
            "a worker was ended from outside, memory perhaps: go on with the same command"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()


def work(jobs: list[Job], store: Store, *, workers: int | None, progress: bool) -> None:
    """Measures what the store lacks, and keeps every result at once.

    workers: processes, the cores by default; 1 works in this process. Raises Stopped on Ctrl-C.
    """
    count = cores() if workers is None else workers
    require(count >= 1, "jobs", count, "1 or more")
    todo = [job for job in ordered(jobs) if not store.has(job)]
    shared = store.folder / SHARED
    shared.mkdir(parents=True, exist_ok=True)
    total, threads = sum(job.row.cost for job in todo), torch.get_num_threads()
    form = "{percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"
    torch.set_num_threads(1)
    try:
        with tqdm(total=total, disable=not progress, bar_format=form) as bar:
            results = here(todo, shared) if count == 1 else spread(todo, shared, count)
            for number, (job, found) in enumerate(results, 1):
                store.put(job, found)
                bar.set_postfix_str(f"{number} of {len(todo)} jobs", refresh=False)
                bar.update(job.row.cost)
    except (KeyboardInterrupt, Stopped):
        raise Stopped(
            f"stopped: what was measured is in {store.folder}; the same command goes on from there"
        ) from None
    finally:
        torch.set_num_threads(threads)
