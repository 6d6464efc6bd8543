"""What `--data PATH` reads: arrays, tables and pictures, as {"x0", "cond"}; nothing that runs code,
no pickle.

| PATH | x0 | condition |
|---|---|---|
| `.npy` | the array | none |
| `.safetensors` with path and levels | x0: ends of trajectories (`fewstep.trajectories`), as they are | likewise |
| `.npz`, `.safetensors` | the key x0, x, images, data, samples or arr_0, or the only array | cond, or others below |
| `.parquet` (needs pyarrow) | that column, or image, img; else all columns of numbers side by side | likewise |
| `hf:NAME` (needs datasets) | likewise; NAME may be a folder that `save_to_disk` wrote | likewise |
| a folder or zip | its pictures (`fewstep.data.images`) | `dataset.json` as EDM writes it, else sub-folders |

A condition is under cond, or under any of label (labels, y), features and mask
(`fewstep.base.conditions`).
Arrays have any shape `[N, ...]` and come to mean 0 and standard deviation 0.5. Bytes (uint8) with 3
or 4 axes are
pictures: [0, 255] becomes [-1, 1], `[N, H, W]` becomes `[N, 1, H, W]`, and channels (1 or 3) that
come last are put first. Text labels are numbered in their order. A tenth of the samples (10,000 at
most) each is held out for validation and test, by a shuffle that depends on their number alone. All
is held in memory as float32, and three times that
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
from fewstep.data.archives import shown, telling
from fewstep.data.dataset import Arrays, Dataset, Units, shuffle, split
from fewstep.data.headers import check_numpy
from fewstep.data.images import BadFiles
from fewstep.data.tensors import (
    LEVELS,
    PATH,
    checked,
    classes_of,
    is_solved,
    standardised,
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
ARRAYS = (".npy", ".npz", ".safetensors")
_OWN = "own data"  # the stream that shuffles them
_HELD_OUT = (
    10_000  # as many as `fewstep eval` draws: more would cost training data and sharpen nothing
)


def from_path(name: str, size: int | None = None, bad_files: BadFiles = "fail") -> Dataset:
    """The data set in a file, in a folder or behind hf:NAME, split by a fixed shuffle; it knows
    what was left out.
    """
    data, skipped = found(name, size, bad_files)
    return replace(_dataset(name, size, data), skipped=skipped)


def _dataset(name: str, size: int | None, data: dict[str, Any]) -> Dataset:
    """What was read from that name, in the model's units and split."""
    called = resolved(name)
    if is_solved(data):
        one = trajectories(called, data)
        held = _held(len(one.train.x0))
        return split(called, one.train, (held, held), one.classes, one.units, _OWN, one.levels)
    pictures = pixels(tensor("data", data["x0"]))
    if pictures is None:
        require(size is None, "data_size", size, f"none, since {name} holds no pictures")
        n = len(tensor("data", data["x0"]))
        train = shuffle(_OWN, n)[
            2 * _held(n) :
        ]  # what is held out says nothing of the scale either
        everything, classes, units = standardised(data, name, train)
    else:
        x0, cond = checked({**data, "x0": pictures})
        x0 = masked(x0.float().div_(127.5).sub_(1), cond)
        everything, classes, units = (
            Arrays(x0, cond),
            classes_of(cond),
            Units(127.5, 127.5, clip=True),
        )
    held = _held(len(everything.x0))
    if held < 2:
        log.warning(
            "fewstep: %s: fewer than 20 samples: too few are held out for eval to compare with",
            name,
        )
    return split(called, everything, (held, held), classes, units, _OWN)


def resolved(name: str) -> str:
    """The name with its path written out, where there is one."""
    scheme, path = ("hf:", name.removeprefix("hf:")) if name.startswith("hf:") else ("", name)
    return f"{scheme}{Path(path).resolve()}" if Path(path).exists() else name


def _held(n: int) -> int:
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
    return found(name, size, bad_files)[0]


