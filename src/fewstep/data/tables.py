"""Samples and conditions among named arrays."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewstep.base.errors import UserError, unknown
from fewstep.base.tensor_file import header, layout, read_tensors
from fewstep.data.archives import check_numpy, read_header
from fewstep.data.columns import Names, number_texts
from fewstep.data.reading import Content, Reading
from fewstep.data.stored import AT_ONCE, MOST_NUMBERS, rows_of
from fewstep.data.streams import Stream, as_condition, is_large

ARRAYS = (".npy", ".npz", ".safetensors")
SAMPLES = ("x0", "x", "images", "image", "img", "data", "samples", "arr_0")
ROLES = {
    "cond": ("cond",),
    "label": ("label", "labels", "y"),
    "features": ("features",),
    "mask": ("mask",),
}
ROLE_NAMES = [name for names in ROLES.values() for name in names]
PATH, LEVELS = "path", "levels"  # the keys that mark solved trajectories


def is_solved(arrays: Any) -> bool:
    """Whether these named arrays hold solved trajectories."""
    return isinstance(arrays, Mapping) and PATH in arrays and LEVELS in arrays


def arrays(path: Path, reading: Reading | None = None) -> dict[str, Any]:
    """The arrays of a .npy (under no name), .npz or .safetensors; text only of labels.

    reading: a large .npz is one of streams, and a large .safetensors stays in its file.
    """
    if path.suffix.lower() == ".safetensors":
        sizes = [math.prod(entry.shape) for entry in layout(path).values()]
        if reading is not None and is_large(max(sizes, default=0), reading):
            return mapped_tensors(path)
        return dict(read_tensors(path))
    check_numpy(path)
    if reading is not None and path.suffix.lower() == ".npz" and zipfile.is_zipfile(path):
        table = _streams(path)
        sizes = [part.numbers for part in table.values()]
        if not is_solved(table) and is_large(max(sizes, default=0), reading):
            with np.load(path, allow_pickle=False) as content:
                return {
                    key: part.stream() if part.is_long(key) else _whole(key, content[key])
                    for key, part in table.items()
                }
    may_stay = path.suffix.lower() == ".npy" and path.stat().st_size > MOST_NUMBERS
    content = np.load(path, mmap_mode="c" if may_stay else None, allow_pickle=False)
    if isinstance(content, np.ndarray):
        stays = isinstance(content, np.memmap) and content.size > MOST_NUMBERS  # in the file
        return {"": native(content if stays else np.array(content))}
    with content:
        table = {key: content[key] for key in content.files}
    return {key: _whole(key, x) for key, x in table.items()}


def _whole(key: str, values: Any) -> Any:
    return values if key in ROLES["label"] else native(values)


@dataclass(frozen=True)
class _Member:
    """An array of a .npz by its header."""

    path: Path
    name: str
    shape: tuple[int, ...]
    is_plain: bool  # of numbers, rows behind one another
    dtype: np.dtype[Any]

    def is_long(self, key: str) -> bool:
        """Whether it is read in blocks under that name; labels are in memory."""
        is_row = len(self.shape) == 1 and key in ROLE_NAMES
        has_rows = bool(self.shape) and self.numbers > 0
        return self.is_plain and has_rows and not is_row and key not in ROLES["label"]

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)

    def stream(self) -> Stream:
        return Stream(self.shape[0], self._blocks)

    def _blocks(self, first: int) -> Iterator[np.ndarray]:
        """Rows from that one on; those before are read too, so that the checksum is compared."""
        width = self.dtype.itemsize * math.prod(self.shape[1:])
        size = rows_of(AT_ONCE, self.shape[1:])
        with zipfile.ZipFile(self.path) as source, source.open(self.name) as file:
            read_header(file)
            for row in range(0, self.shape[0], size):
                content = file.read(width * min(size, self.shape[0] - row))
                rows = np.frombuffer(content, self.dtype).reshape(-1, *self.shape[1:])
                if row + len(rows) > first:
                    yield native(rows[max(0, first - row) :])
            file.read(1)  # to the end, where the checksum is


def _streams(path: Path) -> dict[str, _Member]:
    """The arrays of a .npz by their headers."""
    table = {}
    with zipfile.ZipFile(path) as source:
        for name in source.namelist():
            with source.open(name) as file:
                shape, is_fortran, dtype = read_header(file)
            is_plain = not is_fortran and dtype.kind in "biuf"
            table[name.removesuffix(".npy")] = _Member(path, name, shape, is_plain, dtype)
    return table


def mapped_tensors(path: Path) -> dict[str, Any]:
    """The tensors of a .safetensors file, mapped; those of types that NumPy has none for, read."""
    with path.open("rb") as file:
        size = path.stat().st_size
        entries, _, start = header(file, size, path)
        file.seek(8)
        about = json.loads(file.read(start - 8))
    table: dict[str, Any] = {}
    for name, (dtype, shape) in entries.items():
        try:
            kind = torch.empty(0, dtype=dtype).numpy().dtype
        except TypeError:
            return dict(read_tensors(path))
        offset = start + about[name]["data_offsets"][0]
        is_empty = not math.prod(shape)
        table[name] = (
            np.empty(shape, kind) if is_empty else np.memmap(path, kind, "c", offset, shape)
        )
    return table


def parts(name: str, table: Mapping[str, Any]) -> Content:
    """Samples and condition among named arrays, and the parts of trajectories, if any."""
    if is_solved(table):
        plain = {n: array for n, array in table.items() if n not in (PATH, LEVELS)}
        content = parts(name, plain)
        points = {PATH: table[PATH], LEVELS: table[LEVELS]}
        return Content({**content.data, **points}, content.names)
    key = _only_one(name, SAMPLES, table)
    roles = {role: _only_one(name, names, table) for role, names in ROLES.items()}
    rest = [n for n in table if n not in roles.values()]
    if key is None and len(rest) != 1:
        raise UserError(
            f"{name} holds {', '.join(table) or 'nothing'}: expected samples under"
            f" {' or '.join(SAMPLES)}"
        )
    if key is not None and len(rest) > 1:
        excess = next(n for n in rest if n != key)
        raise unknown(f"array of {name}", excess, (*SAMPLES, *ROLE_NAMES))
    cond_parts = {role: table[n] for role, n in roles.items() if n is not None}
    cond, names = condition(name, cond_parts, label=str(roles["label"]))
    return Content({"x0": table[key or rest[0]], "cond": cond}, names)


def condition(
    name: str, cond: dict[str, Any], vocabulary: Sequence[str] = (), label: str = "label"
) -> tuple[Any, Names]:
    """The condition of these parts by role, its labels numbered, and the names of its classes.

    vocabulary: the names of the classes, where a run has them. label: the name of the labels.
    """
    names = Names()
    if "label" in cond:
        labels, classes = number_labels(label, cond["label"], vocabulary)
        cond, names = {**cond, "label": labels}, Names(classes=classes)
    if "cond" in cond and len(cond) > 1:
        raise UserError(
            f"{name} holds cond and {', '.join(cond.keys() - {'cond'})}: expected one or the other"
        )
    cond = {role: as_condition(role, part) for role, part in cond.items()}
    if "features" in cond:
        cond = {**cond, "features": as_features(cond["features"])}
    return unwrap(cond) if cond else None, names


def as_features(values: Any) -> Any:
    """Whole numbers as the floats that they mean."""
    if isinstance(values, Stream):
        return values
    values = np.asanyarray(values)
    return values.astype(np.float64) if values.dtype.kind in "iu" else values


def _only_one(name: str, names: tuple[str, ...], table: Mapping[str, Any]) -> str | None:
    """Which of the names, which mean the same, the table has. Raises UserError for several."""
    present = [n for n in names if n in table]
    if len(present) > 1:
        raise UserError(
            f"{name} holds {' and '.join(present)}, which mean the same: keep one of them"
        )
    return present[0] if present else None


def unwrap(cond: dict[str, Any]) -> Any:
    """A condition of one part as that part, unless it is a mask."""
    return next(iter(cond.values())) if len(cond) == 1 and "mask" not in cond else cond


def is_text(values: Any) -> bool:
    """Whether an array holds text."""
    return isinstance(values, np.ndarray | np.generic) and values.dtype.kind in "UST"


def number_labels(
    name: str, labels: Any, vocabulary: Sequence[str] = ()
) -> tuple[Any, tuple[str, ...]]:
    """Labels as integers, and the names of their classes where they are text or booleans.

    Text is numbered in its natural order, or by the vocabulary. Raises UserError for numbers that
    are not whole, and for unknown text.
    """
    if is_text(labels):
        empty = np.flatnonzero(labels == np.zeros((), labels.dtype))
        if len(empty):
            raise UserError(f"{name}: row {empty[0]} is empty: remove or repair it")
        numbers, classes = number_texts(labels.tolist())
        if not vocabulary:
            return numbers, classes
        return places(name, classes, vocabulary)[numbers], tuple(vocabulary)
    values = np.asanyarray(labels)
    if values.dtype.kind == "f" and not (values == np.floor(values)).all():
        raise UserError(
            f"{name} holds numbers that are not whole: labels are integers from 0, others are"
            " features"
        )
    if values.dtype.kind not in "bf":
        return labels, ()
    return values.astype(np.int64), ("False", "True") if values.dtype.kind == "b" else ()


def places(name: str, words: Sequence[str], vocabulary: Sequence[str]) -> np.ndarray:
    """The place of each word in the vocabulary. Raises UserError for one that is not there."""
    number = {word: place for place, word in enumerate(vocabulary)}
    strange = [word for word in words if word not in number]
    if strange:
        first = ", ".join(vocabulary[:12]) + (", ..." if len(vocabulary) > 12 else "")
        raise UserError(f"{name} = {strange[0]!r}: expected one of {first}")
    return np.array([number[word] for word in words], dtype=np.int64)


def native(array: np.ndarray) -> np.ndarray:
    """The array in a type that torch has; text and objects are refused by name."""
    if array.dtype.kind not in "biufc":
        raise TypeError(f"an array of {array.dtype}, expected numbers")
    if isinstance(array, np.memmap) and array.flags.c_contiguous and array.dtype.isnative:
        return array
    if array.dtype.itemsize > 8 and array.dtype.kind == "f":
        return array.astype(np.float64)
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
