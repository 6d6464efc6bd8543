"""Arrays that numpy maps from a file: where they lie in it, and views that may be written to."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np


def file_of(rows: Any) -> Path | None:
    """The file that an array is mapped from; None of one in memory."""
    name = getattr(rows, "filename", None)
    return None if name is None else Path(str(name))


def first_byte(rows: np.memmap) -> int:
    """How many bytes of the file lie before the array's first number."""
    return _start(rows) + rows.ctypes.data - _whole(rows).ctypes.data


def writable(rows: np.memmap) -> np.ndarray:
    """The same numbers of a file that was opened to be read: what is written stays in memory.

    Raises OSError where the file is gone.
    """
    whole = _whole(rows)
    buffer = np.memmap(str(rows.filename), np.uint8, "c", _start(rows), whole.shape)
    offset = rows.ctypes.data - whole.ctypes.data
    return np.ndarray(rows.shape, rows.dtype, buffer, offset, rows.strides)


def _whole(rows: np.memmap) -> np.ndarray:
    """All bytes that are mapped, of which the array may be a view of some."""
    return np.frombuffer(rows._mmap, np.uint8)  # type: ignore[attr-defined]


def _start(rows: np.memmap) -> int:
    """The byte of the file at which the mapping begins: numpy begins at a whole page."""
    return int(rows.offset) - int(rows.offset) % mmap.ALLOCATIONGRANULARITY
