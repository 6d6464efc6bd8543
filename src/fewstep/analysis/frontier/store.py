"""The scores so far, one a line, so that an interrupted study goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fewstep.analysis.metrics import Result
from fewstep.base import disk
from fewstep.base.errors import UserError, storage

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
        first: Any = None
        whole: list[bytes] = []
        with suppress(OSError, ValueError, IndexError):
            # An interruption may have cut the last line.
            whole = [x for x in self.path.read_bytes().splitlines(True) if x.endswith(b"\n")]
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
        with storage(f"cannot write {self.path}"):
            disk.replace(self.path, b"".join(whole))

    def _append(self, row: Mapping[str, Any]) -> None:
        with storage(f"cannot write {self.path}"):
            disk.make_folder(self.path.parent)
            disk.append(self.path, json.dumps(row).encode() + b"\n")
            disk.sync(self.path)

    def get(self, key: Mapping[str, Any], measure: Callable[[], list[Result]]) -> list[Result]:
        """The results of that key: from the file, else measured and appended to it."""
        name = json.dumps(key, sort_keys=True)
        if name not in self._results:
            results = measure()
            self._results[name] = results
            self._append({"key": name, "results": [asdict(result) for result in results]})
        return self._results[name]