def found(
    name: str, size: int | None, bad_files: BadFiles
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What `read` returns, and the pictures that were left out; of folders and zips alone any are."""
    path = Path(name)
    if not name.startswith("hf:") and (path.is_dir() or path.suffix.lower() == ".zip"):
        return images.read(path, size, bad_files)
    return _read(name, size), ()


def _read(name: str, size: int | None) -> dict[str, Any]:
    if name.startswith("hf:"):
        return hugging_face(name.removeprefix("hf:"), size)
    path = Path(name)
    if path.suffix.lower() not in (*ARRAYS, ".parquet"):
        raise UserError(
            f"data {shown(name)}: expected a folder, .zip, {', '.join(ARRAYS)} or .parquet"
        )
    if path.suffix.lower() in ARRAYS:
        require(
            size is None,
            "data_size",
            size,
            f"none: only pictures are resized, and {path.name} holds arrays",
        )
    with telling(name):
        return parts(name, arrays(path)) if path.suffix.lower() in ARRAYS else parquet(path, size)


def native(array: np.ndarray) -> np.ndarray:
    """The array in a type that torch has; text and objects are refused by name."""
    if array.dtype.kind not in "biufc":
        raise TypeError(f"an array of {array.dtype}, expected numbers")
    if array.dtype.itemsize > 8 and array.dtype.kind == "f":
        return array.astype(np.float64)
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))


def parts(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Samples and condition among named arrays; beside them the parts of trajectories where there
    are some.
    """
    if is_solved(found):
        beside = {n: found[n] for n in (PATH, LEVELS)}
        return {
            **parts(name, {n: array for n, array in found.items() if n not in beside}),
            **beside,
        }
    for names in (SAMPLES, *ROLES.values()):
        if len(twice := [n for n in names if n in found]) > 1:
            raise UserError(
                f"{name} holds {' and '.join(twice)}, which mean the same: keep one of them"
            )
    key = next((key for key in SAMPLES if key in found), None)
    roles = {role: next((n for n in names if n in found), None) for role, names in ROLES.items()}
    rest = [n for n in found if n not in roles.values()]
    if key is None and len(rest) != 1:
        raise UserError(
            f"{name} holds {', '.join(found) or 'nothing'}: expected samples under"
            f" {' or '.join(SAMPLES)}"
        )
    if key is not None and (left := [n for n in rest if n != key]):
        raise unknown(
            f"array of {name}", left[0], (*SAMPLES, *(n for names in ROLES.values() for n in names))
        )
    cond = {role: found[n] for role, n in roles.items() if n is not None}
    if "label" in cond:
        cond["label"] = whole(str(roles["label"]), numbered(cond["label"]))
    if "cond" in cond and len(cond) > 1:
        raise UserError(
            f"{name} holds cond and {', '.join(cond.keys() - {'cond'})}: expected one or the other"
        )
    alone = len(cond) == 1 and "mask" not in cond
    return {
        "x0": found[key or rest[0]],
        "cond": next(iter(cond.values())) if alone else cond or None,
    }


def whole(name: str, labels: Any) -> Any:
    """Labels as integers where they are booleans or whole floats. Raises UserError for other
    numbers.
    """
    values = np.asarray(labels)
    if values.dtype.kind in "bf":
        if not (values == np.floor(values)).all():
            raise UserError(
                f"{name} holds numbers that are not whole: labels are integers from 0, others are"
                " features"
            )
        return values.astype(np.int64)
    return labels


def numbered(labels: Any) -> Any:
    """Labels that are text as their number in sorted order; all others as they are."""
    kind = getattr(getattr(labels, "dtype", None), "kind", "")
    return np.unique(labels, return_inverse=True)[1] if kind in "UST" else labels


def arrays(path: Path) -> dict[str, Any]:
    """The arrays of a .npy (under no name), .npz or .safetensors, text numbered."""
    if path.suffix.lower() == ".safetensors":
        return dict(read_tensors(path))
    check_numpy(path)
    opened = np.load(path, allow_pickle=False)
    if isinstance(opened, np.ndarray):
        return {"": native(opened)}
    with opened:
        return {key: native(numbered(opened[key])) for key in opened.files}


def read_condition(path: Path) -> Any:
    """A condition to sample with, under the names that data files have; samples beside it are left
    out.
    """
    if path.suffix.lower() not in ARRAYS:
        raise UserError(f"condition {path}: expected {', '.join(ARRAYS)}")
    with telling(str(path)):
        found = arrays(path)
    if list(found) == [""]:
        return found[""]
    aliases = {n: role for role, names in ROLES.items() for n in names}
    cond = {
        aliases.get(n, n): array for n, array in found.items() if n not in (*SAMPLES, PATH, LEVELS)
    }
    return next(iter(cond.values())) if len(cond) == 1 and "mask" not in cond else cond


def parquet(path: Path, size: int | None) -> dict[str, Any]:
    """The table in a .parquet file."""
    try:
        from pyarrow.parquet import read_table
    except ImportError:
        raise UserError("parquet needs pyarrow: pip install 'fewstep[parquet]'") from None
    table = read_table(path)
    return tabled(str(path), {name: table[name].to_pylist() for name in table.column_names}, size)


def hugging_face(name: str, size: int | None) -> dict[str, Any]:
    """The train split (or the only one) of a data set by name, or of a folder that `save_to_disk`
    wrote.
    """
    try:
        import datasets
    except ImportError:
        raise UserError("hf:NAME needs datasets: pip install 'fewstep[hf]'") from None
    with telling(f"hf:{name}"):
        found = (
            datasets.load_from_disk(name) if Path(name).is_dir() else datasets.load_dataset(name)
        )
        if isinstance(found, datasets.DatasetDict):
            found = (
                found["train"] if "train" in found or len(found) > 1 else next(iter(found.values()))
            )
        return tabled(f"hf:{name}", {column: found[column] for column in found.column_names}, size)


def tabled(name: str, columns: Mapping[str, Iterable[Any]], size: int | None) -> dict[str, Any]:
    """Samples and condition of a table: a column of samples, or all number columns beside the
    condition's, stacked.
    """
    roles = {n for names in ROLES.values() for n in names}
    key = next((key for key in SAMPLES if key in columns), None)
    wanted = {key, *roles} if key else set(columns)
    found = {
        n: column_of(n, values, size, n in roles) for n, values in columns.items() if n in wanted
    }
    if key is None:
        rest = {n: found.pop(n) for n in list(found) if n not in roles}
        flat = [n for n, values in rest.items() if values.dtype.kind in "biuf" and values.ndim == 1]
        if flat and (left := [n for n in rest if n not in flat]):
            log.warning(
                "fewstep: %s: samples are the columns %s; left out: %s",
                name,
                ", ".join(flat),
                ", ".join(left),
            )
        if not flat:
            raise UserError(
                f"{name} has the columns {', '.join(columns)}: expected samples in"
                f" {' or '.join(SAMPLES)}"
            )
        found["x0"] = np.stack([native(rest[n]) for n in flat], 1)
    return parts(name, found)


def column_of(name: str, values: Iterable[Any], size: int | None, role: bool) -> Any:
    """A column as an array, text of a role numbered; pictures, also encoded as {"bytes"}, as bytes
    `[N, C, H, W]`.
    """
    rows = iter(values)
    first = next(rows, None)
    numbered_rows = ((f"{name} of row {i}", row) for i, row in enumerate(values))
    if hasattr(first, "getbands"):
        return images.stack(numbered_rows, size)
    if isinstance(first, Mapping) and isinstance(first.get("bytes"), bytes):
        return images.stack(
            ((n, images.decoded(n, io.BytesIO(row["bytes"]))) for n, row in numbered_rows), size
        )
    try:
        listed = list(values)
        if first is not None and None in listed:
            raise UserError(f"column {name}: row {listed.index(None)} is null: remove or repair it")
        found = np.asarray(listed)
        return numbered(found) if role else found
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"the rows of column {name} differ in length: pad them and say where with a mask"
        ) from error
