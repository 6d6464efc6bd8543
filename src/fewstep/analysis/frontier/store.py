"""The scores so far, one a line, so that an interrupted study goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fewstep.analysis.metrics import Result
from fewstep.base.errors import StorageError, UserError

NAME = "scored.jsonl"


def _agree(a: Any, b: Any) -> bool:
    """Whether both have names in common, with equal values: a study may gain or lose a teacher."""
    if not isinstance(a, dict) or not isinstance(b, dict):
        return bool(a == b)
    both = a.keys() & b.keys()
    return bool(both) and all(a[name] == b[name] for name in both)


class Store:
    """The results of a folder by their key; `count_before`: how many there were at the start.

    Raises UserError where the folder holds something else, or the scores of other weights or data.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.path = folder / NAME
        self._results: dict[str, list[Result]] = {}
        facts = json.loads(json.dumps(identity))
        if folder.is_file():
            raise UserError(f"--out {folder} is a file: expected a folder")
        if folder.is_dir() and any(folder.iterdir()):
            self._read(folder, facts)
        else:
            self._append(facts)
        self.count_before = len(self._results)

    def _read(self, folder: Path, identity: dict[str, Any]) -> None:
        # An interruption may have cut the last line.
        whole = [line for line in self._lines() if line.endswith(b"\n")]
        first: Any = None
        with suppress(ValueError, IndexError):
            first = json.loads(whole[0])
        if not isinstance(first, dict) or "data" not in first:
            raise UserError(f"{folder} holds something that is no frontier: choose another --out")
        for name, value in identity.items():
            if not _agree(first.get(name), value):
                raise UserError(
                    f"{folder} holds the frontier of other {name}: choose another --out, or"
                    " remove it"
                )
        for line in whole[1:]:
            with suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                self._results[row["key"]] = [Result.from_json(result) for result in row["results"]]
        self._write(b"".join(whole), "wb")

    def _lines(self) -> list[bytes]:
        try:
            return self.path.read_bytes().splitlines(keepends=True)
        except OSError:
            return []

    def _append(self, row: Mapping[str, Any]) -> None:
        self._write(json.dumps(row).encode() + b"\n", "ab")

    def _write(self, content: bytes, mode: str) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, mode) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror or error}") from error

    def get(self, key: Mapping[str, Any], measure: Callable[[], list[Result]]) -> list[Result]:
        """The results of that key: from the file, else measured and appended to it."""
        name = json.dumps(key, sort_keys=True)
        if name not in self._results:
            results = measure()
            self._results[name] = results
            self._append({"key": name, "results": [asdict(result) for result in results]})
        return self._results[name]
