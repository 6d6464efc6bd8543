"""The parts of `tests.soak`: each takes a seed and an empty folder, tells counts, and raises what is wrong."""

from __future__ import annotations

import atexit
import importlib
import logging
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from fewstep.checkpoint import RunFolder
from tests import crash, trials
from tests.crash_child import RUNS, settings
from tests.mutations import damage

CASES = 500  # that a fuzzer is asked for at once
MUTATIONS = 50  # of one run in one trial


class Skip(Exception):
    """A part that is not here."""


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
    """A run killed one to three times at uniform instants, then ended: of a method that the seed chooses."""
    chance = random.Random(seed)
    name = chance.choice(ORDER)
    made, wrong = trials.trial(server(), folder / "run", settings(name), whole(name), chance, chance.randint(1, 3))
    if wrong:
        raise AssertionError(f"{name}: {'; '.join(map(str, made))}: {wrong}")
    killed = [kill for kill in made if kill.killed]
    inside = sum(kill.inside for kill in killed)
    return {"kills": len(killed), "kills in a write": inside, f"kills of {name}": len(killed), "runs ended": 1}


@cache
def ended(name: str) -> Path:
    """A run of a method that has ended, to be copied."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    trials.finish(server(), folder / "run", settings(name))
    return folder / "run"


def damages(seed: int, folder: Path) -> dict[str, int]:
    """A checkpoint damaged many times over: each is found and the one before it is used; the run goes on after one."""
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


def fuzzed(module: str, function: str, count: str) -> Callable[[int, Path], dict[str, int]]:
    """A fuzzer of another module as a part."""

    def part(seed: int, folder: Path) -> dict[str, int]:
        try:
            found: Any = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise Skip(f"{module}.{function} is not here: {error}") from error
        found(seed, CASES, *([] if count == "config cases" else [folder]))
        return {count: CASES}

    return part


PARTS: dict[str, Callable[[int, Path], dict[str, int]]] = {
    "kills": kills,
    "damage": damages,
    "config": fuzzed("tests.fuzzing", "fuzz_config", "config cases"),
    "metadata": fuzzed("tests.fuzzing", "fuzz_checkpoint", "metadata cases"),
    "data": fuzzed("tests.hostile_data", "fuzz_data", "data cases"),
}
