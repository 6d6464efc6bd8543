"""What was understood of a data set: rows, axes, units, ranges, and what looks wrong."""

from __future__ import annotations

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewstep.base.conditions import Cond, leaves, mask_of
from fewstep.base.errors import UserError, one_line
from fewstep.base.table import text_table
from fewstep.data.columns import Column
from fewstep.data.dataset import Arrays, Dataset
from fewstep.data.units import BYTES, Units

MOST_SHOWN = 12  # variables or classes that are printed
MOST_STORED = 1000  # variables that are kept
FAR = 30.0  # deviations, by the quartiles, from which on a value is named
RATIO = 10.0  # of deviations along another axis, from which on its places look like variables
DIFFERENCE = 20.0  # likewise of means, in deviations
FEW_PLACES = 16  # of an axis that may be one of variables
FEW_COLUMNS = 200  # that are compared with one another
COUNTED = 1_000_000  # rows up to which whole numbers differ in float32
COMPARED = 10_000  # rows that columns are compared on
MOST_SORTED = 1_000_000  # numbers of a variable whose quartiles are taken
LEAST_SIDE = 8  # of what looks like a picture
SLIVER = 128  # of 256 levels that pictures should use

PARTS = ("training", "validation", "test")
MISSING = {"na", "n/a", "n.a.", "#n/a", "nan", "null", "none", "nil", "?", "-", "missing"}
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "dev"}

log = logging.getLogger("fewstep")


@dataclass(frozen=True)
class Variable:
    """A number of a sample or a condition, over the training rows, in the user's units."""

    name: str
    type: str
    mean: float
    std: float
    lowest: float
    highest: float


