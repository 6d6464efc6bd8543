"""Samples and conditions among named arrays, and in the columns of a table."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.base.errors import UserError, unknown
from fewstep.data import images
from fewstep.data.archives import readable
from fewstep.data.tensors import LEVELS, PATH, is_solved

log = logging.getLogger("fewstep")

SAMPLES = ("x0", "x", "images", "image", "img", "data", "samples", "arr_0")
ROLES = {
    "cond": ("cond",),
    "label": ("label", "labels", "y"),
    "features": ("features",),
    "mask": ("mask",),
}
_ROLE_NAMES = [name for names in ROLES.values() for name in names]


def parts(name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """Samples and condition among named arrays, and the parts of trajectories, if any."""
    if is_solved(table):
        plain = {n: array for n, array in table.items() if n not in (PATH, LEVELS)}
        return {**parts(name, plain), PATH: table[PATH], LEVELS: table[LEVELS]}
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
        raise unknown(f"array of {name}", excess, (*SAMPLES, *_ROLE_NAMES))
    cond = {role: table[n] for role, n in roles.items() if n is not None}
    if "label" in cond:
        cond["label"] = whole_labels(str(roles["label"]), number_labels(cond["label"]))
    if "cond" in cond and len(cond) > 1:
        raise UserError(
            f"{name} holds cond and {', '.join(cond.keys() - {'cond'})}: expected one or the other"
        )
    return {"x0": table[key or rest[0]], "cond": unwrap(cond) if cond else None}


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


def whole_labels(name: str, labels: Any) -> Any:
    """Labels as integers where they are booleans or floats. Raises UserError for fractions."""
    values = np.asarray(labels)
    if values.dtype.kind in "bf":
        if not (values == np.floor(values)).all():
            raise UserError(
                f"{name} holds numbers that are not whole: labels are integers from 0, others are"
                " features"
            )
        return values.astype(np.int64)
    return labels


def number_labels(labels: Any) -> Any:
    """Labels that are text as their number in sorted order; all others as they are."""
    kind = getattr(getattr(labels, "dtype", None), "kind", "")
    return np.unique(labels, return_inverse=True)[1] if kind in "UST" else labels


def native(array: np.ndarray) -> np.ndarray:
    """The array in a type that torch has; text and objects are refused by name."""
    if array.dtype.kind not in "biufc":
        raise TypeError(f"an array of {array.dtype}, expected numbers")
    if array.dtype.itemsize > 8 and array.dtype.kind == "f":
        return array.astype(np.float64)
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))


def parquet(path: Path, size: int | None) -> dict[str, Any]:
    """The table in a .parquet file."""
    try:
        from pyarrow.parquet import read_table
    except ImportError:
        raise UserError("parquet needs pyarrow: pip install 'fewstep[parquet]'") from None
    table = read_table(path)
    columns = {name: table[name].to_pylist() for name in table.column_names}
    return from_columns(str(path), columns, size)


def hugging_face(name: str, size: int | None) -> dict[str, Any]:
    """The train split, or the only one, of a data set by name or in a folder of `save_to_disk`."""
    try:
        import datasets
    except ImportError:
        raise UserError("hf:NAME needs datasets: pip install 'fewstep[hf]'") from None
    with readable(f"hf:{name}"):
        load = datasets.load_from_disk if Path(name).is_dir() else datasets.load_dataset
        table = load(name)
        if isinstance(table, datasets.DatasetDict):
            is_only = "train" not in table and len(table) == 1
            table = next(iter(table.values())) if is_only else table["train"]
        columns = {column: table[column] for column in table.column_names}
        return from_columns(f"hf:{name}", columns, size)


def from_columns(
    name: str, columns: Mapping[str, Iterable[Any]], size: int | None
) -> dict[str, Any]:
    """Samples and condition of a table.

    Samples are a column, or else all columns of numbers beside the condition's, stacked.
    """
    key = next((key for key in SAMPLES if key in columns), None)
    names = [n for n in columns if key is None or n == key or n in _ROLE_NAMES]
    table = {n: column_of(n, columns[n], size, n in _ROLE_NAMES) for n in names}
    if key is None:
        rest = {n: table.pop(n) for n in names if n not in _ROLE_NAMES}
        flat = [n for n, values in rest.items() if values.dtype.kind in "biuf" and values.ndim == 1]
        others = [n for n in rest if n not in flat]
        if not flat:
            raise UserError(
                f"{name} has the columns {', '.join(columns)}: expected samples in"
                f" {' or '.join(SAMPLES)}"
            )
        if others:
            message = "fewstep: %s: samples are the columns %s; left out: %s"
            log.warning(message, name, ", ".join(flat), ", ".join(others))
        table["x0"] = np.stack([native(rest[n]) for n in flat], 1)
    return parts(name, table)


def column_of(name: str, values: Iterable[Any], size: int | None, role: bool) -> Any:
    """A column as an array.

    Text of a role is numbered; pictures, also in files' bytes as {"bytes"}, are bytes
    `[N, C, H, W]`.
    """
    first = next(iter(values), None)
    named_rows = ((f"{name} of row {i}", row) for i, row in enumerate(values))
    if hasattr(first, "getbands"):
        return images.stack(named_rows, size)
    if isinstance(first, Mapping) and isinstance(first.get("bytes"), bytes):
        pictures = ((n, images.decode(n, io.BytesIO(row["bytes"]))) for n, row in named_rows)
        return images.stack(pictures, size)
    try:
        rows = list(values)
        if first is not None and None in rows:
            raise UserError(f"column {name}: row {rows.index(None)} is null: remove or repair it")
        column = np.asarray(rows)
        return number_labels(column) if role else column
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"the rows of column {name} differ in length: pad them and say where with a mask"
        ) from error
