"""A run's folder as it is now, while it is being written: what cannot be read is a line.

Nothing here writes, locks, or reads a tensor.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from fewstep.base.errors import UserError, one_line
from fewstep.base.json_file import document
from fewstep.run.checkpoint import Checkpoint, RunFolder, peek
from fewstep.run.config import MOST_BYTES, MOST_COUNT, Run, read_run
from fewstep.run.lock import NAME as LOCK
from fewstep.studies import sweep

T = TypeVar("T")
P = ParamSpec("P")

MOST_RUNS = 500
MOST_PICTURE = 2**25  # bytes
MOST_LOG = 2**29
RECENT = 10  # rows of the log that the speed is of
QUIET = 900.0  # seconds without a change after which a run on another machine counts as stopped
PNG = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"  # begin and end every whole file


class Runs:
    """The runs of the names that a command was given, by their numbers, which never change."""

    def __init__(self, names: Sequence[str]) -> None:
        for name in names:
            if not Path(name).is_dir():
                what = "is no folder" if Path(name).exists() else "does not exist"
                raise UserError(f"{name} {what}: expected the folder of a run, or of runs")
        self.names = list(names)
        self.folders: list[Path] = []
        self.problems: list[str] = []
        self.readers: dict[Path, Reader] = {}

    def refresh(self) -> None:
        """Adds runs that came since, behind the others."""
        self.problems = []
        before = {path.resolve() for path in self.folders}
        for name in self.names:
            for path in attempt(self.problems, name, runs_at, Path(name)) or ():
                if path.resolve() not in before and len(self.folders) < MOST_RUNS:
                    before.add(path.resolve())
                    self.folders.append(path)

    def looks(self) -> list[Look]:
        """All runs as they are now."""
        self.refresh()
        return [self.look(number) for number in range(len(self.folders))]

    def look(self, number: int) -> Look:
        """A run as it is now. Raises IndexError."""
        folder = self.folders[number]
        return self.readers.setdefault(folder, Reader(folder)).look(number, self._title(folder))

    def _title(self, folder: Path) -> str:
        """The last part of its path, or the whole where another one ends alike."""
        ends = [one.name for one in self.folders]
        is_alone = ends.count(folder.name) == 1 and folder.name
        return folder.name if is_alone else str(folder)


def runs_at(path: Path) -> list[Path]:
    """A run's folder itself; those of a sweep; or those in a folder, and of the sweeps there."""
    return [*_runs_at(path, 1)]


def _runs_at(path: Path, depth: int) -> Iterator[Path]:
    of_sweep = sweep.runs_in(path)
    if of_sweep is not None:
        yield from (path / name for name in of_sweep if Path(name).name == name)
    elif is_run(path):
        yield path
    elif depth and path.is_dir():
        for inner in sorted(path.iterdir()):
            if inner.is_dir() and (is_run(inner) or (inner / sweep.NAME).is_file()):
                yield from _runs_at(inner, depth - 1)


def is_run(path: Path) -> bool:
    return any((path / name).exists() for name in ("run.json", "metrics.jsonl", "checkpoints"))


@dataclass(frozen=True)
class Incident:
    """A step whose numbers were not finite, and why."""

    path: Path
    step: int
    error: str


