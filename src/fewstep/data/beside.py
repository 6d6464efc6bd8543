"""Conditions in a file beside the data, or to sample with: arrays and tables."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.base.conditions import each
from fewstep.base.errors import UserError, require
from fewstep.data.archives import readable
from fewstep.data.columns import NO_NAMES, Names
from fewstep.data.frames import Frame
from fewstep.data.numbering import as_numbers, labels_of
from fewstep.data.reading import Content, Reading
from fewstep.data.roles import are_labels
from fewstep.data.table_files import TABLES, read_frame
from fewstep.data.tables import (
    ARRAYS,
    LEVELS,
    PATH,
    ROLES,
    SAMPLES,
    arrays,
    as_features,
    condition,
)

log = logging.getLogger("fewstep")


def with_condition(place: str, content: Content, reading: Reading) -> Content:
    """What was read, with the condition in the file that the reading names, if it names one.

    Raises UserError where the data have a condition of their own, or another number of rows.
    """
    if reading.cond is None:
        return content
    own = content.data.get("cond") is not None
    require(not own, "cond", reading.cond, f"none, since data {place} has a condition of its own")
    path = Path(reading.cond)
    is_table = path.suffix.lower() in TABLES
    if not is_table:
        need = f"none, since {path.name} is no table"
        require(reading.label_column is None, "label_column", reading.label_column, need)
        require(not reading.condition_columns, "condition_columns", reading.condition_columns, need)
    if is_table:
        cond, names, left = _from_frame(_open(path), reading)
    else:
        (cond, names), left = _from_arrays(path), ()
    rows, count = len(content.data["x0"]), _rows(cond)
    need = f"as many rows as data {place} has, {rows}: it has {count}"
    require(count in (None, rows), "cond", reading.cond, need)
    names = Names(content.names.columns, names.features, names.classes, names.label)
    return Content({**content.data, "cond": cond}, names, content.left_out + left, content.skipped)


def read_condition(path: Path, names: Names = NO_NAMES) -> Any:
    """A condition to sample with, under the names of data files, without the samples beside it.

    names: the run's, by which tables and text labels are read; a table of one row is for all.
    Raises UserError for a category or class that the run does not know.
    """
    if path.suffix.lower() not in TABLES:
        return _from_arrays(path, names.classes)[0]
    frame = _open(path)
    if not (names.features or names.label or names.classes):
        cond = _from_frame(frame, Reading())[0]
    else:
        with readable(frame.name):
            cond = _by_names(frame, names)
    return each(lambda part: part[0], cond) if _rows(cond) == 1 else cond


def _open(path: Path) -> Frame:
    if not path.is_file():
        raise UserError(f"no file {path}: expected a file of conditions")
    return read_frame(path)


def _rows(cond: Any) -> int | None:
    """How many rows a condition has, if its parts have as many."""
    parts = list(cond.values()) if isinstance(cond, dict) else [cond]
    counts = {len(part) if np.ndim(part) else 1 for part in parts}
    return counts.pop() if len(counts) == 1 else None


def _from_arrays(path: Path, vocabulary: Sequence[str] = ()) -> tuple[Any, Names]:
    """The condition in a .npy, .npz or .safetensors, and the names of its classes."""
    if path.suffix.lower() not in ARRAYS:
        raise UserError(f"condition {path}: expected {', '.join((*ARRAYS, *TABLES))}")
    with readable(str(path)):
        table = arrays(path)
    if list(table) == [""]:
        values = table[""]
        return as_features(values) if values.ndim > 1 else values, NO_NAMES
    roles = {n: role for role, names in ROLES.items() for n in names}
    others = (*SAMPLES, PATH, LEVELS)
    parts = {roles.get(n, n): array for n, array in table.items() if n not in others}
    return condition(str(path), parts, vocabulary)


def _from_frame(frame: Frame, reading: Reading) -> tuple[Any, Names, tuple[str, ...]]:
    """Condition, names and what is left out of a table whose columns are all conditions."""
    with readable(frame.name):
        free = [n for n in frame.columns if n not in frame.index]
        label = reading.label_column
        if label is None and not reading.condition_columns:
            label = next((n for n in ROLES["label"] if n in free and are_labels(frame, n)), None)
        rest = [n for n in frame.of_kind(free, "numbers", "text") if n != label]
        choice = reading.condition_columns or rest
        cond: dict[str, Any] = {}
        names = Names()
        if choice:
            cond["features"], columns = as_numbers(frame, choice)
            names = Names(features=columns)
        elif label is None:
            whole = frame.of_kind(free, "arrays")
            by_role = [n for n in whole if n in ("cond", "features", "mask")]
            cond = {n: frame.columns[n].values() for n in by_role or whole[:1]}
        if label is not None:
            cond["label"], classes = labels_of(frame, label)
            names = Names(features=names.features, classes=classes, label=label)
        if not cond:
            raise UserError(f"{frame.name} has no columns of numbers or text: expected conditions")
        result, _ = condition(frame.name, cond)
    in_use = {*choice, label, *cond}
    left = tuple(
        f"column {name or '(without a name)'} of {frame.name}"
        for name in frame.columns
        if name not in in_use
    )
    return result, names, left


def _by_names(frame: Frame, names: Names) -> Any:
    """The condition that a table holds in the columns that a run learned."""
    cond: dict[str, Any] = {}
    if names.features:
        columns = [column.name for column in names.features]
        missing = [name for name in columns if name not in frame.columns]
        if missing:
            raise UserError(
                f"{frame.name} has no column {missing[0]}, which the run is conditioned on: it has"
                f" {', '.join(frame.columns)}"
            )
        cond["features"], _ = as_numbers(frame, columns, names.features)
    label = names.label or next((n for n in ROLES["label"] if n in frame.columns), "label")
    if label in frame.columns or not cond:
        vocabulary = names.classes
        cond["label"], _ = labels_of(frame, label, vocabulary)
    in_use = {*cond, label, *frame.index, *(c.name for c in (*names.features, *names.columns))}
    others = [name for name in frame.columns if name not in in_use]
    if others:
        log.warning(
            "fewstep: %s: the run is not conditioned on %s", frame.name, ", ".join(others[:12])
        )
    return condition(frame.name, cond)[0]
