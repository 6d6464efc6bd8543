"""What looks wrong in a data set, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from fewstep.base.conditions import mask_of
from fewstep.base.randomness import generator
from fewstep.base.table import MOST_LISTED, first_of
from fewstep.data.columns import Column
from fewstep.data.dataset import Arrays, Dataset
from fewstep.data.numbers import Classes, Numbers, Variable, numbers_of
from fewstep.data.units import BYTES

FAR = 30.0  # deviations, by the quartiles, from which on a value is named
RATIO = 10.0  # of deviations along another axis, from which on its places look like variables
DIFFERENCE = 20.0  # likewise of means, in deviations
FEW_PLACES = 16  # of an axis that may be one of variables
FEW_COLUMNS = 200  # that are compared with one another
COUNTED = 1_000_000  # rows up to which whole numbers differ in float32
HASHED = 4096  # rows at once
COMPARED = 10_000  # rows that columns are compared on
MOST_SORTED = 1_000_000  # numbers of a variable whose quartiles are taken
LEAST_SIDE = 8  # of what looks like a picture
BY_CHANCE = 1000  # possible rows for each training row, below which some are alike by chance
SLIVER = 128  # of 256 levels that pictures should use

MISSING = {"na", "n/a", "n.a.", "#n/a", "nan", "null", "none", "nil", "?", "-", "missing"}
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "dev"}


MICRO = ("micro", "size")  # what a pipeline's network is told of a picture beside its prompt


def marks_of(
    dataset: Dataset, parts: list[Arrays], columns: list[Column], classes: Classes
) -> Iterator[str]:
    """Everything that looks wrong, in words; parts: the splits that have rows.

    classes: with the number of training rows, also of those that the data set leaves in a file.
    """
    yield from _mark_constants(dataset, columns)
    yield from _mark_twins(dataset, columns)
    yield from _mark_index(dataset, parts, columns)
    axes = list(_mark_axis(dataset))
    far = [] if axes else list(_mark_far(dataset, parts, columns))  # of which that is the cause
    yield from axes
    yield from far[:MOST_LISTED]
    if len(far) > MOST_LISTED:
        yield f"{len(far) - MOST_LISTED} more variables have values that far out"
    yield from _mark_range(dataset)
    yield from _mark_repeats(parts)
    yield from _mark_classes(dataset, classes)


def marks_of_conditions(conditions: Mapping[str, tuple[Variable, ...]]) -> Iterator[str]:
    """Likewise of conditions that are no labels; sizes and crops of pictures are often the same."""
    for name, variables in conditions.items():
        if name in MICRO:
            continue
        same = [f"{one.name} ({one.lowest:g})" for one in variables if one.std == 0]
        if same:
            yield f"conditions that are constant, of which nothing can be learned: {first_of(same)}"


def _mark_constants(dataset: Dataset, columns: list[Column]) -> Iterator[str]:
    laws = [dataset.units.of(place) for place in range(len(columns))]
    constant = [
        (f"{column.name} ({law.shift:g})", place)
        for place, (column, law) in enumerate(zip(columns, laws, strict=True))
        if law.scale == 0
    ]
    absent = [text for text, place in constant if not _has_values(dataset, place)]
    same = [text for text, place in constant if _has_values(dataset, place)]
    if same:
        yield f"constant in all rows: {first_of(same)}"
    if absent:
        yield f"without a value in any training row: {first_of(absent)}"


def _has_values(dataset: Dataset, place: int) -> bool:
    """Whether the mask leaves a value of a variable."""
    return numbers_of(dataset.train, dataset.units, place).values.size > 0


def _mark_twins(dataset: Dataset, columns: list[Column]) -> Iterator[str]:
    """Columns that say the same, up to their units."""
    if len(dataset.shape) != 1 or not 1 < len(columns) <= FEW_COLUMNS:
        return
    if mask_of(dataset.train.x0, dataset.train.cond) is not None:
        return
    x = dataset.train.x0[:COMPARED].double()
    real = [
        place
        for place, column in enumerate(columns)
        if column.type != "category" and bool((x[:, place] != x[0, place]).any())
    ]
    if len(real) < 2 or len(x) < 3:
        return
    correlation = torch.corrcoef(x[:, real].T).abs()
    for i, j in (correlation.triu(1) > 1 - 1e-9).nonzero().tolist():
        yield f"{columns[real[i]].name} and {columns[real[j]].name} are the same up to their units"


def _mark_index(dataset: Dataset, parts: list[Arrays], columns: list[Column]) -> Iterator[str]:
    """Whole numbers that count the rows, each once."""
    rows = sum(len(part) for part in parts)
    if len(dataset.shape) != 1 or not 2 < rows < COUNTED:
        return
    for place, column in enumerate(columns[:FEW_COLUMNS]):
        if column.type != "int":
            continue
        numbers = [numbers_of(part, dataset.units, place) for part in parts]
        values = np.sort(np.concatenate([one.values for one in numbers]).astype(np.float64))
        step = (values[-1] - values[0]) / (rows - 1) if len(values) == rows else 0.0
        if step and np.abs(np.diff(values) / step - 1).max() < 0.5:
            ends = (numbers[0].in_user_units(float(values[i])) for i in (0, -1))
            low, high = map(round, ends)
            if high - low == rows - 1:
                yield f"{column.name} numbers the rows, {low}..{high}: an index?"


def _mark_far(dataset: Dataset, parts: list[Arrays], columns: list[Column]) -> Iterator[str]:
    """Values tens of deviations out, with the row of the farthest; pictures have none."""
    if dataset.units.clip:
        return
    for place, column in enumerate(columns):
        numbers = [numbers_of(part, dataset.units, place) for part in parts]
        values = np.concatenate([one.values for one in numbers])
        if not values.size or column.type == "category":
            continue
        some = values[:: 1 + values.size // MOST_SORTED]
        low, middle, high = np.quantile(some.astype(np.float64), (0.25, 0.5, 0.75))
        spread = (high - low) / 1.3489795 or values.std(dtype=np.float64)
        if not spread:
            continue
        for sign in (-1, 1):
            distance = sign * (values - middle) / spread
            far = distance > FAR
            if not far.any():
                continue
            worst = int(distance.argmax())
            value = numbers[0].in_user_units(float(values[worst]))
            where = _row(dataset, parts, numbers, worst)
            same = int((values == values[worst]).sum())
            if same == 1 and dataset.units.of(place).quantiles is not None:
                continue  # a tail is no harm to these units
            text = f"{column.name}: {value:.6g}{where} lies {distance[worst]:.3g} deviations out"
            if same > 1:
                text += f" and stands {same} times: a sentinel for a missing value?"
            elif far.sum() > 1:
                text += f", and {far.sum() - 1} others more than {FAR:g}"
            yield f"{text} (units = robust or quantile looks past it; or remove or mask it)"


def _row(dataset: Dataset, parts: list[Arrays], numbers: list[Numbers], index: int) -> str:
    """Where the row of a number stands in the file, in words."""
    if dataset.order is None:
        return ""
    first = 0
    for part, one in zip(parts, numbers, strict=True):
        if index < len(one.values):
            return f" in row {int(dataset.order[first + one.row(index)])}"
        index -= len(one.values)
        first += len(part)
    return ""


def _mark_range(dataset: Dataset) -> Iterator[str]:
    if dataset.units != BYTES:
        return
    low, high = (float(x) for x in (dataset.train.x0.min(), dataset.train.x0.max()))
    low, high = round(127.5 * (low + 1)), round(127.5 * (high + 1))
    if high - low < SLIVER:
        yield f"pictures use only {low}..{high} of 0..255 (units = standard spreads them)"


def _mark_axis(dataset: Dataset) -> Iterator[str]:
    """Another axis whose places look like variables of unlike units, or like channels."""
    units, x0, shape = dataset.units, dataset.train.x0, dataset.shape
    if units.axis == 0 and len(shape) == 3 and shape[2] <= 4 and min(shape[:2]) >= LEAST_SIDE:
        size = "x".join(map(str, shape))
        yield (
            f"{size} looks like pictures whose channels come last: bring them first by"
            " numpy.moveaxis(x, -1, 1), or set channel_axis = 3"
        )
        return
    if units.clip or units.are_plain or mask_of(x0, dataset.train.cond) is not None:
        return
    for axis, places in enumerate(dataset.shape):
        if axis == units.axis or not 1 < places <= FEW_PLACES or x0.ndim < 3:
            continue
        x = x0.movedim(axis + 1, 0).reshape(places, -1).double()
        std, mean = x.std(1), x.mean(1)
        positive = std[std > 0]
        if not len(positive):
            continue
        ratio = float(positive.max() / positive.min())
        difference = float((mean.max() - mean.min()) / positive.median())
        if ratio > RATIO or difference > DIFFERENCE:
            yield (
                f"along axis {axis + 1} deviations differ {ratio:.2g}-fold and means by"
                f" {difference:.2g} deviations: if its places are variables, set channel_axis ="
                f" {axis + 1}"
            )


def _mark_repeats(parts: list[Arrays]) -> Iterator[str]:
    """Held-out rows that stand in the training split too."""
    train, *others = (_hashes(part.x0) for part in parts)
    held_out = np.concatenate([np.empty(0, np.uint64), *others])
    number = int(np.isin(held_out, train).sum())
    if number and not _are_few(parts[0].x0):
        yield (
            f"{number} of {len(held_out)} held-out rows stand in the training split too: scores on"
            " them flatter"
        )


def _are_few(x0: Tensor) -> bool:
    """Whether the values of each number allow so few rows that some are alike by chance."""
    possible = 1
    for column in x0.flatten(1)[:, :FEW_COLUMNS].T:
        possible *= len(column.unique())
        if possible > BY_CHANCE * len(x0):
            return False
    return True


def _hashes(x0: Tensor) -> np.ndarray:
    """A number for the bits of each row: that two unlike rows share one is beyond chance."""
    rows = x0.reshape(len(x0), -1).contiguous().numpy().view(np.uint32)
    source = generator(0, "hashes of rows")
    factors = torch.randint(1, 2**63 - 1, (rows.shape[1],), generator=source).numpy()
    parts = [
        (rows[first : first + HASHED] * factors.view(np.uint64)).sum(1, dtype=np.uint64)
        for first in range(0, len(rows), HASHED)
    ]
    return np.concatenate(parts)


def _mark_classes(dataset: Dataset, classes: Classes) -> Iterator[str]:
    empty = [name for name, rows in classes if not rows]
    names = [name for name, _ in classes]
    for column in (*dataset.names.columns, *dataset.names.features):
        names += column.categories
    missing = [name for name in names if name.strip().lower() in MISSING]
    if missing:
        yield f"{first_of(missing)} among the classes: a missing value?"
    if empty:
        yield f"classes without a training row: {first_of(empty)}"
    words = {re.sub(r"[^a-z]", "", name.lower()) for name, _ in classes}
    if len(words) > 1 and words <= SPLITS:
        text = ", ".join(name for name, _ in classes)
        yield f"classes are named {text}: are they splits, and not classes?"
