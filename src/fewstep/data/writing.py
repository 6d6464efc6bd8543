"""Samples as a table: a .csv or .parquet file with the names and types of the data's columns."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fewstep.base.conditions import Cond, is_integral, leaves, mask_of
from fewstep.base.errors import UserError
from fewstep.data.columns import Column, Names

log = logging.getLogger("fewstep")

EXACT = 2.0**53  # whole numbers below are exact as floats


def check_table(path: Path, shape: tuple[int, ...], word: str = "--out") -> None:
    """Raises UserError where samples of that shape, or this machine, cannot make a table."""
    if len(shape) != 1:
        raise UserError(
            f"{word} {path}: samples of shape {shape} are no rows of a table: expected one axis,"
            f" or {word} FILE.npy"
        )
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError("tables need pyarrow: pip install 'fewstep[tables]'") from None


def write_table(path: Path, x: Tensor, cond: Cond, names: Names) -> None:
    """Writes samples `[N, D]` and their condition, both in the user's units, a column for each.

    A number that the mask leaves out is null, and so is no label.
    """
    import pyarrow
    from pyarrow import csv, parquet

    table: dict[str, Any] = {}
    mask = mask_of(x, cond)
    there = np.ones(x.shape, bool) if mask is None else mask.expand_as(x).numpy()
    place = 0
    for column, values in _decode(x.double().numpy(), names.columns, ""):
        table[column.name] = pyarrow.array(values, mask=~there[:, place])
        place += column.width
    for name, values in _conditions(cond, names):
        table[f"{name} (condition)" if name in table else name] = pyarrow.array(values)
    result = pyarrow.table(table)
    if path.suffix == ".csv":
        # As samples are, so that 0.1 is not written as 0.10000000149011612.
        fields = [
            field.with_type(pyarrow.float32()) if field.type == "double" else field
            for field in result.schema
        ]
        result = result.cast(pyarrow.schema(fields))
        csv.write_csv(result, path, csv.WriteOptions(quoting_style="needed"))
    else:
        parquet.write_table(result, path)


def as_type(values: np.ndarray, column: Column) -> np.ndarray:
    """A column's floats as its type has them: whole numbers rounded, booleans from a half on."""
    if column.type == "bool":
        return values >= 0.5
    if column.type == "int" and bool((np.abs(values) < EXACT).all()):
        return np.rint(values).astype(np.int64)
    return values


def _conditions(cond: Cond, names: Names) -> Iterator[tuple[str, Any]]:
    """The columns of labels and features."""
    for name, part in leaves(cond):
        if part.ndim == 1 and is_integral(part) and name in ("", "label"):
            yield names.label or "label", _classes(part, names)
        elif part.ndim <= 2 and part.is_floating_point() and name in ("", "features"):
            numbers = part.double().reshape(len(part), -1).numpy()
            for column, values in _decode(numbers, names.features, "feature "):
                yield column.name, values
        elif name != "mask":
            log.warning("fewstep: the table leaves out the condition %s", name or "of the samples")


def _classes(labels: Tensor, names: Names) -> list[Any]:
    classes = names.classes
    vocabulary: list[Any] = list(classes) if classes else list(range(int(labels.max()) + 1))
    return [
        vocabulary[label] if 0 <= label < len(vocabulary) else None for label in labels.tolist()
    ]


def _decode(
    x: np.ndarray, columns: tuple[Column, ...], prefix: str
) -> Iterator[tuple[Column, np.ndarray]]:
    """Each column of the numbers `[N, D]`: a category is the largest of its numbers.

    prefix: of the columns' numbers where they have no names.
    """
    if sum(column.width for column in columns) != x.shape[1]:
        columns = tuple(Column(f"{prefix}{place}") for place in range(x.shape[1]))
    start = 0
    for column in columns:
        part = x[:, start : start + column.width]
        start += column.width
        if column.type == "category":
            yield column, np.array(column.categories)[part.argmax(1)]
        else:
            yield column, as_type(part[:, 0], column)
