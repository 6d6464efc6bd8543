"""What was understood of a data set: rows, axes, units, ranges, and what looks wrong."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fewstep.base.conditions import Cond, leaves, mask_of
from fewstep.base.errors import UserError, one_line
from fewstep.base.table import MOST_LISTED, first_of, text_table
from fewstep.data.columns import Column, numbers_in
from fewstep.data.dataset import LOOKED_AT, Arrays, Dataset
from fewstep.data.marks import marks_of, marks_of_conditions
from fewstep.data.numbers import Variable, classes_of, columns_of, numbers_of
from fewstep.data.stored import Stored
from fewstep.data.units import Units

LOOKED_AT_NUMBERS = 2**23  # of each split in a file; a few copies of them are made
MOST_STORED = 1000  # variables that are kept

PARTS = ("training", "validation", "test")
log = logging.getLogger("fewstep")


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
    parts = ((name, values["splits"].get(name, 0)) for name in PARTS)
    splits = ", ".join(f"{name} {rows}" for name, rows in parts if rows)
    size = "x".join(map(str, values["shape"]))
    lines = [
        f"data: {values['name']}: {values['rows']} rows of shape {size} ({splits})",
        f"units: {values['units']}",
        *_table(values["variables"]),
    ]
    for name, variables in values["conditions"].items():
        lines += [f"condition {name}: {len(variables)} numbers", *_table(variables)]
    if values["classes"]:
        lines.append(
            f"classes: {first_of([f'{name}: {rows}' for name, rows in values['classes']])}"
        )
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
        for v in variables[:MOST_LISTED]
    ]
    table = text_table(rows, ["variable", "type", "mean", "deviation", "lowest", "highest"])
    lines = [f"  {line}" for line in table.splitlines()]
    more = len(variables) - MOST_LISTED
    return [*lines, f"  and {more} more"] if more > 0 else lines


def describe(dataset: Dataset) -> Description:
    """What the data set holds, measured on its training split; marks are of all splits.

    Of splits in a file the first rows tell.
    """
    some = dataset.in_memory(LOOKED_AT_NUMBERS)
    parts = dict(zip(PARTS, (some.train, some.validation, some.test), strict=True))
    splits = (dataset.train, dataset.validation, dataset.test)
    axis = dataset.units.axis
    columns = columns_of(some)
    conditions = dict(_conditions(dataset))
    classes = classes_of(dataset)
    rows = [part for part in parts.values() if len(part)]
    left_out = (*dataset.left_out, *dataset.skipped)
    if len(some.train) < len(dataset.train):
        left_out += (
            f"{len(dataset.train) - len(some.train)} training rows, but only from these numbers",
        )
    return Description(
        name=dataset.name,
        rows=sum(map(len, splits)),
        splits=dict(zip(PARTS, map(len, splits), strict=True)),
        shape=dataset.shape,
        axis=None if axis is None else axis + 1,
        units=_units_in_words(dataset.units, dataset.shape),
        variables=tuple(_variables(some.train, dataset.units, columns)),
        conditions=conditions,
        classes=classes,
        missing=_missing(some.train),
        left_out=left_out,
        marks=(*marks_of(some, rows, columns, classes), *marks_of_conditions(conditions)),
    )


def warn(values: Mapping[str, Any]) -> None:
    """A warning for everything that looks wrong in a description."""
    for mark in values["marks"]:
        log.warning("fewstep: data %s: %s", values["name"], mark)


def outside(values: Mapping[str, Any], cond: Cond) -> Iterator[str]:
    """A line for each condition that lies far outside of what a run has learned from.

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
                value = float(numbers[far][0])
                yield (
                    f"condition {one_line(variable['name'])} = {value:g}: the run knows"
                    f" {low:g}..{high:g}, and can only guess there"
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
        law = "a normal by its quantiles" if units.quantiles else "mean 0"
        return f"each {place} ({shape[units.axis]}) has its own: {law}, deviation 0.5 inside"
    if units.quantiles:
        return "all numbers: a normal by their quantiles, deviation 0.5 inside"
    shift, scale = float(np.float64(units.shift)), float(np.float64(units.scale))  # type: ignore[arg-type]
    if units.clip:
        return f"{shift - scale:g}..{shift + scale:g} is -1..1 inside"
    return f"one shift and scale for all numbers: {shift:g} and {scale:g}"


def _variables(arrays: Arrays, units: Units, columns: list[Column]) -> Iterator[Variable]:
    for place, column in enumerate(columns[:MOST_STORED]):
        numbers = numbers_of(arrays, units, place)
        values = numbers.values
        if not values.size:
            values = np.zeros(1, np.float32)
        spread = float(values.std(dtype=np.float64)) * numbers.scale
        ends = [
            numbers.in_user_units(float(value))
            for value in (values.mean(dtype=np.float64), values.min(), values.max())
        ]
        if spread:  # what float32 cannot tell from 0 is 0
            ends = [round(end, 5 - math.floor(math.log10(spread))) + 0.0 for end in ends]  # no -0
        yield Variable(column.name, column.type, ends[0], spread, ends[1], ends[2])


def _conditions(dataset: Dataset) -> Iterator[tuple[str, tuple[Variable, ...]]]:
    """The numbers of each part of the condition that is no label and no mask."""
    parts: list[tuple[str, Any]] = [*leaves(dataset.train.cond)]
    for name, rows in parts:
        part = rows[:LOOKED_AT] if isinstance(rows, Stored) else rows
        is_label = name in ("", "label") and part.ndim == 1 and not part.is_floating_point()
        if is_label or name == "mask":
            continue
        units = dataset.cond_units.get(name, Units())
        places = part.shape[1] if part.ndim > 1 else 1
        names = dataset.names.features if name in ("", "features") else ()
        columns = numbers_in(names, places)
        axis = 0 if part.ndim > 1 else None
        units = units if units.axis is not None or axis is None else _spread(units, places)
        values = part.float().reshape(len(part), -1) if part.ndim == 1 else part.float()
        yield name or "cond", tuple(_variables(Arrays(values), units, columns))


def _spread(units: Units, places: int) -> Units:
    """The same units, said for each place of the first axis."""
    shift, scale = float(np.float64(units.shift)), float(np.float64(units.scale))  # type: ignore[arg-type]
    return Units((shift,) * places, (scale,) * places, axis=0)


def _missing(arrays: Arrays) -> float:
    mask = mask_of(arrays.x0, arrays.cond)
    return 0.0 if mask is None else 1 - float(mask.expand_as(arrays.x0).float().mean())
