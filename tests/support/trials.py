"""Kills of tiny runs, and what must hold of a folder in which one was killed and then went on to
its end.
"""

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
from fewstep.training.log import CLOCK
from tests.support.crash import Child, Server
from tests.support.crash_child import BEGUN, INSIDE, PHASES, Gauge

SLOW = 0.002  # seconds before each call of a write, so that writes take their share of the time


@dataclass(frozen=True)
class Whole:
    """What an uninterrupted run ends with."""

    fingerprint: str
    rows: list[dict[str, Any]]
    seconds: float
    prints: dict[int, str]  # of every step
    snapshots: dict[int, str]


@dataclass(frozen=True)
class Kill:
    """One start of a run that was to be killed: whether it was, when, and what it was doing."""

    killed: bool
    after: float
    phase: int

    @property
    def inside(self) -> bool:
        return self.killed and self.phase in INSIDE

    def __str__(self) -> str:
        return (
            f"{'killed' if self.killed else 'ended'} after {self.after:.3f} s in"
            f" {PHASES[self.phase]!r}"
        )


def begin(server: Server, folder: Path, fields: dict[str, Any], **given: Any) -> Child:
    """Starts or resumes a run in a child; its gauge and words are beside the folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    gauge = folder.with_name(f"{folder.name}.gauge")
    gauge.unlink(missing_ok=True)
    Gauge.at(gauge)
    said = folder.with_name(f"{folder.name}.said")
    said.unlink(missing_ok=True)
    return server.fork(
        "tests.support.crash_child:train",
        said,
        folder=str(folder),
        fields=fields,
        gauge=str(gauge),
        **given,
    )


def gauge(folder: Path) -> Gauge:
    """That of the folder's last child."""
    return Gauge.at(folder.with_name(f"{folder.name}.gauge"))


def finish(server: Server, folder: Path, fields: dict[str, Any], **given: Any) -> Child:
    """Starts or resumes a run to its end."""
    child = begin(server, folder, fields, **given)
    code = child.wait()
    assert code == 0, f"exit code {code}: {child.text[-2000:]}"
    return child


def whole(server: Server, folder: Path, fields: dict[str, Any], **given: Any) -> Whole:
    """The uninterrupted run."""
    result = finish(server, folder, fields, prints=True, **given).result
    prints = {int(step): text for step, text in result["prints"].items()}
    return Whole(prints[max(prints)], rows(folder), result["seconds"], prints, snapshots(folder))


def snapshots(folder: Path) -> dict[int, str]:
    """The fingerprint of each snapshot, whose files are all as they were written."""
    return {
        step: read(path).state["fingerprint"]
        for step, path in RunFolder(folder).snapshots().items()
    }


def rows(folder: Path) -> list[dict[str, Any]]:
    """The log without its clock."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if key not in CLOCK}
        for line in lines
    ]


def kill(
    server: Server, folder: Path, fields: dict[str, Any], after: float, inside: bool = False
) -> Kill:
    """Starts a run and kills it `after` seconds; with `inside` at the first instant from then on
    that is in a write.
    """
    child, shown = begin(server, folder, fields, slow=SLOW), gauge(folder)
    while not shown.shared[BEGUN]:
        time.sleep(0.0005)
    begun = time.monotonic()
    time.sleep(after)
    code = child.wait(0)
    while inside and code is None and shown.phase not in INSIDE:
        code = child.wait(0)
    after = time.monotonic() - begun
    if code is None:
        child.kill()
        code = child.wait()
    assert code in (0, -9), f"exit code {code}: {child.text[-2000:]}"
    return Kill(code == -9, after, shown.phase)


def problems(folder: Path, expected: Whole) -> list[str]:
    """What is wrong with a folder in which a run has ended: nothing, if it is that of the
    uninterrupted one.
    """
    saved, found = RunFolder(folder).newest(), []
    if saved is None or saved.state["fingerprint"] != expected.fingerprint:
        found.append(
            f"fingerprint {saved and saved.state['fingerprint']}, not {expected.fingerprint}"
        )
    if rows(folder) != expected.rows:
        found.append(
            f"log of steps {[row['step'] for row in rows(folder)]}, or other numbers in it"
        )
    if snapshots(folder) != expected.snapshots:
        found.append(
            f"snapshots of steps {list(snapshots(folder))}, not {list(expected.snapshots)}, or"
            " other ones"
        )
    left = [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if "tmp-" in path.name or "corr" in path.name
    ]
    return found + [f"left behind: {path}" for path in left]


def valid(folder: Path) -> list[int]:
    """The steps of the checkpoints that can be read, newest first."""
    found = []
    for path in RunFolder(folder).checkpoints():
        with suppress(StorageError):
            found.append(read(path).state["step"])
    return found


def between(folder: Path, expected: Whole, damaged: tuple[str, ...] = ()) -> list[str]:
    """What is wrong with a folder in which a run was killed: all of its checkpoints are whole, or
    there is none yet.

    damaged: which may not be, by the names that they have once they are moved aside.
    """
    saved = RunFolder(folder).newest()  # raises where there are only damaged ones
    if saved is None:
        return []
    step, names = saved.state["step"], {path.name for path in RunFolder(folder).checkpoints()}
    half = (
        names
        - {f"step-{one}" for one in valid(folder)}
        - {name.removesuffix(".corrupt") for name in damaged}
    )
    wrong = [f"{name} is half there" for name in sorted(half)]
    return wrong + (
        [f"step {step} is another"] if saved.state["fingerprint"] != expected.prints[step] else []
    )


def trial(
    server: Server,
    folder: Path,
    fields: dict[str, Any],
    expected: Whole,
    chance: random.Random,
    most: int,
) -> tuple[list[Kill], list[str]]:
    """Kills a run at uniform instants, up to `most` times, and lets it end: the kills, and what is
    wrong then.
    """
    shutil.rmtree(folder, ignore_errors=True)
    kills: list[Kill] = []
    wrong: list[str] = []
    while len(kills) < most:
        kills.append(kill(server, folder, fields, chance.uniform(0, expected.seconds)))
        if folder.exists():
            wrong += between(folder, expected)
        if not kills[-1].killed:
            break
    finish(server, folder, fields)
    return kills, wrong + problems(folder, expected)
