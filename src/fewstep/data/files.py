"""What `--data PATH` reads: arrays, tables and pictures, as {"x0", "cond"}; never a pickle.

| PATH | x0 | condition |
|---|---|---|
| `.npy` | the array | none |
| `.safetensors` with path and levels | x0: ends of trajectories (`fewstep.trajectories`), as they are | likewise |
| `.npz`, `.safetensors` | the key x0, x, images, data, samples or arr_0, or the only array | cond, or others below |
| `.parquet` (needs pyarrow) | that column, or image, img; else all columns of numbers side by side | likewise |
| `hf:NAME` (needs datasets) | likewise; NAME may be a folder that `save_to_disk` wrote | likewise |
| a folder or zip | its pictures (`fewstep.data.images`) | `dataset.json` as EDM writes it, else sub-folders |

A condition is under cond, or under any of label (labels, y), features and mask
(`fewstep.base.conditions`). Arrays have any shape `[N, ...]` and come to mean 0 and standard
deviation 0.5. Bytes (uint8) with 3 or 4 axes are pictures: [0, 255] becomes [-1, 1], `[N, H, W]`
becomes `[N, 1, H, W]`, and channels (1 or 3) that come last are put first. Text labels are numbered
in their order. A tenth of the samples (10,000 at most) each is held out for validation and test, by
a shuffle that depends on their number alone. All is in memory as float32, and three times that
while it is read: 50,000 pictures of 3x32x32 take 0.6 GB.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.base.conditions import masked, tensor
from fewstep.base.errors import UserError, require, unknown
from fewstep.base.tensor_file import read_tensors
from fewstep.data import images
from fewstep.data.archives import check_numpy, printable, readable
from fewstep.data.dataset import Arrays, Dataset, Units, shuffle, split
from fewstep.data.images import BadFiles
from fewstep.data.tensors import (
    LEVELS,
    PATH,
    check_arrays,
    classes_of,
    is_solved,
    standardise,
    trajectories,
)

log = logging.getLogger("fewstep")

SAMPLES = ("x0", "x", "images", "image", "img", "data", "samples", "arr_0")
ROLES = {
    "cond": ("cond",),
    "label": ("label", "labels", "y"),
    "features": ("features",),
    "mask": ("mask",),
}
_ROLE_NAMES = [name for names in ROLES.values() for name in names]
ARRAYS = (".npy", ".npz", ".safetensors")
_OWN = "own data"  # the stream that shuffles them
_HELD_OUT = 10_000  # as many as `fewstep eval` draws: more would sharpen nothing


def from_path(name: str, size: int | None = None, bad_files: BadFiles = "fail") -> Dataset:
    """The data set in a file, in a folder or behind hf:NAME, split by a fixed shuffle.

    Its `skipped` are the bad files that were left out.
    """
    data, bad = read_and_report(name, size, bad_files)
    return replace(_dataset(name, size, data), skipped=bad)


def _dataset(name: str, size: int | None, data: dict[str, Any]) -> Dataset:
    """The data read under that name, in the model's units and split."""
    place = full_name(name)
    if is_solved(data):
        one = trajectories(place, data)
        tenth = _tenth(len(one.train.x0))
        return split(place, one.train, (tenth, tenth), one.classes, one.units, _OWN, one.levels)
    values = tensor("data", data["x0"])
    pictures = pixels(values)
    if pictures is None:
        require(size is None, "data_size", size, f"none, since {name} holds no pictures")
        # The scale is the training split's alone.
        train = shuffle(_OWN, len(values))[2 * _tenth(len(values)) :]
        everything, classes, units = standardise(data, name, train)
    else:
        x0, cond = check_arrays({**data, "x0": pictures})
        everything = Arrays(masked(x0.float().div_(127.5).sub_(1), cond), cond)
        classes = classes_of(cond)
        units = Units(127.5, 127.5, clip=True)
    tenth = _tenth(len(everything.x0))
    if tenth < 2:
        message = (
            "fewstep: %s: fewer than 20 samples: too few are held out for eval to compare with"
        )
        log.warning(message, name)
    return split(place, everything, (tenth, tenth), classes, units, _OWN)


