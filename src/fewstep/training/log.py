"""The log of a run: rows chained by their SHA-256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewstep.run.config import MOST_COUNT

SCORE = "eval_"  # begins the name of a metric in a row that holds a score
CLOCK = ("seconds", "samples_per_second")  # of a row of the log, what no two runs share


def is_step(row: Mapping[str, Any]) -> bool:
    """Whether a row is of a training step; others hold a score."""
    return "loss" in row


def rows_of(path: Path, step: int = MOST_COUNT) -> list[dict[str, Any]]:
    """The rows of a log's file up to a step; none where it is not there."""
    return [json.loads(line) for line in log_until(path, step).splitlines()]


def next_chain(chain: str, row: Mapping[str, Any]) -> str:
    """The chain of a log with one more row: SHA-256 over the chain so far and the row as JSON."""
    text = json.dumps(row, sort_keys=True)
    return hashlib.sha256(f"{chain}|{text}".encode()).hexdigest()


def chain_of(text: bytes) -> str:
    """The chain of the steps' rows in a log, without their clock."""
    chain = ""
    for line in text.splitlines():
        row = {key: value for key, value in json.loads(line).items() if key not in CLOCK}
        chain = next_chain(chain, row) if is_step(row) else chain
    return chain


def log_until(path: Path, step: int) -> bytes:
    """The whole lines of a log up to a step: what a run that resumes there has written so far."""
    if not path.exists():
        return b""
    lines = path.read_bytes().splitlines(keepends=True)
    return b"".join(line for line in lines if _is_row_until(line, step))


def _is_row_until(line: bytes, step: int) -> bool:
    try:
        row_step = json.loads(line)["step"]
        return bool(row_step <= step) and line.endswith(b"\n")
    except (ValueError, KeyError, TypeError, RecursionError):  # cut off when the run was killed
        return False
