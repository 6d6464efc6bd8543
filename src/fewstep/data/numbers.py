"""The numbers of each variable of a data set, its columns and its classes, by name."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fewstep.base.conditions import Cond, mask_of
from fewstep.data.columns import Column
from fewstep.data.dataset import Dataset
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
    places = dataset.shape[axis] if axis is not None else 0
    if dataset.names.columns and len(dataset.names.columns) == places:
        return list(dataset.names.columns)
    if axis is None:
        return [Column("all")]
    return [Column(str(place)) for place in range(places)]


class Numbers(NamedTuple):
    """All numbers of a variable in the model's units, without padding."""

    values: np.ndarray
    width: int  # numbers of a row
    real: np.ndarray | None  # `[rows, width]`, False in the padding

    def row(self, index: int) -> int:
        """The row that a number stands in."""
        place = index if self.real is None else int(np.flatnonzero(self.real.ravel())[index])
        return place // self.width


def numbers_of(x0: Tensor, cond: Cond, axis: int | None, place: int) -> Numbers:
    mask = mask_of(x0, cond)
    part = x0 if axis is None else x0.select(axis + 1, place)
    values = part.reshape(len(part), -1).numpy()
    if mask is None:
        return Numbers(values.ravel(), values.shape[1], None)
    mask = mask.expand_as(x0)
    mask = mask if axis is None else mask.select(axis + 1, place)
    real = mask.reshape(len(part), -1).numpy()
    return Numbers(values[real], values.shape[1], real)


def in_user_units(units: Units, place: int, value: float) -> float:
    """A number of one variable in the user's units."""
    shift, scale = np.atleast_1d(units.shift), np.atleast_1d(units.scale)
    index = place if len(shift) > 1 else 0
    return float(shift[index] + scale[index] * value)


def classes_of(dataset: Dataset) -> tuple[tuple[str, int], ...]:
    """The name of each class, and its number of training rows."""
    labels = labels_in(dataset.train.cond)
    if labels is None or not dataset.classes:
        return ()
    names = [*dataset.names.classes, *map(str, range(len(dataset.names.classes), dataset.classes))]
    counts = Counter(labels.tolist())
    return tuple((names[number], counts[number]) for number in range(dataset.classes))
