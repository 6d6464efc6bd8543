"""What a run learned from its data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from fewstep.base.errors import StorageError, require, short_repr
from fewstep.data import LABELS, Dataset, Kind, Units, has_labels, is_kind, kind_of
from fewstep.run.config import MOST_COUNT, Run

MOST_AXES = 8  # of a sample

MOST_CLASSES = 10**6


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

    def __post_init__(self) -> None:
        if self.classes and self.cond is None:
            object.__setattr__(self, "cond", LABELS)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "shape": list(self.shape), "units": list(self.units)}

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
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise StorageError(
                f"the checkpoint's facts are not what this version writes: {error!r}"
            ) from error
        for name, (fine, expected) in _limits(facts).items():
            if not fine:
                value = short_repr(getattr(facts, name))
                raise StorageError(f"the checkpoint's facts.{name} = {value}: expected {expected}")
        # As floats: JSON's whole numbers may be longer than tensors take.
        shift, scale = map(float, facts.units[:2])
        return replace(
            facts,
            shape=tuple(facts.shape),
            sigma_data=float(facts.sigma_data),
            units=Units(shift, scale, *facts.units[2:]),
        )


def _limits(facts: Any) -> dict[str, tuple[bool, str]]:
    """Of each fact whether it can be, and what was expected: facts come from a file."""
    shape, units = facts.shape, facts.units
    is_shape = (
        isinstance(shape, list)
        and 0 < len(shape) <= MOST_AXES
        and all(_is_count(n) for n in shape)
        and math.prod(shape) < MOST_COUNT
    )
    is_units = (
        isinstance(units, list)
        and len(units) in (2, 3)
        and all(_is_finite(value) for value in units[:2])
        and units[1] > 0
        and all(type(clip) is bool for clip in units[2:])
    )
    is_classes = type(facts.classes) is int and 0 <= facts.classes <= MOST_CLASSES
    is_cond = is_kind(facts.cond) and (not has_labels(facts.cond) or bool(facts.classes))
    return {
        "shape": (is_shape, f"a list of 1 to {MOST_AXES} sizes"),
        "classes": (is_classes, f"in 0 .. {MOST_CLASSES}"),
        "sigma_data": (_is_finite(facts.sigma_data) and facts.sigma_data > 0, "above 0"),
        "units": (is_units, "shift, scale and clip"),
        "cond": (is_cond, "a kind of condition"),
        "data": (isinstance(facts.data, str), "a text"),
        "init": (isinstance(facts.init, str), "a text"),
        "teacher": (isinstance(facts.teacher, str), "a text"),
    }


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < MOST_COUNT


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and -1e300 < value < 1e300


def facts_of(run: Run, dataset: Dataset) -> Facts:
    """What the run needs to know of its data. Raises UserError for label_drop without labels."""
    fine = dataset.classes > 0 or not run.label_drop
    require(fine, "label_drop", run.label_drop, f"0, since data {dataset.name!r} has no labels")
    return Facts(
        shape=dataset.shape,
        classes=dataset.classes,
        sigma_data=dataset.sigma_data() if run.sigma_data is None else run.sigma_data,
        units=dataset.units,
        data=dataset.fingerprint(),
        cond=kind_of(dataset.train.cond),
    )
