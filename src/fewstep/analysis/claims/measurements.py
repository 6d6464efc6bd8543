"""What is measured: rows of a table, each a function of the seed; and the file of their numbers."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from fewstep.base.errors import StorageError
from fewstep.run.checkpoint import replace_file

FILE = "claims.json"

Measure = Callable[[Path, int], dict[str, Any]]  # (folder of common files, seed) -> numbers


@dataclass(frozen=True)
class Row:
    """A measurement by seed.

    measure: a function of a module or a partial of one, since it crosses to another process.
    settings: all that the numbers depend on, as JSON; numbers under other settings do not count.
    needs: rows that are measured first, since this one reads their files.
    cost: CPU seconds, about. by_seed: False for an exact number, which has seed 0 alone.
    """

    measure: Measure
    settings: dict[str, Any]
    command: str
    cost: float = 1.0
    needs: tuple[Row, ...] = ()
    by_seed: bool = True

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def depth(self) -> int:
        """How many rows have to be measured before it, one after the other."""
        return 1 + max((row.depth for row in self.needs), default=-1)

    def seeds(self, count: int) -> range:
        return range(1, count + 1) if self.by_seed else range(1)


@dataclass(frozen=True)
class Job:
    """One row at one seed."""

    row: Row
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        return self.row.digest, self.seed


@dataclass
class Store:
    """`claims.json`: every number by the digest of its settings, written whole after each job."""

    folder: Path
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def open(folder: Path) -> Store:
        """The folder's store, or an empty one. Raises StorageError if it cannot be read or made."""
        file = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            facts = json.loads(file.read_text()) if file.exists() else {}
            return Store(folder, facts.get("measured", {}), facts.get("claims", {}))
        except (OSError, ValueError, AttributeError) as error:
            raise StorageError(
                f"{file}: {error}: expected what --claims wrote, or another --out"
            ) from error

    @property
    def file(self) -> Path:
        return self.folder / FILE

    def seeds(self, row: Row) -> dict[str, dict[str, Any]]:
        """The row's numbers by seed."""
        return self.results.get(row.digest, {}).get("seeds", {})

    def has(self, job: Job) -> bool:
        return str(job.seed) in self.seeds(job.row)

    def put(self, job: Job, numbers: dict[str, Any]) -> None:
        row = job.row
        empty = {"settings": row.settings, "command": row.command, "seeds": {}}
        self.results.setdefault(row.digest, empty)["seeds"][str(job.seed)] = numbers
        self.write()

    def write(self) -> None:
        facts = {"torch": torch.__version__, "cores": os.cpu_count(), "claims": self.claims}
        text = json.dumps({**facts, "measured": self.results}, indent=1) + "\n"
        try:
            replace_file(self.file, text.encode())
        except OSError as error:
            raise StorageError(f"cannot write {self.file}: {error.strerror or error}") from error
