"""Arrays of the user's own, brought to the units of the core, and the way back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.base.conditions import (
    LABELS,
    Cond,
    apply_mask,
    check_condition,
    kind_of,
    leaves,
    tensor,
)
from fewstep.base.data_names import OWN_DATA
from fewstep.base.errors import UserError, require, unknown
from fewstep.data.dataset import Arrays, Dataset, change_cond, check_finite
from fewstep.data.reading import Reading
from fewstep.data.units import (
    AS_IS,
    AUTO,
    BYTES,
    WHOLE,
    Units,
    condition_units,
    measured_units,
    variable_axis,
)

log = logging.getLogger("fewstep")

PATH, LEVELS = "path", "levels"  # the keys that mark solved trajectories


def from_tensors(data: Any, reading: Reading | None = None) -> Dataset:
    """Your own samples, all for training: an array `[N, ...]`, or {"x0": array, "cond": condition}.

    Arrays are tensors, numpy arrays or nested lists of numbers; `[N]` is taken as `[N, 1]`.

    Every variable comes to mean 0 and standard deviation 0.5 (`fewstep.data.units` says what is a
    variable, and `reading` otherwise), and samples come back in your units. A condition is labels
    (integers `[N]` from 0), any other array with N rows, or a dict of these, in which "label" and
    "mask" mean what `fewstep.base.conditions` says: where the mask is False, the value counts for
    nothing, and is 0 in samples. Numbers of a condition that are no whole ones come to mean 0 and
    standard deviation 1. Raises UserError on anything that does not fit. The result of
    `fewstep.trajectories` is used as it is.
    """
    if is_solved(data):
        return trajectories(OWN_DATA, data)
    result = standardise(data, reading or Reading())
    none = result.arrays.rows(torch.arange(0))
    return Dataset(
        OWN_DATA,
        result.arrays,
        none,
        none,
        result.classes,
        result.units,
        cond_units=result.cond_units,
    )


class Standardised(NamedTuple):
    """Arrays in the units of the core, the number of their classes, and the way back."""

    arrays: Arrays
    classes: int
    units: Units
    cond_units: dict[str, Units]


def standardise(
    data: Any, reading: Reading, name: str = "tensor", train: Tensor | None = None
) -> Standardised:
    """The user's arrays in the units of the core.

    train: the rows that units are measured on, where others are held out. Raises UserError.
    """
    x0, cond = check_arrays(data)
    pictures = pixels(x0)
    x0 = x0 if pictures is None else pictures
    need = f"none, since {name} holds no pictures"
    require(reading.size is None or are_channels(x0), "data_size", reading.size, need)
    x0 = apply_mask(x0, cond)
    check_finite(name, x0)
    rows = Arrays(x0, cond) if train is None else Arrays(x0, cond).rows(train)
    units = reading.origin_units
    if units is None and pictures is not None and reading.units in (AUTO, WHOLE):
        units = BYTES
    if units is None:
        axis = variable_axis(x0, cond, reading.channel_axis)
        units = measured_units(rows.x0.double(), rows.cond, reading.units, axis)
    cond_units = dict(reading.origin_cond_units)
    if reading.units not in (WHOLE, AS_IS):
        cond_units = units_of_condition(rows.cond, reading.units) | cond_units
    cond = change_cond(cond, cond_units, Units.to_model)
    # Bytes have an arithmetic of their own, without doubles: the memory of pictures counts.
    is_bytes = pictures is not None and units == BYTES
    x0 = x0.float().div_(127.5).sub_(1) if is_bytes else units.to_model(x0)
    return Standardised(Arrays(apply_mask(x0, cond), cond), classes_of(cond), units, cond_units)


def are_channels(x0: Tensor) -> bool:
    """Whether x0 has the axes `[N, C, H, W]` of grey or colour pictures."""
    return x0.ndim == 4 and x0.shape[1] in (1, 3)


def pixels(x0: Tensor) -> Tensor | None:
    """Bytes with 3 or 4 axes as pictures `[N, C, H, W]`; None for anything else."""
    if x0.dtype != torch.uint8 or x0.ndim not in (3, 4):
        return None
    if x0.numel() and bool((x0 == x0.flatten()[0]).all()):
        raise UserError(f"every pixel is {int(x0.flatten()[0])}: there is nothing to learn")
    x0 = x0[:, None] if x0.ndim == 3 else x0
    if x0.shape[1] in (1, 3):
        return x0
    return x0.movedim(3, 1).contiguous() if x0.shape[3] in (1, 3) else None


def units_of_condition(cond: Cond, choice: str) -> dict[str, Units]:
    """The units of each part of a condition that holds floats, by its name."""
    return {
        name: condition_units(part, choice)
        for name, part in leaves(cond)
        if part.is_floating_point()
    }


def check_arrays(data: Any) -> tuple[Tensor, Any]:
    """x0 `[N, ...]` in the user's units and type, and its condition. Raises UserError."""
    if isinstance(data, str | Path):
        raise UserError(
            f"data = {str(data)!r}: a path goes into the run, as in fs.recipes.toy(data=...)"
        )
    parts = dict(data) if isinstance(data, Mapping) else {"x0": data}
    for key in parts:
        if key not in ("x0", "cond"):
            raise unknown("key of data", key, ("x0", "cond"))
    if "x0" not in parts:
        raise UserError(
            'data holds no "x0": expected a tensor, or {"x0": tensor, "cond": condition}'
        )
    x0 = tensor("data", parts["x0"])
    x0 = x0[:, None] if x0.ndim == 1 else x0
    if x0.ndim < 2 or len(x0) < 2 or not x0.numel():
        raise UserError(
            f"data of shape {tuple(x0.shape)}: expected [N, ...] with at least 2 samples"
        )
    cond = parts.get("cond")
    return x0, None if cond is None else check_condition(cond, x0)


