"""A sweep as a value: its runs, their folders, and what of them is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fewstep.base import disk
from fewstep.base.errors import StorageError, UserError, storage
from fewstep.base.json_file import document
from fewstep.base.table import first_of
from fewstep.data import Dataset, full_name
from fewstep.run.checkpoint import RunFolder
from fewstep.run.config import Run, field_name
from fewstep.run.resume import MAY_CHANGE, differences
from fewstep.studies import scores
from fewstep.studies.scores import Scoring

NAME = "sweep.json"
TABLE = "table.json"
SEED = "seed"
MOST_BYTES = 2**26  # of sweep.json
# Where a run that goes on may find its data and teacher now, which decide the numbers of a table.
PLACES = ("cond", "data", "teacher", "test", "validation")


@dataclass(frozen=True)
class Entry:
    """One run of a sweep.

    name: of its folder. settings: the values of the options that have several, the seed's among
    them where it has. command: the `fewstep train` that makes it. data: what `digest_of` gives.
    """

    name: str
    run: Run
    settings: dict[str, str]
    command: str
    data: str = ""

    @property
    def setting(self) -> dict[str, str]:
        """The settings without the seed: a row of the table."""
        return {name: value for name, value in self.settings.items() if name != SEED}

    def to_json(self) -> dict[str, Any]:
        run = self.run.to_json()
        run |= {name: full_name(run[name]) for name in PLACES if run[name] is not None}
        return {"settings": self.settings, "run": run, "data": self.data}


def digest_of(dataset: Dataset) -> str:
    """SHA-256 of the rows that a run learns, and of those that it is scored by."""
    splits = (dataset, replace(dataset, train=getattr(dataset, scores.SPLIT)))
    return hashlib.sha256("|".join(one.fingerprint() for one in splits).encode()).hexdigest()


def runs_in(folder: Path) -> list[str] | None:
    """The names of the runs of a sweep's folder; None where it is none. Raises StorageError."""
    facts = _read(folder)
    return None if facts is None else [*facts["runs"]]


def _read(folder: Path) -> dict[str, Any] | None:
    file = folder / NAME
    if not file.is_file():
        return None
    with storage(f"cannot read {file}"):
        facts = document(file.read_bytes(), file, MOST_BYTES)
    if not isinstance(facts, dict) or not isinstance(facts.get("runs"), dict):
        raise StorageError(f"{file} is not what 'fewstep sweep' writes: choose another --out")
    return facts


def check_report(folder: Path, entries: Sequence[Entry]) -> None:
    """Raises UserError where the folder's report has runs that another one would drop.

    Those that failed, and those whose folder is gone, are in nobody's way.
    """
    file = folder / TABLE
    if not file.is_file():
        return
    with storage(f"cannot read {file}"):
        facts = document(file.read_bytes(), file, MOST_BYTES)
    try:
        names = [name for row in facts["rows"] for name in row["runs"]]
        names = [str(name) for name in names if name not in facts["failed"]]
    except (KeyError, TypeError):
        raise StorageError(
            f"{file} is not what 'fewstep sweep' writes: choose another --out"
        ) from None
    own = {entry.name for entry in entries}
    others = [name for name in sorted(names) if name not in own and (folder / name).is_dir()]
    if others:
        raise UserError(
            f"the report in {folder} would lose {first_of(others)}: name their values too, or"
            " choose another --out"
        )


def register(folder: Path, entries: Sequence[Entry]) -> None:
    """Writes the sweep's runs into `sweep.json`, beside those of an earlier sweep.

    Raises UserError where a folder of these names holds a run of other settings or data, or of no
    sweep.
    """
    facts = _read(folder) or {"runs": {}}
    for entry in entries:
        place, values = folder / entry.name, entry.to_json()
        if not (place / "run.json").exists():
            facts["runs"][entry.name] = values
            continue
        before = facts["runs"].get(entry.name)
        if before is None:
            raise UserError(f"{place} holds a run that is not of this sweep: choose another --out")
        for name, new, old in differences(values["run"], before["run"], MAY_CHANGE - {*PLACES}):
            raise UserError(
                f"{place} holds a run with {field_name(name)} = {old!r}, not {new!r}: choose"
                " another folder, --out NEW"
            )
        if before.setdefault("data", entry.data) != entry.data:
            raise UserError(
                f"{place} holds a run on data {entry.run.data!r} as they were before they changed:"
                " bring the old ones back, or choose another folder, --out NEW"
            )
    with storage(f"cannot write to {folder}"):
        disk.make_folder(folder)
        disk.replace(folder / NAME, (json.dumps(facts, indent=1) + "\n").encode())


def progress_of(place: Path, entry: Entry, scoring: Scoring | None) -> tuple[int, bool]:
    """(steps that a run's folder has, whether nothing of what is asked for is left to do).

    Raises UserError where it has more steps than are asked for.
    """
    try:
        newest = RunFolder(place).newest()
    except StorageError:
        return 0, False  # the run itself will say why
    if newest is None:
        return 0, False
    record, run = newest.record, entry.run
    iterations = record.run.iterations if run.is_open("iterations") else run.iterations
    more = record.step - iterations
    if more > run.extend:
        raise UserError(
            f"{place} is at step {record.step} of an earlier --extend: give --extend {more}, or"
            " choose another folder, --out NEW"
        )
    is_done = more == run.extend
    if scoring is not None:
        is_done = is_done and bool(scores.read(place, record.fingerprint, scoring))
    return record.step, is_done
