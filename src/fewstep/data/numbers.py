"""The numbers of each variable of a data set, its columns and its classes, by name."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fewstep.base.conditions import mask_of
from fewstep.data.columns import Column, numbers_in
from fewstep.data.dataset import Arrays, Dataset
from fewstep.data.tensors import labels_in
from fewstep.data.units import Units


@dataclass(frozen=True)
class Variable:
    """A number of a sample or a condition, over the training rows, in the user's units."""

    name: str
    type: str
    mean: float
    std: float
    lowest: float
    highest: float


def columns_of(dataset: Dataset) -> list[Column]:
    """A column for each variable: the file's, or numbered ones."""
    axis = dataset.units.axis
    if axis is None:
        return [Column("all")]
    return numbers_in(dataset.names.columns, dataset.shape[axis])


class Numbers(NamedTuple):
    """All numbers of a variable without padding: the user's up to a shift and a scale."""

    values: np.ndarray
    width: int  # numbers of a row
    real: np.ndarray | None  # `[rows, width]`, False in the padding
    shift: float
    scale: float

    def in_user_units(self, value: float) -> float:
        """One of the values as the user has it."""
        return float(self.shift + self.scale * value)

    def row(self, index: int) -> int:
        """The row that a number stands in."""
        place = index if self.real is None else int(np.flatnonzero(self.real.ravel())[index])
        return place // self.width


def numbers_of(arrays: Arrays, units: Units, place: int) -> Numbers:
    mask = mask_of(arrays.x0, arrays.cond)
    axis = units.axis
    part = arrays.x0 if axis is None else arrays.x0.select(axis + 1, place)
    values = part.reshape(len(part), -1).numpy()
    shift, scale, law = units.of(place)
    if law is not None:
        values = law.to_user(shift + scale * values.astype(np.float64))
        shift, scale = 0.0, 1.0
    if mask is None:
        return Numbers(values.ravel(), values.shape[1], None, shift, scale)
    mask = mask.expand_as(arrays.x0)
    mask = mask if axis is None else mask.select(axis + 1, place)
    real = mask.reshape(len(part), -1).numpy()
    return Numbers(values[real], values.shape[1], real, shift, scale)


Classes = tuple[tuple[str, int], ...]


def classes_of(dataset: Dataset) -> Classes:
    """The name of each class, and its number of training rows."""
    labels = labels_in(dataset.train.cond)
    if labels is None or not dataset.classes:
        return ()
    names = [*dataset.names.classes, *map(str, range(len(dataset.names.classes), dataset.classes))]
    counts = Counter(labels.tolist())
    return tuple((names[number], counts[number]) for number in range(dataset.classes))