def full_name(name: str) -> str:
    """The name with its path written out, where there is one."""
    scheme = "hf:" if name.startswith("hf:") else ""
    path = Path(name.removeprefix("hf:"))
    return f"{scheme}{path.resolve()}" if path.exists() else name


def _tenth(n: int) -> int:
    """How many of n samples each of validation and test has."""
    return min(n // 10, _HELD_OUT)


def pixels(x0: Tensor) -> Tensor | None:
    """Bytes with 3 or 4 axes as pictures `[N, C, H, W]`; None for anything else."""
    if x0.dtype != torch.uint8 or x0.ndim not in (3, 4):
        return None
    if x0.numel() and bool((x0 == x0.flatten()[0]).all()):
        raise UserError(f"every pixel is {int(x0.flatten()[0])}: there is nothing to learn")
    x0 = x0[:, None] if x0.ndim == 3 else x0
    if x0.shape[1] in (1, 3):
        return x0
    return x0.movedim(3, 1).contiguous() if x0.shape[3] in (1, 3) else None


def read(name: str, size: int | None = None, bad_files: BadFiles = "fail") -> dict[str, Any]:
    """{"x0": array, "cond": condition or None} of a path or hf:NAME, as it is written there."""
    return read_and_report(name, size, bad_files)[0]


def read_and_report(
    name: str, size: int | None, bad_files: BadFiles
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What `read` returns, and what is wrong with the pictures that a folder or zip left out."""
    path = Path(name)
    if not name.startswith("hf:") and (path.is_dir() or path.suffix.lower() == ".zip"):
        return images.read(path, size, bad_files)
    return _read(name, size), ()


def _read(name: str, size: int | None) -> dict[str, Any]:
    if name.startswith("hf:"):
        return hugging_face(name.removeprefix("hf:"), size)
    path = Path(name)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        with readable(name):
            return parquet(path, size)
    if suffix not in ARRAYS:
        raise UserError(
            f"data {printable(name)}: expected a folder, .zip, {', '.join(ARRAYS)} or .parquet"
        )
    need = f"none: only pictures are resized, and {path.name} holds arrays"
    require(size is None, "data_size", size, need)
    with readable(name):
        return parts(name, arrays(path))


def native(array: np.ndarray) -> np.ndarray:
    """The array in a type that torch has; text and objects are refused by name."""
    if array.dtype.kind not in "biufc":
        raise TypeError(f"an array of {array.dtype}, expected numbers")
    if array.dtype.itemsize > 8 and array.dtype.kind == "f":
        return array.astype(np.float64)
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))


def parts(name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """Samples and condition among named arrays, and the parts of trajectories where there are any."""
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
    return {"x0": table[key or rest[0]], "cond": _unwrap(cond) if cond else None}


def _only_one(name: str, names: tuple[str, ...], table: Mapping[str, Any]) -> str | None:
    """Which of the names, which mean the same, the table has. Raises UserError for several."""
    present = [n for n in names if n in table]
    if len(present) > 1:
        raise UserError(
            f"{name} holds {' and '.join(present)}, which mean the same: keep one of them"
        )
    return present[0] if present else None


def _unwrap(cond: dict[str, Any]) -> Any:
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


def arrays(path: Path) -> dict[str, Any]:
    """The arrays of a .npy (under no name), .npz or .safetensors, text numbered."""
    if path.suffix.lower() == ".safetensors":
        return dict(read_tensors(path))
    check_numpy(path)
    content = np.load(path, allow_pickle=False)
    if isinstance(content, np.ndarray):
        return {"": native(content)}
    with content:
        return {key: native(number_labels(content[key])) for key in content.files}


def read_condition(path: Path) -> Any:
    """A condition to sample with, under the names of data files, without the samples beside it."""
    if path.suffix.lower() not in ARRAYS:
        raise UserError(f"condition {path}: expected {', '.join(ARRAYS)}")
    with readable(str(path)):
        table = arrays(path)
    if list(table) == [""]:
        return table[""]
    aliases = {n: role for role, names in ROLES.items() for n in names}
    others = (*SAMPLES, PATH, LEVELS)
    return _unwrap({aliases.get(n, n): array for n, array in table.items() if n not in others})


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
