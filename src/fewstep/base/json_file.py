"""JSON of files that nobody vouches for: limits are checked before and while it is read.

JSON's own reader accepts doubled keys and NaN, and dies of deep nesting."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fewstep.base.errors import StorageError

MOST_JSON = (
    5 * 2**19
)  # bytes of a JSON document: as a list of lists these take 30 times the memory, and a second


@contextmanager
def _uncollected() -> Iterator[None]:
    """Inside, no garbage is looked for: a million new lists hold none, and would have all of memory
    searched.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def document(content: bytes, where: str | Path, most: int = MOST_JSON) -> Any:
    """The JSON value. Raises StorageError for what is none or longer, a key that stands twice, NaN
    or infinity.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"the key {key[:60]!r} stands twice")
            found[key] = value
        return found

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
        with _uncollected():
            return json.loads(
                content, object_pairs_hook=once, parse_float=number, parse_constant=constant
            )
    except RecursionError:
        raise StorageError(f"{where} is nested too deeply: expected JSON of this program") from None
    except ValueError as error:
        raise StorageError(f"{where} cannot be read: {error}") from error
