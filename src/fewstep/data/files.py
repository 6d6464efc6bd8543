"""What `--data PATH` reads: arrays, tables and pictures, as {"x0", "cond"}; never a pickle.

| PATH | x0 | condition |
|---|---|---|
| `.npy` | the array | none |
| `.safetensors` with path and levels | x0: ends of trajectories, unchanged | likewise |
| `.npz`, `.safetensors` | x0, x, images, data, samples or arr_0, or the only array | see below |
| `.parquet` (needs pyarrow) | such a column, image or img; else all of numbers | likewise |
| `hf:NAME` (needs datasets) | likewise; NAME may be a folder that `save_to_disk` wrote | likewise |
| a folder or zip | its pictures (`fewstep.data.images`) | EDM's `dataset.json`, else sub-folders |

A condition is under cond, or under any of label (labels, y), features and mask
(`fewstep.base.conditions`). Arrays have any shape `[N, ...]` and come to mean 0 and standard
deviation 0.5. Bytes (uint8) with 3 or 4 axes are pictures: [0, 255] becomes [-1, 1], `[N, H, W]`
becomes `[N, 1, H, W]`, and channels (1 or 3) that come last are put first. Text labels are numbered
in their order. A tenth of the samples (10,000 at most) each is held out for validation and test, by
a shuffle that depends on their number alone. All is in memory as float32, and three times that
while it is read: 50,000 pictures of 3x32x32 take 0.6 GB.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.base.conditions import tensor
from fewstep.base.errors import UserError, require
from fewstep.base.tensor_file import read_tensors
from fewstep.data import images
from fewstep.data.archives import check_numpy, printable, readable
from fewstep.data.dataset import Dataset, shuffle, split, unsplit
from fewstep.data.reading import BadFiles, Reading
from fewstep.data.tables import (
    ROLES,
    SAMPLES,
    hugging_face,
    native,
    number_labels,
    parquet,
    parts,
    unwrap,
)
from fewstep.data.tensors import (
    LEVELS,
    PATH,
    is_solved,
    standardise,
    trajectories,
)

log = logging.getLogger("fewstep")

ARRAYS = (".npy", ".npz", ".safetensors")
_OWN = "own data"  # the stream that shuffles them
_HELD_OUT = 10_000  # as many as `fewstep eval` draws: more would sharpen nothing


def from_path(name: str, reading: Reading | None = None) -> Dataset:
    """The data set in a file, in a folder or behind hf:NAME, split by a fixed shuffle.

    Its `skipped` are the bad files that were left out.
    """
    reading = reading or Reading()
    data, bad = read_and_report(name, reading.size, reading.bad_files)
    return replace(_dataset(name, reading, data), skipped=bad)


def _dataset(name: str, reading: Reading, data: dict[str, Any]) -> Dataset:
    """The data read under that name, in the model's units and split."""
    place = full_name(name)
    if is_solved(data):
        one = trajectories(place, data)
        tenth = _tenth(len(one.train.x0))
        return split(place, one.train, (tenth, tenth), one.classes, one.units, _OWN, one.levels)
    n = len(tensor("data", data["x0"]))
    tenth = _tenth(n)
    # Units are the training split's alone.
    result = standardise(data, reading, name, train=shuffle(_OWN, n)[2 * tenth :])
    if tenth < 2:
        message = (
            "fewstep: %s: fewer than 20 samples: too few are held out for eval to compare with"
        )
        log.warning(message, name)
    return split(
        place,
        result.arrays,
        (tenth, tenth),
        result.classes,
        result.units,
        _OWN,
        cond_units=result.cond_units,
    )


def full_name(name: str) -> str:
    """The name with its path written out, where there is one."""
    scheme = "hf:" if name.startswith("hf:") else ""
    path = Path(name.removeprefix("hf:"))
    return f"{scheme}{path.resolve()}" if path.exists() else name


def without_split(dataset: Dataset) -> Dataset:
    """What `from_path` gave, with all rows for training, in the order of the file."""
    return unsplit(dataset, _OWN)


def _tenth(n: int) -> int:
    """How many of n samples each of validation and test has."""
    return min(n // 10, _HELD_OUT)


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
    return unwrap({aliases.get(n, n): array for n, array in table.items() if n not in others})