@dataclass(frozen=True)
class Look:
    """What a run's folder says at one moment; None: it does not say."""

    number: int
    title: str
    folder: Path
    run: Run | None
    rows: list[dict[str, Any]]  # of the log: numbers and None alone
    checkpoint: Checkpoint | None  # the newest, whose tensors nobody looked at
    incidents: list[Incident]
    picture: tuple[Path, bytes] | None  # the newest whole one
    last_write: float | None  # when a file was last written, in seconds since 1970
    is_held: bool  # by a process that trains it
    problems: list[str] = field(default_factory=list)

    @property
    def step(self) -> int:
        """The newest step that the log or a checkpoint has."""
        steps = [self.rows[-1]["step"]] if self.rows else []
        if self.checkpoint is not None:
            steps.append(self.checkpoint.record.step)
        return max(steps, default=0)

    @property
    def steps(self) -> int:
        return self.run.steps if self.run else 0

    @property
    def state(self) -> str:
        """training, done, incident (and not gone on since) or stopped."""
        if self.is_held:
            return "training"
        if self.steps and self.step >= self.steps:
            return "done"
        last = max((one.step for one in self.incidents), default=-1)
        return "incident" if last >= self.step else "stopped"

    @property
    def loss(self) -> float | None:
        losses = [row["loss"] for row in self.rows[-RECENT:] if row.get("loss") is not None]
        return losses[-1] if losses else None

    @property
    def speed(self) -> float | None:
        """Samples per second over the last rows of this start."""
        rows = [row for row in self.rows[-2 * RECENT :] if row.get("seconds") is not None]
        if not rows or self.run is None:
            return None
        last = rows[-1]
        for first in rows[-RECENT:-1]:
            steps, seconds = last["step"] - first["step"], last["seconds"] - first["seconds"]
            if steps > 0 and seconds > 0:
                return float(steps * self.run.batch / seconds)
        speed: float | None = last.get("samples_per_second")
        return speed

    @property
    def seconds_left(self) -> float | None:
        speed, run = self.speed, self.run
        if not speed or run is None or self.state != "training":
            return None
        return max(run.steps - self.step, 0) * run.batch / speed


class Reader:
    """Reads one folder again and again; of its log only what is new."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = LogReader(folder / "metrics.jsonl")

    def look(self, number: int, title: str) -> Look:
        problems: list[str] = []
        folder = RunFolder(self.folder)
        if not self.folder.is_dir():
            problems.append(f"{self.folder} is not there")
        rows = attempt(problems, "metrics.jsonl", self.log.read, problems) or []
        checkpoint = attempt(problems, "checkpoints", newest, folder, problems)
        run = None
        if folder.config.is_file():
            run = attempt(problems, "run.json", read_run, folder.config)
        elif self.folder.is_dir():
            problems.append("run.json is not there yet")
        if run is None and checkpoint is not None:
            run = checkpoint.record.run  # `newest` has read it
        if checkpoint is None and not problems:
            problems.append("there is no checkpoint yet")
        return Look(
            number=number,
            title=title,
            folder=self.folder,
            run=run,
            rows=rows,
            checkpoint=checkpoint,
            incidents=attempt(problems, "incidents", incidents, folder, problems) or [],
            picture=attempt(problems, "samples", picture, folder, problems),
            last_write=attempt(problems, "the folder", last_change, folder),
            is_held=bool(attempt(problems, LOCK, is_held, self.folder)),
            problems=[*dict.fromkeys(problems)],
        )


class LogReader:
    """The whole rows of a log that grows; a log that was replaced is read anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.place = (0, 0)  # device and inode
        self.offset = 0
        self.bad = 0  # lines that are no rows

    def read(self, problems: list[str]) -> list[dict[str, Any]]:
        """The rows so far. A last line that is not whole is left for the next time."""
        if not self.path.is_file():
            problems.append("metrics.jsonl is not there yet")
            return []
        with self.path.open("rb") as file:
            facts = os.fstat(file.fileno())
            place = facts.st_dev, facts.st_ino
            if place != self.place or facts.st_size < self.offset:
                self.place, self.offset, self.rows, self.bad = place, 0, [], 0
            file.seek(self.offset)
            content = file.read(MOST_LOG)
        whole, end, rest = content.rpartition(b"\n")
        self.offset += len(whole) + len(end)
        lines = [row_of(line) for line in whole.split(b"\n") if line]
        rows = [row for row in lines if row is not None]
        self.bad += len(lines) - len(rows)
        if rows:
            self.rows = [*self.rows, *rows]  # who has the list before keeps it
        if rest:
            problems.append("metrics.jsonl: its last line is not whole yet")
        if self.bad:
            problems.append(f"metrics.jsonl: {self.bad} lines are no rows of a log")
        return self.rows