@dataclass(frozen=True, kw_only=True)
class Description:
    """A data set as it was understood."""

    name: str
    rows: int
    splits: dict[str, int]
    shape: tuple[int, ...]
    axis: int | None  # of the array, along which each place has its own units
    units: str
    variables: tuple[Variable, ...]
    conditions: dict[str, tuple[Variable, ...]]
    classes: tuple[tuple[str, int], ...]  # and their training rows
    missing: float  # share of the numbers that the mask leaves out
    left_out: tuple[str, ...]
    marks: tuple[str, ...]  # what looks wrong

    def to_json(self) -> dict[str, Any]:
        """As JSON's own types; of more than `MOST_STORED` variables or classes the first."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self), sort_keys=True))
        for key in ("variables", "classes", "left_out"):
            values[key] = values[key][:MOST_STORED]
        return values


def is_description(values: Any) -> bool:
    """Whether a value out of a file is what `Description.to_json` gives, or empty."""
    if values == {}:
        return True
    if not isinstance(values, dict) or values.keys() != _KINDS.keys():
        return False
    if any(not isinstance(values[key], kind) for key, kind in _KINDS.items()):
        return False
    variables = [*values["variables"]]
    for part in values["conditions"].values():
        variables += part if isinstance(part, list) else [None]
    numbers = [*values["shape"], *values["splits"].values()]
    texts = [*values["left_out"], *values["marks"]]
    for pair in values["classes"]:
        if not isinstance(pair, list) or len(pair) != 2:
            return False
        texts.append(pair[0])
        numbers.append(pair[1])
    return (
        all(map(_is_variable, variables))
        and all(type(number) is int for number in numbers)
        and all(isinstance(text, str) for text in texts)
    )


_KINDS = {
    "name": str,
    "rows": int,
    "splits": dict,
    "shape": list,
    "axis": int | None,
    "units": str,
    "variables": list,
    "conditions": dict,
    "classes": list,
    "missing": float,
    "left_out": list,
    "marks": list,
}
_NUMBERS = ("mean", "std", "lowest", "highest")


def _is_variable(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"name", "type", *_NUMBERS}:
        return False
    are_texts = isinstance(value["name"], str) and isinstance(value["type"], str)
    return are_texts and all(type(value[key]) in (int, float) for key in _NUMBERS)


def text_of(values: Mapping[str, Any], *, marks: bool = False) -> str:
    """What was understood, in a few lines; with marks also what looks wrong.

    values: what `Description.to_json` gave.
    """
    counts = ((name, values["splits"].get(name, 0)) for name in PARTS)
    splits = ", ".join(f"{name} {rows}" for name, rows in counts if rows)
    size = "x".join(map(str, values["shape"]))
    lines = [
        f"data: {values['name']}: {values['rows']} rows of shape {size} ({splits})",
        f"units: {values['units']}",
        *_table(values["variables"]),
    ]
    for name, variables in values["conditions"].items():
        lines += [f"condition {name}: {len(variables)} numbers", *_table(variables)]
    if values["classes"]:
        lines.append(f"classes: {_first([f'{name}: {rows}' for name, rows in values['classes']])}")
    if values["missing"]:
        lines.append(f"mask: leaves out {values['missing']:.2%} of the numbers")
    lines += [f"left out: {one_line(text)}" for text in values["left_out"]]
    if marks:
        lines += [f"looks wrong: {mark}" for mark in values["marks"]]
    return "\n".join(lines)


def _table(variables: list[dict[str, Any]]) -> list[str]:
    """The first variables, a line for each."""
    rows = [
        [one_line(v["name"]), v["type"], *(f"{v[key]:.6g}" for key in _NUMBERS)]
        for v in variables[:MOST_SHOWN]
    ]
    table = text_table(rows, ["variable", "type", "mean", "deviation", "lowest", "highest"])
    lines = [f"  {line}" for line in table.splitlines()]
    more = len(variables) - MOST_SHOWN
    return [*lines, f"  and {more} more"] if more > 0 else lines


def _first(texts: list[str]) -> str:
    """The first of them in a line, and how many more there are."""
    more = len(texts) - MOST_SHOWN
    line = ", ".join(texts[:MOST_SHOWN])
    return f"{line} and {more} more" if more > 0 else line


def describe(dataset: Dataset) -> Description:
    """What the data set holds, measured on its training split; marks are of all splits."""
    parts = dict(zip(PARTS, (dataset.train, dataset.validation, dataset.test), strict=True))
    axis = dataset.units.axis
    columns = _columns(dataset)
    return Description(
        name=dataset.name,
        rows=sum(len(part.x0) for part in parts.values()),
        splits={name: len(part.x0) for name, part in parts.items()},
        shape=dataset.shape,
        axis=None if axis is None else axis + 1,
        units=_units_in_words(dataset.units, dataset.shape),
        variables=tuple(_variables(dataset.train.x0, dataset.train.cond, dataset.units, columns)),
        conditions=dict(_conditions(dataset)),
        classes=_classes(dataset),
        missing=_missing(dataset.train),
        left_out=(*dataset.left_out, *dataset.skipped),
        marks=tuple(_marks(dataset, [part for part in parts.values() if len(part.x0)], columns)),
    )


def warn(values: Mapping[str, Any]) -> None:
    """A warning for everything that looks wrong in a description."""
    for mark in values["marks"]:
        log.warning("fewstep: data %s: %s", values["name"], mark)


def warn_outside(values: Mapping[str, Any], cond: Cond) -> None:
    """A warning for a condition that lies far outside of what a run has learned from.

    cond: what samples are asked for, in the user's units. values: the description of its data.
    """
    conditions = values.get("conditions", {})
    for name, part in leaves(cond):
        for place, variable in enumerate(conditions.get(name or "cond", [])):
            numbers = part.select(1, place) if part.ndim > 1 else part
            low, high = variable["lowest"], variable["highest"]
            room = (high - low) / 2 or 1e-5 * abs(high)
            far = (numbers < low - room) | (numbers > high + room)
            if bool(far.any()):
                log.warning(
                    "fewstep: condition %s = %g: the run knows %g..%g, and can only guess there",
                    *(one_line(variable["name"]), float(numbers[far][0]), low, high),
                )


def refuse(values: Mapping[str, Any]) -> None:
    """Raises UserError where something in a description looks wrong."""
    marks = values["marks"]
    if marks:
        others = f" (and {len(marks) - 1} more)" if marks[1:] else ""
        raise UserError(
            f"strict: data {values['name']}: {marks[0]}{others}: mend the data, or leave strict out"
        )


def _units_in_words(units: Units, shape: tuple[int, ...]) -> str:
    if units.are_plain:
        return "as they are"
    if units.axis is not None:
        place = f"place of axis {units.axis + 1}" if len(shape) > 1 else "number"
        return f"each {place} ({shape[units.axis]}) has its own: mean 0, deviation 0.5 inside"
    shift, scale = float(np.float64(units.shift)), float(np.float64(units.scale))  # type: ignore[arg-type]
    if units.clip:
        return f"{shift - scale:g}..{shift + scale:g} is -1..1 inside"
    return f"one shift and scale for all numbers: {shift:g} and {scale:g}"


def _columns(dataset: Dataset) -> list[Column]:
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


def _numbers(x0: Tensor, cond: Cond, axis: int | None, place: int) -> Numbers:
    mask = mask_of(x0, cond)
    part = x0 if axis is None else x0.select(axis + 1, place)
    values = part.reshape(len(part), -1).numpy()
    if mask is None:
        return Numbers(values.ravel(), values.shape[1], None)
    mask = mask.expand_as(x0)
    mask = mask if axis is None else mask.select(axis + 1, place)
    real = mask.reshape(len(part), -1).numpy()
    return Numbers(values[real], values.shape[1], real)


def _in_user_units(units: Units, place: int, value: float) -> float:
    """A number of one variable in the user's units."""
    shift, scale = np.atleast_1d(units.shift), np.atleast_1d(units.scale)
    index = place if len(shift) > 1 else 0
    return float(shift[index] + scale[index] * value)


