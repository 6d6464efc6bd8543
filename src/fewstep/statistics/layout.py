"""What kind of data a sample is: the axes with an order, sets, columns of a table, conditions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fewstep.base.conditions import LABELS, Cond, kind_of, leaves, mask_of
from fewstep.data import LOOKED_AT, Arrays, Column, Dataset, Units
from fewstep.data.units import variable_axis
from fewstep.data.writing import as_type

SERIES, FIELD, PICTURE, SET = "series", "field", "picture", "set"
TABLE, COLUMNS, CATEGORIES = "table", "table of several columns", "table with categories"
ORDERED = (SERIES, FIELD, PICTURE)

Features = Callable[[Arrays], Tensor]
Numbers = Callable[[Cond], Tensor]


@dataclass(frozen=True)
class Layout:
    """kinds: what a sample is, by the names above. axis: of the variables, after the rows' axis.

    categories: the columns of each one-hot category of a table.
    """

    kinds: tuple[str, ...]
    axis: int | None = None
    categories: tuple[range, ...] = ()

    def by_variable(self, values: Tensor) -> Tensor:
        """`[N, ...]` as `[N, C, ...]`: the variables first, then the axes with an order."""
        return values[:, None] if self.axis is None else values.movedim(self.axis, 1)


def layout_of(dataset: Dataset) -> Layout:
    """The layout of the samples: all axes but the variables' have an order; a mask makes sets."""
    some = dataset.train.first(LOOKED_AT)
    x0, cond = some.x0, some.cond
    axis = dataset.units.axis
    axis = variable_axis(x0, cond) if axis is None else axis
    if x0.ndim > 2 and mask_of(x0, cond) is not None and axis == x0.ndim - 2:
        return Layout((SET,))
    lengths = [size for place, size in enumerate(dataset.shape) if place != axis]
    axis = None if axis is None else axis + 1
    count = sum(size > 1 for size in lengths)
    if count:
        is_picture = dataset.units.clip and count == 2
        return Layout((PICTURE if is_picture else SERIES if count == 1 else FIELD,), axis)
    size = math.prod(dataset.shape)
    categories = tuple(
        place for place, column in _places(dataset.names.columns, size) if len(place) > 1
    )
    kinds = [TABLE, *[COLUMNS] * (size > 1), *[CATEGORIES] * bool(categories)]
    return Layout(tuple(kinds), axis, categories)


def _places(columns: tuple[Column, ...], size: int) -> list[tuple[range, Column]]:
    """The numbers of a row that each column takes; none where the columns do not fit."""
    if sum(column.width for column in columns) != size:
        return []
    ends = np.cumsum([0, *(column.width for column in columns)]).tolist()
    return [(range(a, b), c) for a, b, c in zip(ends, ends[1:], columns, strict=False)]


def values_of(dataset: Dataset) -> Features:
    """Samples as a user has them, in the model's units: NaN where the mask has no element.

    In a table whole numbers are rounded, and of a category the largest number counts.
    """
    places = _places(dataset.names.columns, math.prod(dataset.shape))
    places = [(place, column) for place, column in places if column.type != "float"]

    def values(rows: Arrays) -> Tensor:
        x = rows.x0
        if places and x.ndim == 2:
            x = _as_types(x, places, dataset.units)
        mask = mask_of(x, rows.cond)
        return x if mask is None else x.masked_fill(~mask, math.nan)

    return values


def _as_types(x: Tensor, places: list[tuple[range, Column]], units: Units) -> Tensor:
    numbers = units.to_user(x).double().numpy()
    for place, column in places:
        block = slice(place.start, place.stop)
        if column.type == "category":
            numbers[:, block] = np.eye(len(place))[numbers[:, block].argmax(1)]
        else:
            numbers[:, block] = as_type(numbers[:, block], column)
    return units.to_model(torch.from_numpy(numbers))


def has_features(cond: Cond) -> bool:
    """Whether a condition holds numbers beside labels and mask."""
    return any(not _is_label(name, part) for name, part in _parts(cond))


def _parts(cond: Cond) -> list[tuple[str, Tensor]]:
    return [(name, part) for name, part in leaves(cond) if name != "mask"]


def _is_label(name: str, part: Tensor) -> bool:
    return kind_of(part, name or "cond") == LABELS


def condition_numbers(dataset: Dataset) -> Numbers | None:
    """The condition as numbers `[N, F]`: of deviation 1 each, labels one-hot; None without any."""
    parts = _parts(dataset.train.cond)
    if not parts:
        return None
    scales = {
        name: (numbers.mean(0), _spread(numbers))
        for name, part in parts
        if not _is_label(name, part)
        for numbers in [part.flatten(1).float() if part.ndim > 1 else part[:, None].float()]
    }

    def numbers_of(cond: Cond) -> Tensor:
        columns = []
        for name, part in _parts(cond):
            if name in scales:
                numbers = part.reshape(len(part), math.prod(part.shape[1:])).float()
                columns.append((numbers - scales[name][0]) / scales[name][1])
            else:
                columns.append(torch.nn.functional.one_hot(part, dataset.classes).float())
        return torch.cat(columns, 1)

    return numbers_of


def _spread(numbers: Tensor) -> Tensor:
    """The deviation of each column; 1 of a constant."""
    deviation = numbers.std(0, correction=0)
    return torch.where(deviation > 1e-6, deviation, 1)


def joint_of(dataset: Dataset, numbers: Numbers) -> Features:
    """Sample and condition side by side `[N, D + F]`, each of total variance 1 in the training."""
    train = dataset.train

    def scale(part: Tensor) -> tuple[Tensor, Tensor]:
        total = part.var(0, correction=0).sum().sqrt()
        return part.mean(0), total if total > 0 else torch.ones(())

    x_mean, x_scale = scale(train.x0.flatten(1))
    c_mean, c_scale = scale(numbers(train.cond))

    def joint(rows: Arrays) -> Tensor:
        x = (rows.x0.flatten(1) - x_mean) / x_scale
        return torch.cat([x, (numbers(rows.cond) - c_mean) / c_scale], 1)

    return joint
