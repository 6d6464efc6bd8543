"""The jobs of the claims on all cores; every result is stored as it comes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fewstep.analysis.claims.claim import Row
from fewstep.base import disk
from fewstep.base.errors import FewstepError, Stopped, StorageError, require, storage
from fewstep.base.pool import Pool
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


def measure(folder: Path, job: Job, tell: object) -> Numbers:
    """What a worker does: the numbers, and the CPU seconds they took."""
    start = time.process_time()
    numbers = job.row.measure(folder, job.seed)
    return {**numbers, "job_seconds": time.process_time() - start}


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
    total = sum(job.row.cost for wave in todo for job in wave)
    pool = Pool(partial(measure, folder), count)
    try:
        with pool, threads(1), Progress(total, "CPU second", show=progress) as bar:
            outcomes = chain.from_iterable(map(pool.outcomes, todo))
            for number, (job, outcome) in enumerate(outcomes, 1):
                if isinstance(outcome, FewstepError):
                    raise outcome
                store.put(job, outcome)
                bar.update(job.row.cost, job=f"{number} of {sum(map(len, todo))}")
    except (KeyboardInterrupt, Stopped):
        raise Stopped(
            f"stopped: what was measured is in {store.folder}; the same command goes on from there"
        ) from None
