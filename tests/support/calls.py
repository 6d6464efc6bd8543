"""Runs whose process ends, or whose disk is full, before a chosen call that changes the disk.

`make test` tries every 18th call of a save, with a random offset, and one call of each phase; the
soak tries all of them.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import fewstep as fs
from fewstep.base import disk
from fewstep.base.errors import StorageError
from fewstep.run.checkpoint import KEEP, RunFolder
from fewstep.training import recorder
from tests.support import trials
from tests.support.crash import Server
from tests.support.crash_child import PHASES, settings
from tests.support.toys import tiny_run
from tests.support.trials import Whole, begin, between, finish, gauge, problems

ORDER = {"beside": False, "chunk": 2**14}  # one order of calls; some files are written in pieces
FULL = settings("ect", iterations=3, checkpoint_every=1)  # the run whose disk is full


@dataclass(frozen=True)
class Save:
    """A folder in which a run goes on, and what its next save may leave there.

    steps: the newest checkpoint may be one of these, 0 is none. damage: what is moved aside.
    phases: those of the save's calls.
    """

    start: Path
    fields: dict[str, Any]
    steps: set[int]
    damage: tuple[str, ...] = ()
    phases: frozenset[str] = frozenset()


def first_save(server: Server, folder: Path) -> Save:
    (folder / "start").mkdir(parents=True)
    return Save(folder / "start", settings("diffusion", iterations=1), {0, 1})


def later_save(server: Server, folder: Path) -> Save:
    """In the second stage, with a score, a snapshot of averages and an old checkpoint to remove."""
    more = {"averages": ("power:0.05",), "snapshot_every": 3, "eval_every": 1}
    fields = settings("tcm", iterations=3, split=0.34, checkpoint_every=1, **more)
    assert begin(server, folder / "start", fields, stop=2, beside=False).wait() == 137
    return Save(folder / "start", fields, {2, 3}, phases=frozenset(PHASES))


def quarantine(server: Server, folder: Path) -> Save:
    """After a damaged checkpoint, with a half written one, a half removed one and a new log."""
    fields = settings("diffusion", iterations=2, checkpoint_every=1)
    start = folder / "start"
    finish(server, start, fields, beside=False)
    checkpoints = start / "checkpoints"
    shutil.copytree(checkpoints / "step-2", checkpoints / "step-2.tmp-1")
    shutil.copytree(checkpoints / "step-2", checkpoints / "step-0.tmp-1-old")
    (checkpoints / "step-0.tmp-1-old" / "manifest.json").unlink()
    (start / "metrics.jsonl.tmp-1").write_text("{")
    (checkpoints / "step-2" / "state.json").write_text("{}")
    return Save(start, fields, {1, 2}, ("step-2.corrupt",))


SAVES: dict[str, Callable[[Server, Path], Save]] = {
    "first": first_save,
    "later": later_save,
    "quarantine": quarantine,
}


def choose(history: dict[int, str], every: int, offset: int) -> list[int]:
    """Every n-th call from the offset on, the first call of each phase, and the last of all."""
    numbers = {number for number in history if number % every == offset % every}
    first = {phase: number for number, phase in reversed(history.items())}
    return sorted(numbers | set(first.values()) | {max(history)})


def end_before_calls(
    server: Server, folder: Path, save: Save, every: int = 1, offset: int = 0
) -> int:
    """Ends the run before each chosen call and lets it go on; returns the number of calls."""
    reference = trials.whole(server, folder / "whole", save.fields, **ORDER)
    shutil.copytree(save.start, folder / "all")
    finish(server, folder / "all", save.fields, **ORDER)
    for name in save.damage:
        assert (folder / "all" / "checkpoints" / name).is_dir()
    history = gauge(folder / "all").history()
    numbers = choose(history, every, offset)
    newest = []
    phases = set()
    for number in numbers:
        run = folder / f"before-{number}"
        shutil.copytree(save.start, run)
        newest.append(_end_before(server, run, save, number, reference))
        phases.add(PHASES[gauge(run).phase])
        _go_on(server, run, save, number, reference)
        shutil.rmtree(run)
    assert newest == sorted(newest)  # from the old checkpoint to the new one, once
    assert set(newest) == save.steps
    assert phases >= save.phases
    return len(numbers)


def _end_before(server: Server, run: Path, save: Save, number: int, reference: Whole) -> int:
    """Ends the process before that call; the step of the newest checkpoint then, 0 if none."""
    child = begin(server, run, save.fields, exit_before=number, **ORDER)
    assert child.wait() == 137
    faults = between(run, reference, save.damage)
    assert not faults, f"before call {number}: {faults}"
    least = min(KEEP, len(trials.valid(save.start)))
    assert len(trials.valid(run)) >= least, f"before call {number}: too few are left"
    newest = RunFolder(run).newest()
    return newest.state["step"] if newest else 0


def _go_on(server: Server, run: Path, save: Save, number: int, reference: Whole) -> None:
    """Lets the run end, which must then equal the reference but for what it moved aside."""
    phase = PHASES[gauge(run).phase]
    finish(server, run, save.fields, **ORDER)
    for path in (run / "checkpoints").glob("*.corrupt"):
        assert path.name in save.damage
        shutil.rmtree(path)
    faults = problems(run, reference)
    assert not faults, f"before call {number}, in {phase}: {faults}"


# A full disk.


def train_full(run: Path, at: int, number: int = errno.ENOSPC) -> int:
    """Resumes the run; from call `at` on each call fails with that errno. The number of calls."""
    calls = 0

    def watch(call: str, path: Path) -> None:
        nonlocal calls
        calls += 1
        if calls >= at:
            raise OSError(number, os.strerror(number))

    # Pictures take longer than all the rest.
    with (
        mock.patch.object(disk, "watch", watch),
        mock.patch.multiple(recorder.Recorder, draw=mock.DEFAULT, draw_curves=mock.DEFAULT),
    ):
        fs.train(tiny_run(**FULL), out=run, resume=True, progress=False, device="cpu")
    return calls


def saving() -> bool:
    """Whether a save is running beside this process's training."""
    return any(thread.name == "checkpoint" for thread in threading.enumerate())


def fill_before_calls(
    start: Path, folder: Path, reference: Whole, number: int, calls: Iterable[int]
) -> None:
    """A disk that is full from each of these calls on costs no bit of the run."""
    for at in calls:
        run = folder / "full"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(start, run)
        with pytest.raises(StorageError) as error:
            train_full(run, at, number)
        assert error.value.exit_code == 4
        assert os.strerror(number) in str(error.value)
        assert "\n" not in str(error.value)
        faults = between(run, reference)
        assert not faults, f"full before call {at}: {faults}"
        assert not saving()
        train_full(run, 10**9)
        faults = problems(run, reference)
        assert not faults, f"full before call {at}: {faults}"
