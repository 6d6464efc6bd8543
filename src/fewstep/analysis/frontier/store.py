"""What was scored so far, a line for each, so that an interrupted study goes on where it stopped."""

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


def _same(kept: Any, given: Any) -> bool:
    """Whether both name something in common and say the same of it: a study may gain a teacher, or
    leave it out.
    """
    if not isinstance(kept, dict) or not isinstance(given, dict):
        return bool(kept == given)
    both = kept.keys() & given.keys()
    return bool(both) and all(kept[name] == given[name] for name in both)


class Store:
    """The results of a folder by their key; `seen` is how many of them were there before.

    Raises UserError where the folder holds something else, or the scores of other weights or data.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.path = folder / NAME
        self._known: dict[str, list[Result]] = {}
        told = json.loads(json.dumps(identity))
        if folder.is_file():
            raise UserError(f"--out {folder} is a file: expected a folder")
        if folder.is_dir() and any(folder.iterdir()):
            self._read(folder, told)
        else:
            self._append(told)
        self.seen = len(self._known)

    def _read(self, folder: Path, identity: dict[str, Any]) -> None:
        whole = [line for line in self._lines() if line.endswith(b"\n")]
        first: Any = None
        with suppress(ValueError, IndexError):
            first = json.loads(whole[0])
        if not isinstance(first, dict) or "data" not in first:
            raise UserError(f"{folder} holds something that is no frontier: choose another --out")
        for name, value in identity.items():
            if not _same(first.get(name), value):
                raise UserError(
                    f"{folder} holds the frontier of other {name}: choose another --out, or"
                    " remove it"
                )
        for line in whole[1:]:
            with suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                self._known[row["key"]] = [Result.from_json(result) for result in row["results"]]
        self._write(b"".join(whole), "wb")  # without a line that was torn

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
        """The results of that key: those that are kept, else measured and kept."""
        name = json.dumps(key, sort_keys=True)
        if name not in self._known:
            self._known[name] = measure()
            self._append({"key": name, "results": [asdict(result) for result in self._known[name]]})
        return self._known[name]
