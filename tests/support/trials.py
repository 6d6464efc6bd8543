"""Kills of tiny runs, and what must hold of the folder then and at the run's end."""

from __future__ import annotations

import json
import random
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.base.errors import StorageError
from fewstep.run.checkpoint import RunFolder, read
from fewstep.run.checkpoint.best import Best, read_best
from fewstep.training.log import CLOCK
from tests.support.crash import Child, Server
from tests.support.crash_child import INSIDE, PHASES, STARTED, Gauge

SLOW = 0.002  # seconds before each call of a write, so that writes take their share of the time


@dataclass(frozen=True)
class Whole:
    """What an uninterrupted run ends with."""

    fingerprint: str
    rows: list[dict[str, Any]]
    seconds: float
    prints: dict[int, str]  # the fingerprint of every step
    snapshots: dict[int, str]
    best: Best | None  # of the checkpoints, by its score


@dataclass(frozen=True)
class Kill:
    """One start of a run that was to be killed: whether that happened, when, and in which phase."""

    has_happened: bool
    after: float
    phase: int

    @property
    def inside(self) -> bool:
        return self.has_happened and self.phase in INSIDE

    def __str__(self) -> str:
        verb = "killed" if self.has_happened else "ended"
        return f"{verb} after {self.after:.3f} s in {PHASES[self.phase]!r}"


def begin(server: Server, folder: Path, fields: dict[str, Any], **arguments: Any) -> Child:
    """Starts or resumes a run in a child; its gauge and output are beside the folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    gauge_file = folder.with_name(f"{folder.name}.gauge")
    gauge_file.unlink(missing_ok=True)
    Gauge.at(gauge_file)
    output = folder.with_name(f"{folder.name}.output")
    output.unlink(missing_ok=True)
    return server.fork(
        "tests.support.crash_child:train",
        output,
        folder=str(folder),
        fields=fields,
        gauge=str(gauge_file),
        **arguments,
    )


def gauge(folder: Path) -> Gauge:
    """That of the folder's last child."""
    return Gauge.at(folder.with_name(f"{folder.name}.gauge"))


def finish(server: Server, folder: Path, fields: dict[str, Any], **arguments: Any) -> Child:
    """Starts or resumes a run to its end."""
    child = begin(server, folder, fields, **arguments)
    code = child.wait()
    assert code == 0, f"exit code {code}: {child.text[-2000:]}"
    return child


def whole(server: Server, folder: Path, fields: dict[str, Any], **arguments: Any) -> Whole:
    """The uninterrupted run."""
    result = finish(server, folder, fields, prints=True, **arguments).result
    prints = {int(step): text for step, text in result["prints"].items()}
    about = rows(folder), result["seconds"], prints, snapshots(folder), best(folder)
    return Whole(prints[max(prints)], *about)


def best(folder: Path) -> Best | None:
    """The best checkpoint, which is there."""
    run = RunFolder(folder)
    return read_best(run.best) if run.best.exists() and run.best_checkpoint() else None


def snapshots(folder: Path) -> dict[int, str]:
    """The fingerprint of each snapshot, all of whose files are valid."""
    paths = RunFolder(folder).snapshots()
    return {step: read(path).state["fingerprint"] for step, path in paths.items()}


def rows(folder: Path) -> list[dict[str, Any]]:
    """The log without its clock."""
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in log]


def kill(
    server: Server, folder: Path, fields: dict[str, Any], after: float, inside: bool = False
) -> Kill:
    """Starts a run and kills it `after` seconds.

    inside: it is killed at the first instant from then on at which it is in a write.
    """
    child = begin(server, folder, fields, slow=SLOW)
    meter = gauge(folder)
    while not meter.content[STARTED]:
        time.sleep(0.0005)
    start = time.monotonic()
    time.sleep(after)
    code = child.wait(0)
    while inside and code is None and meter.phase not in INSIDE:
        code = child.wait(0)
    after = time.monotonic() - start
    if code is None:
        child.kill()
        code = child.wait()
    assert code in (0, -9), f"exit code {code}: {child.text[-2000:]}"
    return Kill(code == -9, after, meter.phase)


def problems(folder: Path, reference: Whole) -> list[str]:
    """What is wrong with a folder in which a run has ended: nothing, if it equals the reference."""
    faults = []
    newest = RunFolder(folder).newest()
    fingerprint = newest and newest.state["fingerprint"]
    if fingerprint != reference.fingerprint:
        faults.append(f"fingerprint {fingerprint}, not {reference.fingerprint}")
    log = rows(folder)
    if log != reference.rows:
        faults.append(f"log of steps {[row['step'] for row in log]}, or other numbers in it")
    there = snapshots(folder)
    if there != reference.snapshots:
        steps = list(there), list(reference.snapshots)
        faults.append(f"snapshots of steps {steps[0]}, not {steps[1]}, or other ones")
    if best(folder) != reference.best:
        faults.append(f"best is {best(folder)}, not {reference.best}")
    for path in folder.rglob("*"):
        if "tmp-" in path.name or "corr" in path.name:
            faults.append(f"left behind: {path.relative_to(folder)}")
    return faults


def valid(folder: Path) -> list[int]:
    """The steps of the checkpoints that can be read, newest first."""
    steps = []
    for path in RunFolder(folder).checkpoints():
        with suppress(StorageError):
            steps.append(read(path).state["step"])
    return steps


def between(folder: Path, reference: Whole, damage: tuple[str, ...] = ()) -> list[str]:
    """What is wrong with a folder in which a run was killed: all checkpoints must be whole, if any.

    damage: those that need not be, by the names that they get once they are moved aside.
    """
    newest = RunFolder(folder).newest()  # raises where there are only damaged ones
    if newest is None:
        return []
    names = {path.name for path in RunFolder(folder).checkpoints()}
    names -= {f"step-{step}" for step in valid(folder)}
    names -= {name.removesuffix(".corrupt") for name in damage}
    faults = [f"{name} is half there" for name in sorted(names)]
    step = newest.state["step"]
    if newest.state["fingerprint"] != reference.prints[step]:
        faults.append(f"step {step} is another")
    return faults


def trial(
    server: Server,
    folder: Path,
    fields: dict[str, Any],
    reference: Whole,
    chance: random.Random,
    most: int,
) -> tuple[list[Kill], list[str]]:
    """Kills a run at uniform instants, up to `most` times, and lets it end: (kills, faults)."""
    shutil.rmtree(folder, ignore_errors=True)
    kills: list[Kill] = []
    faults: list[str] = []
    while len(kills) < most:
        kills.append(kill(server, folder, fields, chance.uniform(0, reference.seconds)))
        if folder.exists():
            faults += between(folder, reference)
        if not kills[-1].has_happened:
            break
    finish(server, folder, fields)
    return kills, faults + problems(folder, reference)
