"""Data in the units of the core: x0 in float32, about [-1, 1], its condition, three splits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.base.conditions import Cond, each, leaves, mask_of
from fewstep.base.errors import UserError
from fewstep.base.randomness import permutation
from fewstep.data.columns import NO_NAMES, Names
from fewstep.data.stored import AT_ONCE, MOST_NUMBERS, Stored, check_finite, rows_of
from fewstep.data.units import Units

LOOKED_AT = 20_000  # rows of a split in a file, where something looks at the data as a whole
SPLIT_SEED = 20240611  # a constant: every run and every metric sees the same splits


@dataclass(frozen=True, eq=False)
class Arrays:
    """N samples and their condition with N rows.

    samples: x0 `[N, ...]` float32 in the model's units, or rows of a file. cond: labels `[N]`
    int64, another tensor, a dict of these, or None. path: of solved trajectories, whose ends x0
    are, their points `[N, n, ...]` at the data set's n levels.
    """

    samples: Tensor | Stored
    cond: Cond = None
    path: Tensor | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return tuple(self.samples.shape[1:])

    @property
    def x0(self) -> Tensor:
        """All samples, in memory."""
        return self.samples if isinstance(self.samples, Tensor) else self.samples[:]

    def blocks(self, numbers: int | None = None) -> Iterator[Tensor]:
        """All samples in pieces of so many numbers; those in memory as they are by default."""
        if not isinstance(self.samples, Tensor):
            return self.samples.blocks(numbers or AT_ONCE)
        return iter(self.samples.split(rows_of(numbers, self.shape)) if numbers else [self.samples])

    def rows(self, index: Tensor) -> Arrays:
        """Some rows, in memory."""
        part = self.select(index)
        return replace(part, samples=part.x0, cond=each(lambda own: own[:], part.cond))

    def select(self, index: Tensor) -> Arrays:
        """Some rows; what lies in a file stays there."""
        path = None if self.path is None else self.path[index]
        cond = each(lambda part: _choose(part, index), self.cond)
        return Arrays(_choose(self.samples, index), cond, path)

    def draw(self, index: Tensor, noise: Callable[[], Tensor]) -> Tensor:
        """Some samples, in memory; of latents those that this unit noise leads to."""
        own = self.samples
        if isinstance(own, Tensor):
            return own[index]
        return own.sample(index, noise() if own.law else None)

    def first(self, most: int) -> Arrays:
        """The first rows, in memory: all where they are there already, or are so few."""
        return (
            self if isinstance(self.samples, Tensor) else self.rows(torch.arange(len(self))[:most])
        )


def _choose(rows: Any, index: Tensor) -> Any:
    """Some rows of a tensor, or of a file, where they stay."""
    return rows.choose(index) if isinstance(rows, Stored) else rows[index]


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
    whole: str = ""  # fingerprint of the data set whose first rows these are

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            arrays = getattr(self, part)
            if isinstance(arrays.samples, Tensor):  # others were looked at when they were read
                check_finite(self.name, arrays.blocks())

    @property
    def shape(self) -> tuple[int, ...]:
        return self.train.shape

    def in_memory(self, numbers: int = MOST_NUMBERS) -> Dataset:
        """The same, of splits in a file their first rows alone, which are in a random order.

        numbers: that each split has at most; half of a gigabyte by default.
        """
        parts = (self.train, self.validation, self.test)
        if all(isinstance(part.samples, Tensor) for part in parts):
            return self
        most = min(LOOKED_AT, max(1, numbers // math.prod(self.shape)))
        train, validation, test = (part.first(most) for part in parts)
        whole = self.fingerprint()
        return replace(self, train=train, validation=validation, test=test, whole=whole)

    def sigma_data(self) -> float:
        """Standard deviation of the training split without padding and constants, to six digits.

        Rounded, and by numpy: torch's reductions give other last bits with other numbers of
        threads.
        """
        if isinstance(self.train.samples, Stored):
            rows = self.train.samples
            std: float = rows.remember("deviation", rows.deviation)
            return float(f"{std:.6g}")
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
            return Arrays(arrays.samples, rest or None)

        if not self.classes:
            return self
        train, validation, test = map(without, (self.train, self.validation, self.test))
        names = self.names.without_labels()
        return replace(self, train=train, validation=validation, test=test, classes=0, names=names)

    def fingerprint(self) -> str:
        """SHA-256 of the training split's shape, values, condition and trajectories."""
        samples = self.train.samples
        if self.whole:
            return self.whole
        if isinstance(samples, Stored):
            name = f"fingerprint, {self.classes} classes, {_digest_of(self.train.cond)}"
            value: str = samples.remember(name, self._fingerprint)
            return value
        return self._fingerprint()

    def _fingerprint(self) -> str:
        shape, samples = (len(self.train), *self.shape), self.train.samples
        digest = hashlib.sha256(f"{shape}|{self.classes}".encode())
        if isinstance(samples, Stored) and samples.law:  # their moments, without any noise
            digest.update(f"|{samples.law}|{self.units.to_json()}|".encode())
            samples = replace(samples, law="", units=None)
        for block in Arrays(samples).blocks():
            digest.update(block.contiguous().numpy().tobytes())
        for name, part in leaves(self.train.cond):
            # `classes` stands for labels alone.
            if name or part.ndim > 1 or part.dtype != torch.int64:
                digest.update(f"|{name}|{part.dtype}|{tuple(part.shape)}|".encode())
            for block in Arrays(part).blocks():
                digest.update(block.contiguous().numpy().tobytes())
        if self.train.path is not None:
            digest.update(f"|path|{self.levels}|".encode())
            digest.update(self.train.path.contiguous().numpy().tobytes())
        return digest.hexdigest()


