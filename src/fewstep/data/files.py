"""What `--data PATH` reads: arrays, tables, variables and pictures; never a pickle.

| PATH | x0 | condition |
|---|---|---|
| `.npy` | the array | none |
| `.safetensors` with path and levels | x0: ends of trajectories, unchanged | likewise |
| `.npz`, `.safetensors` | x0, x, images, data, samples or arr_0, or the only array | see below |
| `.csv`, `.parquet` (need pyarrow) | columns, by the table of `fewstep.data.roles` | likewise |
| `hf:NAME` (needs datasets) | likewise; NAME may be a folder that `save_to_disk` wrote | likewise |
| `FILE.nc:variable` (needs netCDF4) | the variable, with a mask where it has fill values | none |
| `FILE.h5:group/variable` (needs h5py) | likewise | none |
| a folder or zip | its pictures (`fewstep.data.images`) | EDM's `dataset.json`, else sub-folders |

A condition is under cond, or under any of label (labels, y), features and mask
(`fewstep.base.conditions`), or in a file of its own (`fewstep.data.beside`). Arrays have any shape
`[N, ...]` and come to mean 0 and standard deviation 0.5. Bytes (uint8) with 3 or 4 axes are
pictures: [0, 255] becomes [-1, 1], unless they use a sliver of it; `[N, H, W]` becomes
`[N, 1, H, W]`, and channels (1 or 3) that come last are put first. Text labels are numbered in
their natural order. A tenth of the samples (10,000 at most) each is held out for validation and
test, by a shuffle that depends on their number alone; or a share or number of the user's, or
other paths. Pictures and a .npy that would take more than 0.5 GB stay in files (`fewstep.data.
records`, `fewstep.data.stored`); all else is in memory as float32, three times while it is read.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from fewstep.base.conditions import kind_of, tensor
from fewstep.base.errors import UserError, require
from fewstep.data import picture_sets, roles
from fewstep.data.archives import printable, readable
from fewstep.data.beside import with_condition
from fewstep.data.dataset import Arrays, Dataset, shuffle, split, unsplit
from fewstep.data.frames import TABLES, hugging_face, read_frame
from fewstep.data.reading import BadFiles, Content, Reading
from fewstep.data.tables import ARRAYS, arrays, is_solved, parts
from fewstep.data.tensors import mask_apart, names_of, standardise, trajectories
from fewstep.data.variables import read_variable, split_name

log = logging.getLogger("fewstep")

_OWN = "own data"  # the stream that shuffles them
_HELD_OUT = 10_000  # as many as `fewstep eval` draws: more would sharpen nothing


def from_path(name: str, reading: Reading | None = None) -> Dataset:
    """The data set in a file, in a folder or behind hf:NAME, split by a fixed shuffle.

    Its `skipped` are the bad files that were left out.
    """
    reading = reading or Reading()
    content = read_content(name, reading)
    dataset = _dataset(name, reading, content)
    return replace(dataset, skipped=content.skipped, left_out=content.left_out)


def _dataset(name: str, reading: Reading, content: Content) -> Dataset:
    """What was read under that name, in the model's units and split."""
    place, data = full_name(name), mask_apart(content.data)
    if is_solved(data):
        what = f"{printable(name)}, which holds solved trajectories"
        reading.refuse_splits(what, fine=(reading.holdout,))
        one = trajectories(place, data, reading)
        size = held_out(len(one.train), reading.holdout, splits=2)
        names = names_of(content.names, one.train.cond)
        return split(
            place,
            one.train,
            (size, size),
            one.classes,
            one.units,
            _OWN,
            one.levels,
            one.cond_units,
            names,
        )
    n = len(tensor("data", data["x0"]))
    share = held_out(n, reading.holdout, (reading.validation, reading.test).count(None))
    sizes = (0 if reading.validation else share, 0 if reading.test else share)
    # Units are the training split's alone.
    result = standardise(data, reading, name, train=shuffle(_OWN, n)[sum(sizes) :])
    dataset = split(
        place,
        result.arrays,
        sizes,
        result.classes,
        result.units,
        _OWN,
        cond_units=result.cond_units,
        names=names_of(content.names, result.arrays.cond),
    )
    if reading.validation:
        rows = _split_in(reading.validation, "validation", dataset, reading)
        dataset = replace(dataset, validation=rows)
    if reading.test:
        dataset = replace(dataset, test=_split_in(reading.test, "test", dataset, reading))
    if min(len(dataset.validation), len(dataset.test)) < 2 and reading.holdout:
        message = "fewstep: %s: %d rows of validation, %d of test: too few for eval to compare with"
        log.warning(message, name, len(dataset.validation), len(dataset.test))
    return dataset


