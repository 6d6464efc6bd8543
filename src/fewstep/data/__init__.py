"""Data sets in memory, with fixed splits; ranges, units and file formats are known here alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fewstep.base.conditions import (
    LABELS,
    NO_LABEL,
    Kind,
    drop_labels,
    each,
    examples,
    fit,
    has_labels,
    is_integral,
    is_kind,
    kind_of,
    kinds,
    leaves,
)
from fewstep.base.data_names import DATA_NAMES, OWN_DATA, check_data_name, is_pattern
from fewstep.base.errors import UserError, require, unknown
from fewstep.base.surroundings import surroundings
from fewstep.data.beside import read_condition
from fewstep.data.builtin import digits, grid25, ring8, spiral
from fewstep.data.columns import NO_NAMES, Column, Names
from fewstep.data.dataset import LOOKED_AT, SPLIT_SEED, Arrays, Dataset, change_cond, shuffle
from fewstep.data.emoji import glyphs, glyphs64
from fewstep.data.files import from_path, full_name, read, without_split
from fewstep.data.ideographs import hanzi, hanzi16
from fewstep.data.reading import BadFiles, Reading
from fewstep.data.scanning import Scan, scan
from fewstep.data.tensors import from_tensors
from fewstep.data.units import Units
from fewstep.data.variables import split_name

__all__ = [
    "DATASETS",
    "LABELS",
    "LOOKED_AT",
    "NO_LABEL",
    "NO_NAMES",
    "OWN_DATA",
    "SPLIT_SEED",
    "Arrays",
    "BadFiles",
    "Column",
    "Dataset",
    "Kind",
    "Names",
    "Reading",
    "Scan",
    "Units",
    "change_cond",
    "digits",
    "drop_labels",
    "each",
    "examples",
    "fit",
    "from_path",
    "from_tensors",
    "full_name",
    "has_labels",
    "is_integral",
    "is_kind",
    "kind_of",
    "kinds",
    "leaves",
    "load",
    "read",
    "read_condition",
    "read_dataset",
    "scan",
    "shuffle",
    "without_split",
]

_MAKERS: tuple[Callable[[], Dataset], ...] = (
    *(digits, ring8, grid25, spiral),
    *(glyphs, glyphs64, hanzi, hanzi16),
)
DATASETS = dict(zip(DATA_NAMES, _MAKERS, strict=True))


@surroundings()
def load(
    name: str | Path, size: int | None = None, bad_files: BadFiles = "fail", **how: Any
) -> Dataset:
    """The data set of that name, or what the file, folder or hf:NAME holds (`fewstep.data.files`).

    size: pictures of files are cropped to their middle square and resized to this side. bad_files:
    of folders and zips, "fail" names the first that cannot be read, "skip" leaves up to a
    thousandth out (`Dataset.skipped`). how: the other choices of `fewstep.data.Reading`, such as
    units="robust".
    """
    return read_dataset(str(name), Reading(size=size, bad_files=bad_files, **how))


def read_dataset(name: str, reading: Reading) -> Dataset:
    """What `load` gives, by a reading."""
    if name == OWN_DATA:
        raise UserError(
            "this run has data of your own: only fs.train(run, data, ...) in Python can go on"
            " with it"
        )
    if name in DATASETS:
        need = f"none, since the pictures of {name} have their size"
        require(reading.size is None, "data_size", reading.size, need)
        reading.refuse(name)
        reading.refuse_splits(name)
        reading.refuse_latents(name)
        return DATASETS[name]()
    variable = split_name(name)
    is_there = Path(name).exists() or is_pattern(name) or (variable and variable[0].exists())
    if name.startswith("hf:") or is_there:
        return from_path(name, reading)
    check_data_name(str(variable[0]) if variable else name)
    raise unknown("data set", name, DATASETS)  # of another scheme than hf:
