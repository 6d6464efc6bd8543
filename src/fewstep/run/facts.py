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
        """The facts that `to_json` gave. Raises StorageError that names the first that cannot be."""
        try:
            shape, units = values["shape"], values["units"]
            found = Facts(
                shape,
                values["classes"],
                values["sigma_data"],
                units,
                values["data"],
                values.get("cond"),
            )
            found = replace(found, init=values.get("init", ""), teacher=values.get("teacher", ""))
        except (KeyError, TypeError, AttributeError) as error:
            raise StorageError(
                f"the checkpoint's facts are not what this version writes: {error!r}"
            ) from error
        for name, (fine, expected) in _fact_checks(found).items():
            if not fine:
                raise StorageError(
                    f"the checkpoint's facts.{name} = {short_repr(getattr(found, name))}: expected"
                    f" {expected}"
                )
        shift, scale = map(float, units[:2])  # a whole number may be longer than tensors take
        return replace(
            found,
            shape=tuple(shape),
            sigma_data=float(found.sigma_data),
            units=Units(shift, scale, *units[2:]),
        )


def _fact_checks(facts: Any) -> dict[str, tuple[bool, str]]:
    """What stored facts must fulfil before anything is built from them: they come from a file."""
    shape, units, labels = facts.shape, facts.units, has_labels(facts.cond)
    whole = (
        isinstance(shape, list) and 0 < len(shape) <= MOST_AXES and all(_count(n) for n in shape)
    )
    plain = (
        isinstance(units, list)
        and len(units) in (2, 3)
        and all(_finite(value) for value in units[:2])
    )
    texts = {
        name: (isinstance(getattr(facts, name), str), "a text")
        for name in ("data", "init", "teacher")
    }
    return {
        "shape": (whole and math.prod(shape) < MOST_COUNT, f"a list of 1 to {MOST_AXES} sizes"),
        "classes": (
            type(facts.classes) is int and 0 <= facts.classes <= MOST_CLASSES,
            f"in 0 .. {MOST_CLASSES}",
        ),
        "sigma_data": (_finite(facts.sigma_data) and facts.sigma_data > 0, "above 0"),
        "units": (
            plain and units[1] > 0 and all(type(clip) is bool for clip in units[2:]),
            "shift, scale and clip",
        ),
        "cond": (
            is_kind(facts.cond) and (not labels or bool(facts.classes)),
            "a kind of condition",
        ),
        **texts,
    }


def _count(value: Any) -> bool:
    return type(value) is int and 0 < value < MOST_COUNT


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and -1e300 < value < 1e300


def facts_of(run: Run, dataset: Dataset) -> Facts:
    """What the run needs to know of its data. Raises UserError where it asks of the data what that
    has not.
    """
    labelled = dataset.classes > 0 or not run.label_drop
    require(labelled, "label_drop", run.label_drop, f"0, since data {dataset.name!r} has no labels")
    sigma_data = dataset.sigma_data() if run.sigma_data is None else run.sigma_data
    kind = kind_of(dataset.train.cond)
    return Facts(
        dataset.shape, dataset.classes, sigma_data, dataset.units, dataset.fingerprint(), kind
    )
