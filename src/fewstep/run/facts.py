"""What a run learned from its data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import SimpleNamespace
from typing import Any

from fewstep.base.errors import StorageError, UserError, require, short_repr
from fewstep.data import (
    LABELS,
    NO_NAMES,
    Dataset,
    Kind,
    Names,
    Units,
    has_labels,
    is_kind,
    kind_of,
    kinds,
)
from fewstep.data.columns import MOST_NAMES, MOST_TEXT
from fewstep.data.description import describe, is_description
from fewstep.data.pictures import Look
from fewstep.run.config import MOST_COUNT, Run

MOST_AXES = 8  # of a sample

MOST_CLASSES = 10**6

_KINDS = "labels, or numbers of at most 8 axes, or dicts of at most 100 of these, 4 dicts deep"

_NAMES = f"at most {MOST_NAMES} columns or classes, of at most {MOST_TEXT} characters each"

_LATER = ("cond_units", "names", "description")  # left out where empty


@dataclass(frozen=True)
class Facts:
    """What a run learned from its data: with the `Run`, all that its networks are built from."""

    shape: tuple[int, ...]
    classes: int
    sigma_data: float
    units: Units
    data: str  # fingerprint of the training split
    cond: Kind = None  # what a sample is conditioned on (fewstep.base.conditions)
    init: str = ""  # fingerprint of the weights that the run started from
    teacher: str = ""  # fingerprint of its teacher
    cond_units: Mapping[str, Units] = field(default_factory=dict)  # of parts of the condition
    names: Names = field(default=NO_NAMES, compare=False)
    # What was understood of the data (`fewstep.data.description`), for people and for `inspect`.
    description: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if self.classes and self.cond is None:
            object.__setattr__(self, "cond", LABELS)

    @property
    def look(self) -> Look:
        """How samples are drawn."""
        variables = self.description.get("variables", ())
        ends = [(one["lowest"], one["highest"]) for one in variables]
        whole = (min(low for low, _ in ends), max(high for _, high in ends)) if ends else None
        return Look(self.shape, self.units, self.names, self.cond, whole)

    def to_json(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["shape"] = list(self.shape)
        values["units"] = self.units.to_json()
        values["cond_units"] = {name: units.to_json() for name, units in self.cond_units.items()}
        values["names"] = self.names.to_json()
        # As older versions wrote them.
        return {name: value for name, value in values.items() if name not in _LATER or value != {}}

    @staticmethod
    def from_json(values: Any) -> Facts:
        """The facts that `to_json` gave. Raises StorageError that names the first wrong one."""
        try:
            facts = Facts(
                shape=values["shape"],
                classes=values["classes"],
                sigma_data=values["sigma_data"],
                units=values["units"],
                data=values["data"],
                cond=values.get("cond"),
                init=values.get("init", ""),
                teacher=values.get("teacher", ""),
                cond_units=values.get("cond_units", {}),
                names=values.get("names", {}),
                description=values.get("description", {}),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise StorageError(
                f"the checkpoint's facts are not what this version writes: {error!r}"
            ) from error
        if problem := _problem(facts):
            raise StorageError(f"the checkpoint's facts.{problem}")
        units = Units.from_json(facts.units, facts.shape)
        names = Names.from_json(facts.names)
        assert units is not None
        assert names is not None
        return replace(
            facts,
            shape=tuple(facts.shape),
            sigma_data=float(facts.sigma_data),
            units=units,
            cond_units=_units_by_name(facts.cond_units, facts.cond) or {},
            names=names,
        )


def _problem(facts: Any) -> str | None:
    """The first fact that cannot be, and what was expected."""
    for name, (fine, expected) in _limits(facts).items():
        if not fine:
            return f"{name} = {short_repr(getattr(facts, name))}: expected {expected}"
    return None


def _limits(facts: Any) -> dict[str, tuple[bool, str]]:
    """Of each fact whether it can be, and what was expected: facts come from a file."""
    shape, units = facts.shape, facts.units
    is_shape = (
        isinstance(shape, list)
        and 0 < len(shape) <= MOST_AXES
        and all(_is_count(n) for n in shape)
        and math.prod(shape) < MOST_COUNT
    )
    is_classes = type(facts.classes) is int and 0 <= facts.classes <= MOST_CLASSES
    is_cond = is_kind(facts.cond) and (not has_labels(facts.cond) or bool(facts.classes))
    return {
        "shape": (is_shape, f"a list of 1 to {MOST_AXES} sizes"),
        "classes": (is_classes, f"in 0 .. {MOST_CLASSES}"),
        "sigma_data": (_is_finite(facts.sigma_data) and facts.sigma_data > 0, "above 0"),
        "units": (
            is_shape and Units.from_json(units, tuple(shape)) is not None,
            "shift, scale and clip, or axis, shift and scale of each variable",
        ),
        "cond": (is_cond, _KINDS),
        "cond_units": (
            is_cond and _units_by_name(facts.cond_units, facts.cond) is not None,
            "units of parts of the condition, by their names",
        ),
        "names": (_are_names(facts.names, facts.classes), _NAMES),
        "description": (is_description(facts.description), "a description of data"),
        "data": (isinstance(facts.data, str), "a text"),
        "init": (isinstance(facts.init, str), "a text"),
        "teacher": (isinstance(facts.teacher, str), "a text"),
    }


def _are_names(values: Any, classes: Any) -> bool:
    names = Names.from_json(values)
    return names is not None and all(label < classes for label in names.occurring)


def _units_by_name(values: Any, cond: Kind) -> dict[str, Units] | None:
    """The units of a condition's parts; None where they do not fit its kind."""
    if not isinstance(values, dict):
        return None
    rows = {name: kind[1] for name, kind in kinds(cond) if isinstance(kind, list)}
    result = {}
    for name, value in values.items():
        units = Units.from_json(value, tuple(rows[name])) if name in rows else None
        if units is None:
            return None
        result[name] = units
    return result


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < MOST_COUNT


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and -1e300 < value < 1e300


def facts_of(run: Run, dataset: Dataset) -> Facts:
    """What the run needs to know of its data.

    Raises UserError for label_drop without labels, and for data that no checkpoint could tell of:
    by the limits for facts out of a file.
    """
    fine = dataset.classes > 0 or not run.label_drop
    require(fine, "label_drop", run.label_drop, f"0, since data {dataset.name!r} has no labels")
    facts = Facts(
        shape=dataset.shape,
        classes=dataset.classes,
        sigma_data=dataset.sigma_data() if run.sigma_data is None else run.sigma_data,
        units=dataset.units,
        data=dataset.fingerprint(),
        cond=kind_of(dataset.train.cond),
        cond_units=dataset.cond_units,
        names=dataset.names,
        description=describe(dataset).to_json(),
    )
    values = {name: {} for name in _LATER} | facts.to_json()
    if problem := _problem(SimpleNamespace(**values)):
        raise UserError(f"data {dataset.name!r}: {problem}")
    return facts
