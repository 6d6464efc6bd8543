"""The parts of `tests.soak`: (seed, empty folder) -> counts; each raises what is wrong."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import fewstep as fs
from fewstep.run.checkpoint import RunFolder
from tests.support import calls, crash, ranks, trials
from tests.support.crash_child import RUNS, settings
from tests.support.fuzzed_files import fuzz_checkpoint
from tests.support.fuzzing import fuzz_config
from tests.support.hostile_data import fuzz_data
from tests.support.mutations import damage
from tests.support.toys import tiny_run

CASES = 500  # that a fuzzer makes at once
MUTATIONS = 50  # of one run in one trial
LONGER = {"batch": 32, "iterations": 300, "checkpoint_every": 20}  # so that a kill meets it at work
METHODS = list(RUNS)


@cache
def server() -> crash.Server:
    """The worker's own, which ends with it."""
    context = crash.server()
    atexit.register(context.__exit__, None, None, None)
    return context.__enter__()


@cache
def whole(name: str) -> trials.Whole:
    """The uninterrupted run of a method, made once in every worker."""
    with tempfile.TemporaryDirectory() as folder:
        return trials.whole(server(), Path(folder) / "run", settings(name), slow=trials.SLOW)


def kills(seed: int, folder: Path) -> dict[str, int]:
    """A run of a random method, killed one to three times at uniform instants, then ended."""
    chance = random.Random(seed)
    name = chance.choice(METHODS)
    starts, faults = trials.trial(
        server(), folder / "run", settings(name), whole(name), chance, chance.randint(1, 3)
    )
    if faults:
        raise AssertionError(f"{name}: {'; '.join(map(str, starts))}: {faults}")
    number = sum(kill.happened for kill in starts)
    return {
        "kills": number,
        "kills in a write": sum(kill.inside for kill in starts),
        f"kills of {name}": number,
        "runs ended": 1,
    }


def ends(seed: int, folder: Path) -> dict[str, int]:
    """A process that ends before each call of a save, of a kind that the seed chooses."""
    save = calls.SAVES[random.Random(seed).choice(list(calls.SAVES))]
    return {"ends before a call": calls.end_before_calls(server(), folder, save(server(), folder))}


def full_disk(seed: int, folder: Path) -> dict[str, int]:
    """A disk that is full, or fails, from each call of a save on."""
    number = random.Random(seed).choice((errno.ENOSPC, errno.EIO))
    reference = trials.whole(server(), folder / "whole", calls.FULL)
    start = folder / "start"
    code = trials.begin(server(), start, calls.FULL, stop=2, beside=False).wait()
    assert code == 137, code
    shutil.copytree(start, folder / "all")
    last = calls.train_full(folder / "all", at=10**9)
    calls.fill_before_calls(start, folder, reference, number, range(1, last + 1))
    return {"full disks": last}


@cache
def finished(name: str) -> Path:
    """A run of a method that has ended, to be copied."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    trials.finish(server(), folder / "run", settings(name))
    return folder / "run"


def damages(seed: int, folder: Path) -> dict[str, int]:
    """A checkpoint damaged many times: each time the one before is used; then the run goes on."""
    chance = random.Random(seed)
    name = chance.choice(METHODS)
    run = folder / "run"
    reference = whole(name)
    logging.getLogger("fewstep").setLevel(logging.ERROR)
    for number in range(MUTATIONS):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(finished(name), run)
        how = damage(run / "checkpoints" / "step-6", chance)
        newest = RunFolder(run).newest()
        if newest is None or newest.state["fingerprint"] != reference.prints[4]:
            raise AssertionError(f"{name}: mutation {number}, {how}: not noticed")
    trials.finish(server(), run, settings(name))
    shutil.rmtree(run / "checkpoints" / "step-6.corrupt")
    if faults := trials.problems(run, reference):
        raise AssertionError(f"{name}: {how}: {faults}")
    return {"mutations": MUTATIONS}


@cache
def one_process() -> str:
    """The fingerprint of the elastic run of a single process."""
    with tempfile.TemporaryDirectory() as folder:
        elastic(Path(folder) / "run", 1)
        return RunFolder(Path(folder) / "run").newest().state["fingerprint"]


def elastic(run: Path, size: int, victim: int | None = None, seconds: float = 0.0) -> list[int]:
    """Goes on with the elastic run on so many ranks; returns their exit codes.

    victim: the rank that is killed after so many seconds.
    """

    def work() -> None:
        settings = tiny_run(elastic_exact=4, **LONGER)
        fs.train(settings, out=run, resume=True, progress=False, device="cpu")

    output = run.parent / "output"
    pids = ranks.start(size, work, output)
    if victim is not None:
        time.sleep(seconds)
        with suppress(ProcessLookupError):
            os.kill(pids[victim], signal.SIGKILL)
    return [rank.code for rank in ranks.wait(pids, output, 120)]


def processes(seed: int, folder: Path) -> dict[str, int]:
    """A run of 1, 2 and 4 ranks in turn, one of which is killed each time: no bit is lost."""
    chance = random.Random(seed)
    run = folder / "run"
    number = 0
    for _ in range(3):
        size = chance.choice((1, 2, 2, 4))
        victim = chance.randrange(size)
        codes = elastic(run, size, victim, chance.uniform(0.5, 6.0))
        if not set(codes) <= {0, 5, -signal.SIGKILL}:
            raise AssertionError(f"{size} ranks ended with {codes}")
        number += -signal.SIGKILL in codes
    if any(codes := elastic(run, 2)):
        raise AssertionError(f"the last 2 ranks ended with {codes}")
    fingerprint = RunFolder(run).newest().state["fingerprint"]
    if fingerprint != one_process():
        raise AssertionError(f"another fingerprint: {fingerprint}")
    return {"ranks killed": number, "elastic runs ended": 1}


def config(seed: int, folder: Path) -> dict[str, int]:
    fuzz_config(seed, CASES)
    return {"config cases": CASES}


def metadata(seed: int, folder: Path) -> dict[str, int]:
    fuzz_checkpoint(seed, CASES, folder)
    return {"metadata cases": CASES}


def data(seed: int, folder: Path) -> dict[str, int]:
    fuzz_data(seed, CASES, folder)
    return {"data cases": CASES}


PARTS: dict[str, Callable[[int, Path], dict[str, int]]] = {
    "kills": kills,
    "ends": ends,
    "full disk": full_disk,
    "damage": damages,
    "processes": processes,
    "config": config,
    "metadata": metadata,
    "data": data,
}
