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
| a folder of .parquet, `shards/train-*.parquet` | the rows of all these | likewise |
| a folder or zip | its pictures (`fewstep.data.images`) | EDM's `dataset.json`, else sub-folders |

A condition is under cond, or under any of label (labels, y), features and mask
(`fewstep.base.conditions`), or in a file of its own (`fewstep.data.beside`). Arrays have any shape
`[N, ...]` and come to mean 0 and standard deviation 0.5. Bytes (uint8) with 3 or 4 axes are
pictures: [0, 255] becomes [-1, 1], unless they use a sliver of it; `[N, H, W]` becomes
`[N, 1, H, W]`, and channels (1 or 3) that come last are put first. Text labels are numbered in
their natural order. A tenth of the samples (10,000 at most) each is held out for validation and
test, by a shuffle that depends on their number alone; or a share or number of the user's, or
other paths. What would take more than 0.5 GB stays in files, its own or records that are made of
it (`fewstep.data.records`, `fewstep.data.streams`); all else is in memory as float32.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fewstep.base.cache import cache_file
from fewstep.base.conditions import kind_of, tensor
from fewstep.base.data_names import is_pattern
from fewstep.base.errors import UserError, require
from fewstep.data import array_sets, large_tables, picture_sets, roles
from fewstep.data.archives import printable, readable, source_mark
from fewstep.data.beside import with_condition
from fewstep.data.dataset import Arrays, Dataset, shuffle, split, unsplit
from fewstep.data.decoding import SUFFIXES
from fewstep.data.frames import Frame, hugging_face, hugging_face_table
from fewstep.data.own_arrays import mask_apart
from fewstep.data.reading import BadFiles, Content, Reading
from fewstep.data.streams import Place, has_streams
from fewstep.data.table_files import TABLES, read_frame
from fewstep.data.tables import ARRAYS, arrays, is_solved, parts
from fewstep.data.tensors import names_of, standardise, trajectories
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
        reading.refuse_latents(place)
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
    label = reading.label_column
    if _names_table(path):  # whose few rows need not look like labels
        label = label or dataset.names.label or None
    own = replace(
        reading,
        label_column=label,
        origin_units=dataset.units,
        origin_cond_units=dataset.cond_units,
        origin_columns=dataset.names.columns,
        origin_features=dataset.names.features,
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
    return f"{scheme}{path.resolve()}" if path.exists() or is_pattern(name) else name


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
    if _names_table(name):
        return _table(name, path, reading)
    of_file = ("cond", "label_column", "condition_columns") if reading.cond else ()
    reading.refuse(f"{printable(name)}, which is no table", but=("cond", *of_file))
    if path.is_dir() or suffix == ".zip":
        if reading.latents is None:
            return picture_sets.read(path, reading)
        need = "none, since latents are no pictures"
        require(reading.size is None, "data_size", reading.size, need)
        return _once(name, path, reading, lambda: array_sets.read(path, reading))
    is_variable = split_name(name) is not None
    if suffix not in ARRAYS and not is_variable:
        raise UserError(
            f"data {printable(name)}: expected a folder, .zip, {', '.join((*ARRAYS, *TABLES))},"
            " FILE.nc:VARIABLE or FILE.h5:VARIABLE"
        )
    need = f"none: only pictures are resized, and {path.name} holds arrays"
    require(reading.size is None, "data_size", reading.size, need)
    if is_variable:
        file, variable = split_name(name) or (path, "")
        return _once(name, file, reading, lambda: Content(read_variable(name, reading)), variable)
    with readable(name):
        return _once(name, path, reading, lambda: parts(name, arrays(path, reading)))


def _once(
    name: str, path: Path, reading: Reading, read: Callable[[], Content], *choices: Any
) -> Content:
    """What is read of a file, or was kept of it; what is large is kept."""
    place = Place.of(name, path, choices, partial(source_mark, path), reading.cache)
    if (content := place.content()) is not None:
        return content
    content = read()
    return place.keep(content) if has_streams(content) else content


def _table(name: str, path: Path, reading: Reading) -> Content:
    """The samples and conditions of a table, likewise."""
    table, mark = None, partial(large_tables.mark_of, path)
    if name.startswith("hf:"):
        path = Path(name.removeprefix("hf:"))
        table = hugging_face_table(str(path))
        mark = partial(str, getattr(table, "_fingerprint", ""))
    choices: list[Any] = [reading.columns, reading.label_column, reading.condition_columns]
    choices += [reading.cond is None, reading.size]
    where = path.with_name(path.name.replace("*", "_"))  # of a pattern
    if table is not None and not path.exists():  # of the hub
        where = cache_file("data") / str(path).replace("/", "--")
    first = place = Place.of(name, where, choices, mark, reading.cache)
    content = place.content()
    if reading.origin_units is not None:  # by the columns of a run, which chose them itself
        origin = (reading.origin_columns, reading.origin_features)
        names = None if content is None else content.names
        own = names and (names.columns, names.features if reading.origin_features else ())
        if own != origin:
            before = [[(c.name, c.type, c.categories) for c in columns] for columns in origin]
            place = Place.of(name, where, [*choices, before], mark, reading.cache)
            content = place.content()
    if content is not None:
        return content
    content = roles.from_frame(_frame(str(path), table, reading), reading, first)
    return place.keep(content) if has_streams(content) else content


def _frame(name: str, table: Any, reading: Reading) -> Frame:
    """The table at a path, or of `datasets`; a large one is read in parts."""
    large: large_tables.Table | None
    if table is not None:
        large = large_tables.hugging_face(name, table, reading)
        return hugging_face(name, table) if large is None else large.frame()
    path = Path(name)
    is_csv = path.suffix.lower() == ".csv"
    large = large_tables.csv(path, reading) if is_csv else large_tables.parquet(path, reading)
    return read_frame(path) if large is None else large.frame()


def _names_table(name: str) -> bool:
    return name.startswith("hf:") or is_table(Path(name))


def is_table(path: Path) -> bool:
    """Whether a path names a table: a file, a pattern of .parquet, or a folder of .parquet."""
    if not path.is_dir():
        return path.suffix.lower() in TABLES
    has_shards = False
    for _, _, files in os.walk(path):
        suffixes = {os.path.splitext(file)[1].lower() for file in files}
        if suffixes & SUFFIXES:
            return False
        has_shards |= ".parquet" in suffixes
    return has_shards
