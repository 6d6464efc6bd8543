"""Arrays of the user's own, brought to the units of the core, and the way back."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewstep.base.conditions import (
    LABELS,
    Cond,
    apply_mask,
    each,
    is_integral,
    kind_of,
    leaves,
    mask_of,
    tensor,
)
from fewstep.base.data_names import OWN_DATA
from fewstep.base.errors import require
from fewstep.base.mapped import file_of
from fewstep.data.beside import with_condition
from fewstep.data.columns import Names
from fewstep.data.dataset import Arrays, Dataset, change_cond, elements, to_model
from fewstep.data.latents import check_deviations, check_moments
from fewstep.data.own_arrays import are_channels, check_arrays, mask_like, parts_of, pixels
from fewstep.data.reading import HOLDOUT, Content, Reading
from fewstep.data.stored import MOST_NUMBERS, Stored, check_finite
from fewstep.data.tables import LEVELS, PATH, is_solved
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

SLIVER = 64  # bytes whose values go less far than this are no pictures


def from_tensors(data: Any, reading: Reading | None = None) -> Dataset:
    """Your own samples, all for training: an array `[N, ...]`, or {"x0": array, "cond": condition}.

    Arrays are tensors, numpy arrays or nested lists of numbers; `[N]` is taken as `[N, 1]`. A
    `numpy.memmap` stays in its file, of which the rows of a batch are read.

    Every variable comes to mean 0 and standard deviation 0.5 (`fewstep.data.units` says what is a
    variable, and `reading` otherwise), and samples come back in your units. A condition is labels
    (integers `[N]` from 0), any other array with N rows, or a dict of these, in which "label" and
    "mask" mean what `fewstep.base.conditions` says: where the mask is False, the value counts for
    nothing, and is 0 in samples. Numbers of a condition that are no whole ones come to mean 0 and
    standard deviation 1. Raises UserError on anything that does not fit. The result of
    `fewstep.trajectories` is used as it is.
    """
    if is_solved(data):
        return trajectories(OWN_DATA, data, reading or Reading())
    reading = reading or Reading()
    reading.refuse("of your own", but=("cond", "label_column", "condition_columns"))
    reading.refuse_splits("of your own", "which are all learned", fine=(0.0, HOLDOUT))
    content = with_condition("of your own", Content(parts_of(data)), reading)
    result = standardise(content.data, reading)
    none = result.arrays.rows(torch.arange(0))
    return Dataset(
        OWN_DATA,
        result.arrays,
        none,
        none,
        result.classes,
        result.units,
        cond_units=result.cond_units,
        order=torch.arange(len(result.arrays)),
        names=names_of(content.names, result.arrays.cond),
        left_out=content.left_out,
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
    if pictures is not None:
        cond = mask_like(pictures, x0, cond)
        x0 = pictures
    if reading.latents is not None:
        check_moments(name, reading.latents, x0, mask_of(x0, cond))
    need = f"none, since {name} holds no pictures"
    require(reading.size is None or are_channels(x0), "data_size", reading.size, need)
    samples, mask = _samples(data, x0, cond, reading), cond
    if isinstance(samples, Stored):
        cond = _parts_in_files(data.get("cond"), cond)
    everything = Arrays(samples, cond)
    _check_samples(name, everything, x0)
    rows = everything if train is None else everything.select(train)
    units = reading.origin_units
    if units is None and pictures is not None and reading.units in (AUTO, WHOLE):
        low, high = _once(samples, "range", lambda: _range(x0, mask))
        is_sliver = reading.units == AUTO and high - low < SLIVER
        units = None if is_sliver else BYTES
        if is_sliver:
            text = "fewstep: %s: bytes %d..%d are taken for numbers, not for pictures of 0..255"
            log.warning(text, name, low, high)
    if units is None:
        choice = reading.auto if reading.units == AUTO else reading.units
        axis = None
        if choice != AS_IS or reading.channel_axis is not None:  # it looks at all of a mask
            axis = variable_axis(x0, mask, reading.channel_axis)
        units = _units_of(rows, x0, mask, choice, axis)
    if reading.units != WHOLE:  # older runs have whole numbers as they are
        cond = _float_features(cond)
        rows = replace(rows, cond=_float_features(rows.cond))
    cond_units = units_of_condition(rows.cond, reading)
    cond = change_cond(cond, cond_units, to_model)
    if isinstance(samples, Stored):
        result = Arrays(replace(samples, units=units), cond)
    else:
        result = Arrays(apply_mask(units.to_model(samples), cond), cond)
    return Standardised(result, classes_of(cond), units, cond_units)


def _samples(data: Any, x0: Tensor, cond: Cond, reading: Reading) -> Tensor | Stored:
    """The samples in the user's units: in memory, or where they lie in a file, or moments."""
    rows: Any = data.get("x0") if isinstance(data, Mapping) else None
    law: Any = reading.latents or ""
    if isinstance(rows, np.memmap) or law:
        mask, mark = mask_of(x0, cond), ""
        if mask is not None:
            own = data["cond"]["mask"]
            if file_of(own) is not None:
                mark = Stored.of(own, mask).mark()
            else:
                mark = hashlib.sha256(mask.numpy().tobytes()).hexdigest()
        return Stored.of(rows, x0, Units(), mask=mask, law=law, mask_mark=mark)
    return apply_mask(x0.contiguous(), cond)