def is_solved(arrays: Any) -> bool:
    """Whether these named arrays hold solved trajectories."""
    return isinstance(arrays, Mapping) and PATH in arrays and LEVELS in arrays


def trajectories(name: str, arrays: Mapping[str, Any]) -> Dataset:
    """Solved trajectories in the model's own units, all for training.

    arrays: {"x0": ends, "path": their points `[N, n, ...]` at the n times "levels", "cond"}. Raises
    UserError where the parts do not fit.
    """
    x0, cond = check_arrays({key: arrays[key] for key in arrays if key not in (PATH, LEVELS)})
    path = tensor(PATH, arrays[PATH]).float()
    levels = tensor(LEVELS, arrays[LEVELS]).double()
    falls = levels.ndim == 1 and len(levels) > 0
    falls = falls and all(a > b for a, b in pairwise([*levels.tolist(), 0.0]))
    require(falls, f"{name}: levels", levels.tolist(), "decreasing times above 0")
    shape = (len(x0), len(levels), *x0.shape[1:])
    need = f"{shape}, the levels behind the samples"
    require(path.shape == shape, f"{name}: path of shape", tuple(path.shape), need)
    check_finite(f"{name}: path", path)
    train = Arrays(x0.float(), cond, path)
    none = train.rows(torch.arange(0))
    return Dataset(name, train, none, none, classes_of(cond), levels=tuple(levels.tolist()))


def classes_of(cond: Any) -> int:
    """How many classes the labels of a condition number; 0 without labels."""
    labels = cond.get("label") if isinstance(cond, Mapping) else cond
    if not isinstance(labels, Tensor) or kind_of(labels) != LABELS:
        return 0
    classes = int(labels.max()) + 1
    if missing := sorted(set(range(classes)) - set(labels.tolist())):
        first = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
        message = "fewstep: labels go to %d, but %s never occur: their classes are not learned"
        log.warning(message, classes - 1, first)
    return classes