def held_out(n: int, holdout: float, splits: int) -> int:
    """How many of n samples each held-out split has. Raises UserError where none are left."""
    size = int(holdout) if holdout >= 1 else min(int(n * holdout + 1e-9), _HELD_OUT)
    fits = n - splits * size > 0
    require(fits, "holdout", holdout, f"a size that leaves some of the {n} samples to learn")
    return size


def _split_in(path: str, part: str, dataset: Dataset, reading: Reading) -> Arrays:
    """All rows of a file, in the units of the training split. Raises UserError for others."""
    require(full_name(path) != dataset.name, part, path, "another place than that of training")
    own = replace(
        reading,
        origin_units=dataset.units,
        origin_cond_units=dataset.cond_units,
        holdout=0.0,
        validation=None,
        test=None,
        cond=None,
    )
    try:
        other = from_path(path, own)
    except UserError as error:
        raise UserError(f"{part}: {error}") from error
    same = (other.shape, kind_of(other.train.cond)) == (dataset.shape, kind_of(dataset.train.cond))
    need = (
        f"rows of shape {dataset.shape} and condition {kind_of(dataset.train.cond)}, as in training"
    )
    require(same, f"{part}: rows of shape", other.shape, need)
    names, expected = other.names.classes, dataset.names.classes
    need = f"those of training: {', '.join(expected)}"
    require(names == expected, f"{part}: classes", names, need)
    most = max(dataset.classes, 1)
    require(other.classes <= most, f"{part}: classes", other.classes, f"at most {most}")
    return other.train


def full_name(name: str) -> str:
    """The name with its path written out, where there is one."""
    scheme = "hf:" if name.startswith("hf:") else ""
    variable = split_name(name)
    if variable is not None and variable[0].is_file():
        return f"{variable[0].resolve()}:{variable[1]}"
    path = Path(name.removeprefix("hf:"))
    return f"{scheme}{path.resolve()}" if path.exists() else name


def without_split(dataset: Dataset) -> Dataset:
    """What `from_path` gave, with all rows for training, in the order of the file."""
    return unsplit(dataset, _OWN)


def read(name: str | Path, size: int | None = None, bad_files: BadFiles = "fail") -> dict[str, Any]:
    """{"x0": array, "cond": condition or None} of a path or hf:NAME, as it is written there."""
    return read_content(str(name), Reading(size=size, bad_files=bad_files)).data


def read_content(name: str, reading: Reading) -> Content:
    """What `read` returns, with its names, what is left out, and the file of its conditions."""
    content = _content(name, reading)
    return with_condition(name, content, reading)


def _content(name: str, reading: Reading) -> Content:
    """What is behind the name alone."""
    path = Path(name)
    suffix = path.suffix.lower()
    is_hub = name.startswith("hf:")
    if is_hub or (suffix in TABLES and not path.is_dir()):
        frame = hugging_face(name.removeprefix("hf:")) if is_hub else read_frame(path)
        return roles.from_frame(frame, reading)
    of_file = ("cond", "label_column", "condition_columns") if reading.cond else ()
    reading.refuse(f"{printable(name)}, which is no table", but=("cond", *of_file))
    if path.is_dir() or suffix == ".zip":
        return picture_sets.read(path, reading)
    is_variable = split_name(name) is not None
    if suffix not in ARRAYS and not is_variable:
        raise UserError(
            f"data {printable(name)}: expected a folder, .zip, {', '.join((*ARRAYS, *TABLES))},"
            " FILE.nc:VARIABLE or FILE.h5:VARIABLE"
        )
    need = f"none: only pictures are resized, and {path.name} holds arrays"
    require(reading.size is None, "data_size", reading.size, need)
    if is_variable:
        return Content(read_variable(name))
    with readable(name):
        return parts(name, arrays(path))
