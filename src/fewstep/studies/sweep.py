"""A sweep as a value: its runs, their folders, and what of them is done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.base import disk
from fewstep.base.errors import StorageError, UserError, storage
from fewstep.base.json_file import document
from fewstep.run.checkpoint import RunFolder
from fewstep.run.config import Run, field_name
from fewstep.run.resume import differences
from fewstep.studies import scores
from fewstep.studies.scores import Scoring

NAME = "sweep.json"
SEED = "seed"
MOST_BYTES = 2**26  # of sweep.json


@dataclass(frozen=True)
class Entry:
    """One run of a sweep.

    name: of its folder. settings: the values of the options that have several, the seed's among
    them where it has. command: the `fewstep train` that makes it.
    """

    name: str
    run: Run
    settings: dict[str, str]
    command: str

    @property
    def setting(self) -> dict[str, str]:
        """The settings without the seed: a row of the table."""
        return {name: value for name, value in self.settings.items() if name != SEED}

    def to_json(self) -> dict[str, Any]:
        return {"settings": self.settings, "run": self.run.to_json()}


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


def register(folder: Path, entries: Sequence[Entry]) -> None:
    """Writes the sweep's runs into `sweep.json`, beside those of an earlier sweep.

    Raises UserError where a folder of these names holds a run of other settings, or of no sweep.
    """
    facts = _read(folder) or {"runs": {}}
    for entry in entries:
        place, values = folder / entry.name, entry.to_json()
        before = facts["runs"].setdefault(entry.name, values)
        if before is values and (place / "run.json").exists():
            raise UserError(f"{place} holds a run that is not of this sweep: choose another --out")
        for name, new, old in differences(values["run"], before["run"]):
            raise UserError(
                f"{place} holds a run with {field_name(name)} = {old!r}, not {new!r}: choose"
                " another --out"
            )
    with storage(f"cannot write to {folder}"):
        disk.make_folder(folder)
        disk.replace(folder / NAME, (json.dumps(facts, indent=1) + "\n").encode())


def progress_of(place: Path, scoring: Scoring | None) -> tuple[int, bool]:
    """(steps that a run's folder has, whether nothing is left to do)."""
    try:
        newest = RunFolder(place).newest()
    except StorageError:
        return 0, False  # the run itself will say why
    if newest is None:
        return 0, False
    record = newest.record
    is_done = record.step == record.run.steps
    if scoring is not None:
        is_done = is_done and bool(scores.read(place, record.fingerprint, scoring))
    return record.step, is_done