def _digest_of(cond: Cond) -> str:
    """What tells one condition of the same rows from another."""
    digest, parts = hashlib.sha256(), list[tuple[str, Any]](leaves(cond))
    for name, part in parts:
        digest.update(f"|{name}|{part.dtype}|{tuple(part.shape)}|".encode())
        is_stored = isinstance(part, Stored)
        digest.update(part.mark().encode() if is_stored else part.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


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


def to_model(units: Units, part: Any) -> Any:
    """A part of a condition in the model's units; of a file it is when its rows are taken."""
    return replace(part, units=units) if isinstance(part, Stored) else units.to_model(part)


def elements(x: Tensor, cond: Cond) -> np.ndarray:
    """The elements of x as a numpy array: all of them, or `[M]` without the padding."""
    mask = mask_of(x, cond)
    return x.numpy() if mask is None else x[mask.expand_as(x)].numpy()


def shuffle(stream: str, n: int) -> Tensor:
    """The fixed order of n samples whose first ones are held out."""
    return permutation(SPLIT_SEED, f"split {stream}", 0, n)


def unsplit(dataset: Dataset, stream: str) -> Dataset:
    """The data set that `split` cut by that stream, with all rows in their order in `train`."""
    sides = (dataset.validation, dataset.test, dataset.train)
    if dataset.order is not None and sum(map(len, sides)) != len(dataset.order):
        raise UserError(
            f"data {dataset.name!r}: expected splits of one file, without paths of their own"
        )
    place = torch.argsort(shuffle(stream, sum(map(len, sides))))
    rows = join(sides).select(place)
    none = dataset.train.rows(torch.arange(0))
    return replace(dataset, train=rows, validation=none, test=none)


def join(parts: Sequence[Arrays]) -> Arrays:
    """The rows of all parts, one below the other."""
    return Arrays(_concat([p.samples for p in parts]), concat([p.cond for p in parts]))


def concat(conds: Sequence[Cond]) -> Cond:
    """Conditions of one kind, one below the other."""
    first = conds[0]
    if isinstance(first, Mapping):
        return {key: concat([cond[key] for cond in conds]) for key in first}  # type: ignore[index]
    return None if first is None else _concat(conds)


def _concat(parts: Sequence[Any]) -> Any:
    """Tensors, or rows of one file, one below the other."""
    first = parts[0]
    if isinstance(first, Stored):
        return replace(first, index=torch.cat([part.index for part in parts]))
    return torch.cat([*parts])


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
    order = shuffle(stream or name, len(everything))
    parts = order.split([*sizes, len(order) - sum(sizes)])
    validation, test, train = (everything.select(part) for part in parts)
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
