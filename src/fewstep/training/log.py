"""The log of a run: rows chained by their SHA-256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

CLOCK = ("seconds", "samples_per_second")  # of a row of the log, what no two runs share


def chain_of(text: bytes) -> str:
    """The chain of the rows in a log, whose clock it leaves out."""
    chain = ""
    for line in text.splitlines():
        chain = chained(
            chain, {key: value for key, value in json.loads(line).items() if key not in CLOCK}
        )
    return chain


def log_until(path: Path, step: int) -> bytes:
    """The whole lines of a log up to a step: what a run that resumes there has written so far."""
    kept = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        with suppress(
            ValueError, KeyError, TypeError, RecursionError
        ):  # a line that was torn when the run was killed
            if json.loads(line)["step"] <= step and line.endswith(b"\n"):
                kept.append(line)
    return b"".join(kept)


def chained(before: str, row: Mapping[str, Any]) -> str:
    """The chain of a log whose last row was added: SHA-256 over the chain before and the row as
    canonical JSON.
    """
    text = json.dumps(row, sort_keys=True)
    return hashlib.sha256(f"{before}|{text}".encode()).hexdigest()