def _variables(x0: Tensor, cond: Cond, units: Units, columns: list[Column]) -> Iterator[Variable]:
    for place, column in enumerate(columns[:MOST_STORED]):
        values = _numbers(x0, cond, units.axis, place).values
        if not values.size:
            values = np.zeros(1, np.float32)
        scale = np.atleast_1d(units.scale)
        spread = float(values.std(dtype=np.float64)) * float(scale[place if len(scale) > 1 else 0])
        ends = [
            _in_user_units(units, place, float(value))
            for value in (values.mean(dtype=np.float64), values.min(), values.max())
        ]
        if spread:  # what float32 cannot tell from 0 is 0, and no -0
            ends = [round(end, 5 - math.floor(math.log10(spread))) + 0.0 for end in ends]
        yield Variable(column.name, column.type, ends[0], spread, ends[1], ends[2])


def _conditions(dataset: Dataset) -> Iterator[tuple[str, tuple[Variable, ...]]]:
    """The numbers of each part of the condition that is no label and no mask."""
    for name, part in leaves(dataset.train.cond):
        is_label = name in ("", "label") and part.ndim == 1 and not part.is_floating_point()
        if is_label or name == "mask":
            continue
        units = dataset.cond_units.get(name, Units())
        places = part.shape[1] if part.ndim > 1 else 1
        columns = [Column(str(place)) for place in range(places)]
        if name in ("", "features") and dataset.names.features:
            columns = _one_hot(dataset.names.features)
        axis = 0 if part.ndim > 1 else None
        units = units if units.axis is not None or axis is None else _spread(units, places)
        values = part.float().reshape(len(part), -1) if part.ndim == 1 else part.float()
        yield name or "cond", tuple(_variables(values, None, units, columns[:places]))


def _spread(units: Units, places: int) -> Units:
    """The same units, said for each place of the first axis."""
    shift, scale = float(np.float64(units.shift)), float(np.float64(units.scale))  # type: ignore[arg-type]
    return Units((shift,) * places, (scale,) * places, axis=0)


def _one_hot(columns: tuple[Column, ...]) -> list[Column]:
    """A column for each number: a category is one for each of its values."""
    result = []
    for column in columns:
        if column.type == "category":
            result += [Column(f"{column.name}={value}", "category") for value in column.categories]
        else:
            result.append(column)
    return result


def _labels(arrays: Arrays) -> Tensor | None:
    cond = arrays.cond.get("label") if isinstance(arrays.cond, Mapping) else arrays.cond
    if not isinstance(cond, Tensor) or cond.ndim != 1 or cond.is_floating_point():
        return None
    return cond


def _classes(dataset: Dataset) -> tuple[tuple[str, int], ...]:
    """The name of each class, and its number of training rows."""
    labels = _labels(dataset.train)
    if labels is None or not dataset.classes:
        return ()
    names = [*dataset.names.classes, *map(str, range(len(dataset.names.classes), dataset.classes))]
    counts = Counter(labels.tolist())
    return tuple((names[number], counts[number]) for number in range(dataset.classes))


def _missing(arrays: Arrays) -> float:
    mask = mask_of(arrays.x0, arrays.cond)
    return 0.0 if mask is None else 1 - float(mask.expand_as(arrays.x0).float().mean())


# What looks wrong.


def _marks(dataset: Dataset, parts: list[Arrays], columns: list[Column]) -> Iterator[str]:
    yield from _mark_constants(dataset, columns)
    yield from _mark_twins(dataset, columns)
    yield from _mark_index(dataset, parts, columns)
    axes = list(_mark_axis(dataset))
    far = [] if axes else list(_mark_far(dataset, parts, columns))  # of which that is the cause
    yield from axes
    yield from far[:MOST_SHOWN]
    if len(far) > MOST_SHOWN:
        yield f"{len(far) - MOST_SHOWN} more variables have values that far out"
    yield from _mark_range(dataset)
    yield from _mark_repeats(parts)
    yield from _mark_classes(dataset)


def _mark_constants(dataset: Dataset, columns: list[Column]) -> Iterator[str]:
    scale = np.atleast_1d(dataset.units.scale)
    constant = [
        f"{column.name} ({_in_user_units(dataset.units, place, 0):g})"
        for place, column in enumerate(columns)
        if len(scale) == len(columns) and scale[place] == 0
    ]
    if constant:
        yield f"constant in all rows: {_first(constant)}"
    for _, variables in _conditions(dataset):
        same = [f"{one.name} ({one.lowest:g})" for one in variables if one.std == 0]
        if same:
            yield f"conditions that are constant, of which nothing can be learned: {_first(same)}"