def row_of(line: bytes) -> dict[str, Any] | None:
    """A row's step and its numbers; None in place of what is not finite. None for no row."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or not is_count(values.get("step")):
        return None
    row = {name: number_of(value) for name, value in values.items() if name != "stage"}
    if is_count(values.get("stage")):
        row["stage"] = values["stage"]
    return row


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < MOST_COUNT


def number_of(value: Any) -> float | int | None:
    """The value where it is a finite number that a float can hold."""
    if type(value) is int and abs(value) < 2**63:
        return value
    return value if type(value) is float and math.isfinite(value) else None


def newest(folder: RunFolder, problems: list[str]) -> Checkpoint | None:
    """The newest checkpoint that says of which run it is."""
    for path in folder.checkpoints()[:3]:
        checkpoint = attempt(problems, path.name, peek, path)
        if checkpoint and attempt(problems, path.name, run_of, checkpoint):
            return checkpoint
    return None


def run_of(checkpoint: Checkpoint) -> Run:
    return checkpoint.record.run


def incidents(folder: RunFolder, problems: list[str]) -> list[Incident]:
    """The incidents, newest first."""
    result = []
    paths = [path for path in (folder.path / "incidents").glob("step-*") if path.is_dir()]
    for path in sorted(paths, key=lambda one: (one.stat().st_mtime, one.name), reverse=True)[:50]:
        if ".tmp-" in path.name:
            continue
        checkpoint = attempt(problems, f"incidents/{path.name}", peek, path)
        if checkpoint is not None:
            error = one_line(str((checkpoint.record.incident or {}).get("error", "")))
            result.append(Incident(path, checkpoint.record.step, error or "it does not say why"))
    return result


def picture(folder: RunFolder, problems: list[str]) -> tuple[Path, bytes] | None:
    """The newest picture of samples that is whole."""
    paths = [path for path in folder.samples.glob("step-*.png") if path.stem[5:].isdecimal()]
    for path in sorted(paths, key=lambda one: int(one.stem[5:]), reverse=True)[:3]:
        if path.is_file() and path.stat().st_size <= MOST_PICTURE:
            content = path.read_bytes()
            if content.startswith(PNG[0]) and content.endswith(PNG[1]):
                return path, content
        problems.append(f"samples/{path.name}: it is no whole picture")
    return None


def last_change(folder: RunFolder) -> float | None:
    """When something was last written."""
    names = ("run.json", "metrics.jsonl", "checkpoints", "samples", "incidents")
    paths = [folder.path / name for name in names]
    return max((path.stat().st_mtime for path in paths if path.exists()), default=None)


def is_held(folder: Path) -> bool:
    """Whether a process trains there, by what the lock's file says; the lock is not tried.

    A process of another machine counts while files change.
    """
    path = folder / LOCK
    if not path.is_file():
        return False
    with path.open("rb") as file:
        about = document(file.read(4097), path, 4096) if path.stat().st_size else {}
    if isinstance(about, dict) and str(about.get("host"))[:64] == platform.node()[:64]:
        return is_alive(about.get("pid"))
    when = last_change(RunFolder(folder))
    return when is not None and time.time() - when < QUIET


def is_alive(pid: Any) -> bool:
    """Whether there is a process of that number."""
    if not is_count(pid) or pid == 0:
        return False
    if os.name != "posix":  # where a signal of number 0 is none
        return True
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def settings_of(look: Look) -> dict[str, Any]:
    """The settings as the file has them, also where this version reads no run in it."""
    if look.run is not None:
        return look.run.to_json()
    path = look.folder / "run.json"
    with path.open("rb") as file:
        values = document(file.read(MOST_BYTES + 1), path, MOST_BYTES)
    return values if isinstance(values, dict) else {}


def attempt(
    problems: list[str], what: str, work: Callable[P, T], *args: P.args, **options: P.kwargs
) -> T | None:
    """What the work gives; None where it fails, with a line that says why."""
    try:
        return work(*args, **options)
    except Exception as error:  # of a folder that changes, or that anything wrote
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        line = one_line(str(reason))
        problems.append(line if what in line else f"{what}: {line}")
        return None
