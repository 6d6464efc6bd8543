"""Data in the units of the core: x0 in float32, about [-1, 1], its condition, three splits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewstep.base.conditions import Cond, each, leaves, mask_of
from fewstep.base.errors import UserError
from fewstep.base.randomness import permutation
from fewstep.data.columns import NO_NAMES, Names
from fewstep.data.units import Units

SPLIT_SEED = 20240611  # a constant: every run and every metric sees the same splits


class Arrays(NamedTuple):
    """x0 `[N, ...]` float32 and its condition with N rows.

    cond: labels `[N]` int64, another tensor, a dict of these, or None. path: of solved
    trajectories, whose ends x0 are, their points `[N, n, ...]` at the data set's n levels.
    """

    x0: Tensor
    cond: Cond = None
    path: Tensor | None = None

    def rows(self, index: Tensor) -> Arrays:
        path = None if self.path is None else self.path[index]
        return Arrays(self.x0[index], each(lambda part: part[index], self.cond), path)


@dataclass(frozen=True)
class Dataset:
    """Three disjoint splits: train on the first, choose on the second, score once on the third."""

    name: str
    train: Arrays
    validation: Arrays
    test: Arrays
    classes: int = 0
    units: Units = field(default_factory=Units)
    levels: tuple[float, ...] = ()  # times of the points of solved trajectories, decreasing
    # Fingerprint of the training split of other rows, from which all of these were held out.
    held_out_of: str = ""
    skipped: tuple[str, ...] = ()  # what is wrong with each bad file that was left out
    cond_units: Mapping[str, Units] = field(default_factory=dict)  # of parts of the condition
    names: Names = NO_NAMES
    order: Tensor | None = None  # the rows' numbers in the file: training, validation, test
    left_out: tuple[str, ...] = ()  # what the file holds beside, and why it is not used

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            check_finite(self.name, getattr(self, part).x0)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.train.x0.shape[1:])

    def sigma_data(self) -> float:
        """Standard deviation of the training split without padding and constants, to six digits.

        Rounded, and by numpy: torch's reductions give other last bits with other numbers of
        threads.
        """
        x0, varies = self.train.x0, self.units.varies(self.shape)
        if bool(varies.all()):
            values = elements(x0, self.train.cond)
        else:
            mask = mask_of(x0, self.train.cond)
            real = varies if mask is None else varies & mask
            values = x0[real.expand_as(x0)].numpy()
        return float(f"{values.std(dtype=np.float64):.6g}")

    def user_cond(self, cond: Cond) -> Cond:
        """A condition of this data set in the user's units, as `Generator.sample` takes it."""
        return change_cond(cond, self.cond_units, Units.to_user)

    def without_labels(self) -> Dataset:
        """The same samples without their labels; other conditions stay."""

        def without(arrays: Arrays) -> Arrays:
            rest: Cond = None
            if isinstance(arrays.cond, Mapping):
                rest = {key: part for key, part in arrays.cond.items() if key != "label"}
            return Arrays(arrays.x0, rest or None)

        if not self.classes:
            return self
        train, validation, test = map(without, (self.train, self.validation, self.test))
        names = self.names.without_labels()
        return replace(self, train=train, validation=validation, test=test, classes=0, names=names)

    def fingerprint(self) -> str:
        """SHA-256 of the training split's shape, values, condition and trajectories."""
        digest = hashlib.sha256(f"{tuple(self.train.x0.shape)}|{self.classes}".encode())
        digest.update(self.train.x0.contiguous().numpy().tobytes())
        for name, part in leaves(self.train.cond):
            # `classes` stands for labels alone.
            if name or part.ndim > 1 or part.dtype != torch.int64:
                digest.update(f"|{name}|{part.dtype}|{tuple(part.shape)}|".encode())
            digest.update(part.contiguous().numpy().tobytes())
        if self.train.path is not None:
            digest.update(f"|path|{self.levels}|".encode())
            digest.update(self.train.path.contiguous().numpy().tobytes())
        return digest.hexdigest()


def change_cond(
    cond: Cond,
    units: Mapping[str, Units],
    change: Callable[[Units, Tensor], Tensor],
    name: str = "",
) -> Cond:
    """The condition with the change for each part that has units of its own; "" is a sole part."""
    if isinstance(cond, Mapping):
        return {
            key: change_cond(part, units, change, f"{name}.{key}" if name else key)
            for key, part in cond.items()
        }
    if cond is None or name not in units:
        return cond
    return change(units[name], cond)


def elements(x: Tensor, cond: Cond) -> np.ndarray:
    """The elements of x as a numpy array: all of them, or `[M]` without the padding."""
    mask = mask_of(x, cond)
    return x.numpy() if mask is None else x[mask.expand_as(x)].numpy()


def check_finite(name: str, x0: Tensor) -> None:
    """Refuses NaN and infinity, naming the first sample that holds one."""
    bad = (~torch.isfinite(x0.flatten(1))).any(1).nonzero().flatten()
    if len(bad):
        raise UserError(
            f"data {name!r}: {len(bad)} of {len(x0)} samples hold NaN or infinity, the first is"
            f" sample {int(bad[0])}: remove or repair them, or"
            " leave them out by a mask"
        )


def shuffle(stream: str, n: int) -> Tensor:
    """The fixed order of n samples whose first ones are held out."""
    return permutation(SPLIT_SEED, f"split {stream}", 0, n)


def unsplit(dataset: Dataset, stream: str) -> Dataset:
    """The data set that `split` cut by that stream, with all rows in their order in `train`."""
    sides = (dataset.validation, dataset.test, dataset.train)
    n = sum(len(side.x0) for side in sides)
    place = torch.argsort(shuffle(stream, n))
    x0 = torch.cat([side.x0 for side in sides])[place]
    cond = concat([side.cond for side in sides])
    none = dataset.train.rows(torch.arange(0))
    rows = Arrays(x0, each(lambda part: part[place], cond))
    return replace(dataset, train=rows, validation=none, test=none)


def concat(conds: Sequence[Cond]) -> Cond:
    """Conditions of one kind, one below the other."""
    first = conds[0]
    if isinstance(first, Mapping):
        return {key: concat([cond[key] for cond in conds]) for key in first}  # type: ignore[index]
    return None if first is None else torch.cat(conds)  # type: ignore[arg-type]


def split(
    name: str,
    everything: Arrays,
    sizes: tuple[int, int],
    classes: int,
    units: Units,
    stream: str = "",
    levels: tuple[float, ...] = (),
    cond_units: Mapping[str, Units] | None = None,
    names: Names = NO_NAMES,
) -> Dataset:
    """A data set whose validation and test splits have these sizes.

    stream: of the shuffle that splits it; its name's by default.
    """
    order = shuffle(stream or name, len(everything.x0))
    parts = order.split([*sizes, len(order) - sum(sizes)])
    validation, test, train = (everything.rows(part) for part in parts)
    return Dataset(
        name,
        train,
        validation,
        test,
        classes,
        units,
        levels,
        cond_units=cond_units or {},
        order=torch.cat([parts[2], parts[0], parts[1]]),
        names=names,
    )
