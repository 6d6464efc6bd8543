"""The parts of `tests.soak`: each takes a seed and an empty folder, tells counts, and raises what
is wrong.
"""

from __future__ import annotations

import atexit
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
from tests.support import crash, ranks, trials
from tests.support.crash_child import RUNS, settings
from tests.support.fuzzed_files import fuzz_checkpoint
from tests.support.fuzzing import fuzz_config
from tests.support.hostile_data import fuzz_data
from tests.support.mutations import damage
from tests.support.toys import tiny_run

CASES = 500  # that a fuzzer is asked for at once
MUTATIONS = 50  # of one run in one trial
LONGER = {"batch": 32, "iterations": 300, "checkpoint_every": 20}  # so that a kill finds it at work


@cache
def server() -> crash.Server:
    """The worker's own, which ends with it."""
    held = crash.server()
    atexit.register(held.__exit__, None, None, None)
    return held.__enter__()


@cache
def whole(name: str) -> trials.Whole:
    """The uninterrupted run of a method, made once in every worker."""
    with tempfile.TemporaryDirectory() as folder:
        return trials.whole(server(), Path(folder) / "run", settings(name), slow=trials.SLOW)


ORDER = list(RUNS)


def kills(seed: int, folder: Path) -> dict[str, int]:
    """A run killed one to three times at uniform instants, then ended: of a method that the seed
    chooses.
    """
    chance = random.Random(seed)
    name = chance.choice(ORDER)
    made, wrong = trials.trial(
        server(), folder / "run", settings(name), whole(name), chance, chance.randint(1, 3)
    )
    if wrong:
        raise AssertionError(f"{name}: {'; '.join(map(str, made))}: {wrong}")
    killed = [kill for kill in made if kill.killed]
    inside = sum(kill.inside for kill in killed)
    return {
        "kills": len(killed),
        "kills in a write": inside,
        f"kills of {name}": len(killed),
        "runs ended": 1,
    }


@cache
def ended(name: str) -> Path:
    """A run of a method that has ended, to be copied."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    trials.finish(server(), folder / "run", settings(name))
    return folder / "run"


def damages(seed: int, folder: Path) -> dict[str, int]:
    """A checkpoint damaged many times over: each is found and the one before it is used; the run
    goes on after one.
    """
    chance = random.Random(seed)
    name = chance.choice(ORDER)
    run, expected = folder / "run", whole(name)
    logging.getLogger("fewstep").setLevel(logging.ERROR)
    for number in range(MUTATIONS):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(ended(name), run)
        how = damage(run / "checkpoints" / "step-6", chance)
        newest = RunFolder(run).newest()
        if newest is None or newest.state["fingerprint"] != expected.prints[4]:
            raise AssertionError(f"{name}: mutation {number}, {how}: not found")
    trials.finish(server(), run, settings(name))
    shutil.rmtree(run / "checkpoints" / "step-6.corrupt")
    if wrong := trials.problems(run, expected):
        raise AssertionError(f"{name}: {how}: {wrong}")
    return {"mutations": MUTATIONS}


@cache
def one_process() -> str:
    """The fingerprint of the elastic run, carried out by a process alone."""
    with tempfile.TemporaryDirectory() as folder:
        elastic(Path(folder) / "run", 1)
        return RunFolder(Path(folder) / "run").newest().state["fingerprint"]


def elastic(run: Path, size: int, killed: tuple[int, float] | None = None) -> list[int]:
    """Carries the elastic run on with so many ranks, one of which is killed after so many seconds;
    the exit codes.
    """

    def work() -> None:
        fs.train(
            tiny_run(elastic_exact=4, **LONGER), out=run, resume=True, progress=False, device="cpu"
        )

    said = run.parent / "said"
    pids = ranks.start(size, work, said)
    if killed is not None:
        time.sleep(killed[1])
        with suppress(ProcessLookupError):
            os.kill(pids[killed[0]], signal.SIGKILL)
    return [rank.code for rank in ranks.wait(pids, said, 120)]


def processes(seed: int, folder: Path) -> dict[str, int]:
    """A run of 1, 2 and 4 processes in turn, one of which is killed each time: the others end, and
    no bit is lost.
    """
    chance, run, lost = random.Random(seed), folder / "run", 0
    for _ in range(3):
        size = chance.choice((1, 2, 2, 4))
        codes = elastic(run, size, (chance.randrange(size), chance.uniform(0.5, 6.0)))
        if not set(codes) <= {0, 5, -signal.SIGKILL}:
            raise AssertionError(f"{size} ranks ended with {codes}")
        lost += -signal.SIGKILL in codes
    if any(codes := elastic(run, 2)):
        raise AssertionError(f"the last 2 ranks ended with {codes}")
    if (found := RunFolder(run).newest().state["fingerprint"]) != one_process():
        raise AssertionError(f"another fingerprint: {found}")
    return {"ranks killed": lost, "elastic runs ended": 1}


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
    "damage": damages,
    "processes": processes,
    "config": config,
    "metadata": metadata,
    "data": data,
}