def _mark_twins(dataset: Dataset, columns: list[Column]) -> Iterator[str]:
    """Columns that say the same, up to their units."""
    if len(dataset.shape) != 1 or not 1 < len(columns) <= FEW_COLUMNS:
        return
    if mask_of(dataset.train.x0, dataset.train.cond) is not None:
        return
    x = dataset.train.x0[:COMPARED].double()
    real = [place for place in range(len(columns)) if bool((x[:, place] != x[0, place]).any())]
    if len(real) < 2 or len(x) < 3:
        return
    correlation = torch.corrcoef(x[:, real].T).abs()
    for i, j in (correlation.triu(1) > 1 - 1e-9).nonzero().tolist():
        yield f"{columns[real[i]].name} and {columns[real[j]].name} are the same up to their units"


def _mark_index(dataset: Dataset, parts: list[Arrays], columns: list[Column]) -> Iterator[str]:
    """Whole numbers that count the rows, each once."""
    rows = sum(len(part.x0) for part in parts)
    if len(dataset.shape) != 1 or not 2 < rows < COUNTED:
        return
    for place, column in enumerate(columns[:FEW_COLUMNS]):
        if column.type != "int":
            continue
        numbers = [_numbers(part.x0, part.cond, dataset.units.axis, place) for part in parts]
        values = np.sort(np.concatenate([one.values for one in numbers]).astype(np.float64))
        step = (values[-1] - values[0]) / (rows - 1) if len(values) == rows else 0.0
        if step and np.abs(np.diff(values) / step - 1).max() < 0.5:
            ends = (_in_user_units(dataset.units, place, float(values[i])) for i in (0, -1))
            low, high = map(round, ends)
            if high - low == rows - 1:
                yield f"{column.name} numbers the rows, {low}..{high}: an index?"


def _mark_far(dataset: Dataset, parts: list[Arrays], columns: list[Column]) -> Iterator[str]:
    """Values tens of deviations out, with the row of the farthest; pictures have none."""
    if dataset.units.clip:
        return
    for place, column in enumerate(columns):
        numbers = [_numbers(part.x0, part.cond, dataset.units.axis, place) for part in parts]
        values = np.concatenate([one.values for one in numbers])
        if not values.size:
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
            value = _in_user_units(dataset.units, place, float(values[worst]))
            where = _row(dataset, parts, numbers, worst)
            same = int((values == values[worst]).sum())
            text = f"{column.name}: {value:.6g}{where} lies {distance[worst]:.3g} deviations out"
            if same > 1:
                text += f" and stands {same} times: a sentinel for a missing value?"
            elif far.sum() > 1:
                text += f", and {far.sum() - 1} others more than {FAR:g}"
            yield f"{text} (units = robust looks past it; or remove or mask it)"


def _row(dataset: Dataset, parts: list[Arrays], numbers: list[Numbers], index: int) -> str:
    """Where the row of a number stands in the file, in words."""
    if dataset.order is None:
        return ""
    first = 0
    for part, one in zip(parts, numbers, strict=True):
        if index < len(one.values):
            return f" in row {int(dataset.order[first + one.row(index)])}"
        index -= len(one.values)
        first += len(part.x0)
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
    hashes = [
        {hash(row.tobytes()) for row in part.x0.reshape(len(part.x0), -1).numpy()}
        for part in parts[:1]
    ]
    number = total = 0
    for part in parts[1:]:
        rows = part.x0.reshape(len(part.x0), -1).numpy()
        number += sum(hash(row.tobytes()) in hashes[0] for row in rows)
        total += len(rows)
    if number:
        yield (
            f"{number} of {total} held-out rows stand in the training split too: scores on them"
            " flatter"
        )


def _mark_classes(dataset: Dataset) -> Iterator[str]:
    classes = _classes(dataset)
    empty = [name for name, rows in classes if not rows]
    named = [name for name, _ in classes]
    for column in dataset.names.features:
        named += column.categories
    missing = [name for name in named if name.strip().lower() in MISSING]
    if missing:
        yield f"{_first(missing)} among the classes: a missing value?"
    if empty:
        yield f"classes without a training row: {_first(empty)}"
    words = {re.sub(r"[^a-z]", "", name.lower()) for name, _ in classes}
    if len(words) > 1 and words <= SPLITS:
        names = ", ".join(name for name, _ in classes)
        yield f"classes are named {names}: are they splits, and not classes?"