def _check_samples(name: str, arrays: Arrays, x0: Tensor) -> None:
    """Raises UserError for NaN, infinity, and deviations below 0."""
    samples = arrays.samples
    if isinstance(samples, Stored) and samples.law:
        law, raw = samples.law, replace(samples, law="")
        _once(raw, "finite", lambda: check_finite(name, raw.blocks()))
        _once(raw, "deviations", lambda: check_deviations(name, law, raw.blocks()))
    elif x0.is_floating_point():
        _once(samples, "finite", lambda: check_finite(name, arrays.blocks()))


def _parts_in_files(raw: Any, cond: Any) -> Any:
    """The condition with its parts that lie in a file as such; labels are in memory."""
    if isinstance(cond, Mapping):
        return {key: _parts_in_files(raw[key], part) for key, part in cond.items()}
    is_mapped = file_of(raw) is not None and cond.ndim > 1
    return Stored.of(raw, cond) if is_mapped else cond


def _units_of(rows: Arrays, x0: Tensor, mask: Cond, choice: str, axis: int | None) -> Units:
    """The units of these rows; of those in a file a part tells them, in the file's own type."""
    if isinstance(rows.samples, Tensor):
        return measured_units(rows.x0.double(), rows.cond, choice, axis)
    samples = rows.samples
    index = samples.index[: MOST_NUMBERS // math.prod(rows.shape)]

    def measure() -> Units:
        cond = each(lambda part: part[index], mask)
        if samples.law:
            return measured_units(samples[: len(index)].double(), cond, choice, axis)
        return measured_units(apply_mask(x0[index], cond).contiguous().double(), cond, choice, axis)

    values = samples.remember(f"units {choice} {axis}", lambda: measure().to_json())
    return Units.from_json(values, rows.shape) or measure()


def _once(samples: Tensor | Stored, name: str, make: Callable[[], Any]) -> Any:
    """What is found out about the samples: kept for those in a file."""
    return samples.remember(name, make) if isinstance(samples, Stored) else make()


def _range(x0: Tensor, cond: Cond) -> tuple[int, int]:
    """The lowest and the highest of whole numbers, without padding."""
    values = elements(x0, cond)
    return int(values.min()), int(values.max())


def _float_features(cond: Cond) -> Cond:
    """The condition with whole numbers under "features" as floats."""
    numbers = cond.get("features") if isinstance(cond, Mapping) else None
    if isinstance(cond, Mapping) and isinstance(numbers, Tensor) and is_integral(numbers):
        return {**cond, "features": numbers.float()}
    return cond


def units_of_condition(cond: Cond, reading: Reading) -> dict[str, Units]:
    """The units of each part of a condition that holds floats, by its name.

    Those of an origin go before measured ones.
    """
    origin = dict(reading.origin_cond_units)
    if reading.units in (WHOLE, AS_IS):
        return origin
    floats: dict[str, Any] = {n: part for n, part in leaves(cond) if part.is_floating_point()}
    parts = {
        name: part[: MOST_NUMBERS // part[:1].numel()] if isinstance(part, Stored) else part
        for name, part in floats.items()
    }
    return {name: condition_units(part, reading.units) for name, part in parts.items()} | origin


def trajectories(name: str, arrays: Mapping[str, Any], reading: Reading) -> Dataset:
    """Solved trajectories in the model's own units, all for training.

    arrays: {"x0": ends, "path": their points `[N, n, ...]` at the n times "levels", "cond" in the
    user's units}. Raises UserError where the parts do not fit.
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
    check_finite(f"{name}: path", iter([path]))
    cond_units = units_of_condition(cond, reading)
    cond = change_cond(cond, cond_units, Units.to_model)
    train = Arrays(x0.float(), cond, path)
    none = train.rows(torch.arange(0))
    return Dataset(
        name,
        train,
        none,
        none,
        classes_of(cond),
        levels=tuple(levels.tolist()),
        cond_units=cond_units,
    )


def labels_in(cond: Any) -> Tensor | None:
    """The labels of a condition, if it has any."""
    labels = cond.get("label") if isinstance(cond, Mapping) else cond
    return labels if isinstance(labels, Tensor) and kind_of(labels) == LABELS else None


def names_of(names: Names, cond: Any, classes: int = 0) -> Names:
    """The names of data with that condition, and the labels that occur where some never do.

    classes: how many there are; 0: as many as the largest label says.
    """
    labels = labels_in(cond)
    if labels is not None:
        occurring = tuple(labels.unique().tolist())
        has_gaps = len(occurring) < max(classes, occurring[-1] + 1)
        names = replace(names, occurring=occurring if has_gaps else ())
    return names.storable()


def classes_of(cond: Any) -> int:
    """How many classes the labels of a condition number; 0 without labels."""
    labels = labels_in(cond)
    return 0 if labels is None else int(labels.max()) + 1
