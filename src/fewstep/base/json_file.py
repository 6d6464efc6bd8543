"""JSON of untrusted files: limits are checked before and while it is read.

Python's own reader accepts doubled keys and NaN, and fails on deep nesting.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fewstep.base.errors import StorageError

# Bytes of a JSON document: as a list of lists these take 30 times the memory, and a second.
MOST_JSON = 5 * 2**19


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Inside, no garbage is collected: a million new lists have none, and cost many searches."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def document(content: bytes, where: str | Path, most: int = MOST_JSON) -> Any:
    """The JSON value. Raises StorageError for no JSON, too much, a doubled key, NaN or infinity."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise ValueError(f"the key {key[:60]!r} stands twice")
            result[key] = value
        return result

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"the number {text[:40]} is beyond what a float can hold")
        return value

    def constant(text: str) -> Any:
        raise ValueError(f"{text} is no JSON")

    if len(content) > most:
        raise StorageError(f"{where} has more than {most} bytes: expected JSON of this program")
    try:
        with _no_garbage_collection():
            return json.loads(
                content, object_pairs_hook=once, parse_float=number, parse_constant=constant
            )
    except RecursionError:
        raise StorageError(f"{where} is nested too deeply: expected JSON of this program") from None
    except ValueError as error:
        raise StorageError(f"{where} cannot be read: {error}") from error
