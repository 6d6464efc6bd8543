"""Arrays of the user's own, brought to mean 0 and standard deviation 0.5, and the way back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.base.conditions import LABELS, apply_mask, check_condition, kind_of, tensor
from fewstep.base.errors import UserError, require, unknown
from fewstep.data.dataset import Arrays, Dataset, Units, check_finite, elements

log = logging.getLogger("fewstep")

OWN_DATA = "tensor"  # the name of data that is an object of the user's
PATH, LEVELS = "path", "levels"  # the keys that mark solved trajectories


def from_tensors(data: Any) -> Dataset:
    """Your own samples, all for training: an array `[N, ...]`, or {"x0": array, "cond": condition}.

    Arrays are tensors, numpy arrays or nested lists of numbers; `[N]` is taken as `[N, 1]`.

    They are shifted and scaled as a whole to mean 0 and standard deviation 0.5, and samples come
    back in your units. A condition is labels (integers `[N]` from 0), any other array with N rows,
    or a dict of these, in which "label" and "mask" mean what `fewstep.base.conditions` says: where
    the mask is False, the value counts for nothing, and is 0 in samples. Raises UserError on
    anything that does not fit. The result of `fewstep.trajectories` is used as it is.
    """
    if is_solved(data):
        return trajectories(OWN_DATA, data)
    train, classes, units = standardise(data)
    none = train.rows(torch.arange(0))
    return Dataset(OWN_DATA, train, none, none, classes, units)


def standardise(
    data: Any, name: str = "tensor", train: Tensor | None = None
) -> tuple[Arrays, int, Units]:
    """The user's arrays in the units of the core, the number of their classes, and the way back.

    train: the rows whose mean and deviation count, where others are held out.
    """
    x0, cond = check_arrays(data)
    x0 = apply_mask(x0, cond)
    check_finite(name, x0)
    values = x0.double()
    rows = Arrays(values, cond)
    if train is not None:
        rows = rows.rows(train)
    real = elements(rows.x0, rows.cond)
    with np.errstate(over="ignore"):
        shift = float(real.mean())
        scale = 2 * float(real.std())
    if scale == 0:
        raise UserError(f"data is {shift} everywhere: there is nothing to learn")
    if not scale + abs(shift) < 1e30:
        raise UserError(
            f"data of mean {shift:.3g} and scale {scale:.3g}: expected at most 1e30, choose other"
            " units"
        )
    x0 = apply_mask(torch.from_numpy((values.numpy() - shift) / scale).float(), cond)
    return Arrays(x0, cond), classes_of(cond), Units(shift, scale)


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
