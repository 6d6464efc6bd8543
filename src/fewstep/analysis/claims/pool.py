"""Jobs on all cores, each in a process of one thread; every result is stored as it comes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fewstep.analysis.claims.claim import Row
from fewstep.base import disk
from fewstep.base.errors import FewstepError, Stopped, StorageError, require, storage
from fewstep.base.progress import Progress
from fewstep.base.surroundings import cores, threads

SHARED = "shared"  # the folder beside claims.json of files that several jobs read

Numbers = dict[str, Any]


class Job(NamedTuple):
    """One row at one seed."""

    row: Row
    seed: int


class Store:
    """`claims.json`: every number by the digest of its settings, written whole after each job.

    Raises StorageError if it cannot be read or made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "claims.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            facts = json.loads(self.file.read_text()) if self.file.exists() else {}
            self.results, self.claims = facts.get("measured", {}), facts.get("claims", {})
        except (OSError, ValueError, AttributeError) as error:
            expected = "expected what --claims wrote, or another --out"
            raise StorageError(f"{self.file}: {error}: {expected}") from error

    def seeds(self, row: Row) -> dict[str, Numbers]:
        """The row's numbers by seed."""
        return self.results.get(row.digest, {}).get("seeds", {})

    def has(self, job: Job) -> bool:
        return str(job.seed) in self.seeds(job.row)

    def put(self, job: Job, numbers: Numbers) -> None:
        row = job.row
        empty = {"settings": row.settings, "command": row.command, "seeds": {}}
        self.results.setdefault(row.digest, empty)["seeds"][str(job.seed)] = numbers
        self.write()

    def write(self) -> None:
        facts = {"torch": torch.__version__, "cores": os.cpu_count(), "claims": self.claims}
        text = json.dumps({**facts, "measured": self.results}, indent=1) + "\n"
        with storage(f"cannot write {self.file}"):
            disk.replace(self.file, text.encode())


def waves(jobs: Sequence[Job]) -> list[list[Job]]:
    """Each job once, and what it needs in a wave before its own; in a wave the dearest first."""
    unique: dict[tuple[str, int], Job] = {}
    todo = list(jobs)
    for row, seed in todo:  # which grows
        unique.setdefault((row.digest, seed), Job(row, seed))
        todo += [Job(need, seed if need.by_seed else 0) for need in row.needs]
    in_order = sorted(unique.values(), key=lambda job: (job.row.depth, -job.row.cost))
    return [list(wave) for _, wave in groupby(in_order, key=lambda job: job.row.depth)]


def measure(job: Job, folder: Path) -> Numbers:
    """What a worker does: the numbers, and the CPU seconds they took."""
    start = time.process_time()
    numbers = job.row.measure(folder, job.seed)
    return {**numbers, "job_seconds": time.process_time() - start}


def results_of(jobs: list[list[Job]], folder: Path, workers: int) -> Iterator[tuple[Job, Numbers]]:
    """The results as they come, from processes that end whatever happens here; 1 is this one."""
    if workers == 1:
        yield from ((job, measure(job, folder)) for wave in jobs for job in wave)
        return
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
    try:
        for wave in jobs:
            futures = {pool.submit(measure, job, folder): job for job in wave}
            for future in as_completed(futures):
                yield futures[future], future.result()
        pool.shutdown()
    except BrokenProcessPool as error:
        raise FewstepError(
            "a worker was ended from outside, perhaps for lack of memory: the same command goes on"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    torch.set_num_threads(1)


def work(jobs: Sequence[Job], store: Store, *, workers: int | None, progress: bool) -> None:
    """Measures what the store lacks, and stores every result at once.

    workers: processes, one for each core by default; 1 works in this process.
    Raises Stopped on Ctrl-C.
    """
    count = cores() if workers is None else workers
    require(count >= 1, "jobs", count, "1 or more")
    todo = [[job for job in wave if not store.has(job)] for wave in waves(jobs)]
    folder = store.folder / SHARED
    folder.mkdir(parents=True, exist_ok=True)
    results = results_of(todo, folder, count)
    total = sum(job.row.cost for wave in todo for job in wave)
    try:
        with threads(1), Progress(total, "CPU second", show=progress) as bar:
            for number, (job, numbers) in enumerate(results, 1):
                store.put(job, numbers)
                bar.update(job.row.cost, job=f"{number} of {sum(map(len, todo))}")
    except (KeyboardInterrupt, Stopped):
        raise Stopped(
            f"stopped: what was measured is in {store.folder}; the same command goes on from there"
        ) from None
