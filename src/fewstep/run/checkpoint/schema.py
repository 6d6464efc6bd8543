"""What state.json says: every key, what it may hold, and what a file without it means.

Nothing else writes or reads these keys: others use the attributes of `Record`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fewstep.base.errors import StorageError, UserError, short_repr
from fewstep.base.json_file import MOST_JSON
from fewstep.core.method import Method
from fewstep.run.config import MOST_BYTES, MOST_COUNT, Run, run_from_json
from fewstep.run.facts import Facts
from fewstep.run.levels import LevelChoice

FORMAT = 2
READS = (1, 2)
MOST_FACTS = MOST_JSON - MOST_BYTES - 2**16  # bytes, beside a run and the rest of state.json


class Unreadable(StorageError):
    """A checkpoint of which nothing is known: it may not be read, or another version wrote it."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a run stands: with the groups of tensors, all that its next step depends on.

    The fingerprint of a checkpoint covers this. None: the file does not say.
    """

    step: int
    stage_start: int | None = None  # step at which the stage's optimizer was new; unsaid: 0
    stage: int | None = None  # unsaid: the last
    teacher_rows: int | None = None  # that the teacher evaluated so far; unsaid: nobody counted
    log: str | None = None  # chain of SHA-256 over the rows of the log; unsaid: the file's own

    def trained(self, method: Method) -> Method:
        """The method of the stage that it is in."""
        return method.chain[: self.stage][-1]

    def to_json(self) -> dict[str, Any]:
        """What it says, by key."""
        keys = KEYS if isinstance(self, Record) else POSITION
        values = {name: getattr(self, key.attribute) for name, key in keys.items()}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Record(Position):
    """All of state.json. None: the file does not say; `run` and `facts` are read when asked for."""

    run_json: dict[str, Any]
    facts_json: dict[str, Any]
    format: int | None = None  # `write` adds it
    fingerprint: str | None = None  # `write` adds it
    torch: str | None = None  # version that wrote it
    machine: dict[str, Any] | None = None  # {"device", "threads", "processes"} that wrote it
    skipped: list[str] | None = None  # files of the data that could not be read; unsaid: none
    levels: dict[str, Any] | None = None  # chosen at the end; unsaid: the method's own
    source: dict[str, Any] | None = None  # of an import: kind, file, sha256, left_out, notes
    incident: dict[str, Any] | None = None  # {"error", "progress"} of a step that is not finite
    shards: int | None = (
        None  # processes that wrote a part of the groups each; unsaid: one wrote all
    )

    @property
    def run(self) -> Run:
        """Raises UserError."""
        return run_from_json(self.run_json)

    @property
    def facts(self) -> Facts:
        """Raises StorageError."""
        return Facts.from_json(self.facts_json)

    @property
    def level_choice(self) -> LevelChoice:
        """The levels of later steps that were chosen when training ended."""
        return LevelChoice.from_json(self.levels) or LevelChoice()

    @property
    def processes(self) -> int:
        """How many processes trained together; unsaid: one."""
        count: int = (self.machine or {}).get("processes", 1)
        return count


@dataclass(frozen=True)
class Key:
    """A key of state.json: the attribute it is read as, and what its value has to be."""

    attribute: str
    kind: type
    expected: str
    fits: Callable[[Any], bool] = lambda value: True


def _count(attribute: str, most: int, expected: str) -> Key:
    """A whole number from 0 to below `most`."""
    return Key(attribute, int, expected, lambda value: 0 <= value < most)


POSITION = {
    "step": _count("step", MOST_COUNT, "a whole number, 0 or more, below 2^31"),
    "begun": _count("stage_start", MOST_COUNT, "0 or more, below 2^31"),
    "stage": Key("stage", int, "1 or more, below 100", lambda value: 0 < value < 100),
    "teacher_rows": _count("teacher_rows", 2**53, "0 or more, below 2^53"),
    "log": Key("log", str, "a text"),
}
KEYS = {
    **POSITION,
    "run": Key("run_json", dict, "an object"),
    "facts": Key("facts_json", dict, "an object"),
    "format": Key("format", int, "a number"),
    "fingerprint": Key("fingerprint", str, "a text"),
    "torch": Key("torch", str, "a text"),
    "machine": Key("machine", dict, "an object"),
    "skipped": Key("skipped", list, "a list"),
    "levels": Key("levels", dict, "levels and scores by steps", LevelChoice.is_one),
    "source": Key("source", dict, "an object"),
    "incident": Key("incident", dict, "an object"),
    "shards": _count("shards", MOST_COUNT, "0 or more, below 2^31"),
}
NEEDS = ("format", "run", "facts", "step", "fingerprint")  # keys that every file has


def new_record(run: Run, facts: Facts, position: Position, **more: Any) -> Record:
    """The record of a checkpoint: enough to build its networks without the user's script."""
    return Record(
        run_json=run.to_json(),
        facts_json=facts.to_json(),
        torch=torch.__version__,
        **asdict(position),
        **more,
    )


def read_record(values: dict[str, Any]) -> Record:
    """The record of values that passed `check_values`."""
    read = {KEYS[name].attribute: value for name, value in values.items() if name in KEYS}
    return Record(**read)


def check_values(values: Any, path: Path) -> None:
    """Raises StorageError that names the first key that is missing or wrong.

    Raises Unreadable where another version wrote the file.
    """
    if not isinstance(values, dict):
        raise StorageError(f"{path} holds no JSON object: it is no checkpoint of this program")
    missing = [name for name in NEEDS if name not in values]
    if missing:
        raise StorageError(
            f"{path} lacks {', '.join(missing)}: it is no checkpoint of this program"
        )
    number = values["format"]
    if type(number) is not int or number not in READS:
        raise Unreadable(
            f"{path} has format {str(number)[:20]}: this version reads {READS[0]} to {FORMAT}"
        )
    for name, key in KEYS.items():
        if name not in values:
            continue
        value = values[name]
        if type(value) is not key.kind or not key.fits(value):
            raise StorageError(f"{path}: {name} = {short_repr(value)}: expected {key.expected}")


def check_room(run: Run, facts: Facts) -> None:
    """Raises UserError where run.json or state.json would be larger than their readers take."""
    bounds = {
        "a run": (run.to_json(), MOST_BYTES),
        "facts of the data": (facts.to_json(), MOST_FACTS),
    }
    for what, (values, most) in bounds.items():
        size = len(json.dumps(values, indent=1))
        if size > most:
            raise UserError(
                f"{what} of {size} bytes, with all names and options: expected at most {most}"
            )


def check_contents(record: Record, path: Path) -> None:
    """Raises StorageError where no networks can be built of its run and facts."""
    try:
        run_from_json(record.run_json)
        Facts.from_json(record.facts_json)
    except (UserError, StorageError) as error:
        raise StorageError(f"{path}: {error}") from error
