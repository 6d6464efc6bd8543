"""How samples are drawn, by shape, mask, units and names; and the rows of data beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fewstep.base.conditions import NO_LABEL, Cond, Kind, leaves, mask_of
from fewstep.data.columns import NO_NAMES, Column, Names
from fewstep.data.dataset import Arrays, concat
from fewstep.data.units import Units

CURVE = 16  # numbers without names from which on a sample is a curve, and no row of a table
FAR = 1e-3  # in deviations: conditions nearer than that are the same
_GREYS = {(0.0, 255.0), (0.0, 1.0), (-1.0, 1.0)}  # black and white of pictures
_NOUNS = {"numbers": "number", "plane": "coordinate", "sets": "coordinate"}
_ENOUGH = {"tiles": 100, "fields": 12, "series": 16, "numbers": 1000, "plane": 2000, "sets": 10}


@dataclass(frozen=True)
class Rows:
    """Samples or rows of data `[N, ...]` in the user's units, with what they are conditioned on."""

    name: str
    x: Tensor
    cond: Cond = None  # in the model's units
    total: int = 0  # rows there are, where x holds some of them
    is_data: bool = False

    @property
    def common(self) -> dict[str, Tensor]:
        """The condition that all rows share, by its parts; {} where they differ or there is none.

        No label asks for any class, so it is no condition, and masks are none.
        """
        parts = {name: part for name, part in leaves(self.cond) if name != "mask"}
        if not all(bool((part == part[:1]).all()) for part in parts.values()):
            return {}
        first = {name: part[0] for name, part in parts.items()}
        return {name: v for name, v in first.items() if v.ndim or int(v) != NO_LABEL}


def rows_of_data(
    splits: Sequence[Arrays], units: Units, most: int, like: Rows, name: str = "data"
) -> Rows | None:
    """The first rows of the splits, at most so many, in the user's units.

    Where the samples `like` share one condition, rows of that condition alone: None without any.
    """
    picks: list[Arrays] = []
    total = 0
    for arrays in splits:
        same = torch.ones(len(arrays), dtype=torch.bool)
        parts = dict(leaves(arrays.cond))
        for part, value in like.common.items():
            distance = (parts[part].double() - value.double()).abs().flatten(1 if value.ndim else 0)
            same &= (distance if not value.ndim else distance.amax(1)) < FAR
        index = same.nonzero().flatten()
        picks.append(arrays.rows(index[: max(most - total, 0)]))
        total += len(index)
    if not total:
        return None
    x0, cond = torch.cat([rows.x0 for rows in picks]), concat([rows.cond for rows in picks])
    return Rows(name, units.to_user(x0), cond, total, is_data=True)


def are_paired(groups: Sequence[Rows], n: int) -> bool:
    """Whether row k of all groups has one condition, for the first n, which differ."""
    first, *others = [
        {name: part[:n] for name, part in leaves(rows.cond) if name != "mask"} for rows in groups
    ]
    if not first or not others or groups[0].common:
        return False
    return all(
        other.keys() == first.keys() and all(torch.equal(other[k], first[k]) for k in first)
        for other in others
    )


@dataclass(frozen=True)
class Look:
    """What decides how samples of a shape are drawn.

    ends: lowest and highest value of the data, where known: floats in [0, 1] or [-1, 1] with one or
    three channels are pictures too.
    """

    shape: tuple[int, ...]
    units: Units = field(default_factory=Units)
    names: Names = NO_NAMES
    cond: Kind = None
    ends: tuple[float, float] | None = None

    @cached_property
    def kind(self) -> str:
        """tiles, fields, series, numbers (of a table), plane or sets."""
        shape, axis = self.shape, self.units.axis
        if self.black_and_white is not None:
            return "tiles"
        if len(shape) == 1:
            if shape[0] == 2 and not self.names.columns:
                return "plane"
            return "series" if shape[0] >= CURVE and not self.names.columns else "numbers"
        if self.is_set:
            return "sets" if shape[-1] in (2, 3) else "numbers"
        if len(shape) == 2 and (axis is not None or shape[0] != shape[1] or shape[0] < 8):
            return "series"
        return "fields"

    @property
    def enough(self) -> int:
        """How many samples make a good picture."""
        return _ENOUGH[self.kind]

    @cached_property
    def is_set(self) -> bool:
        """Whether a sample `[L, D]` is a set of points: by its mask, or far more than D of them."""
        if len(self.shape) != 2:
            return False
        last = self.units.axis in (None, 1)
        mask = self.cond.get("mask") if isinstance(self.cond, dict) else None
        if isinstance(mask, list):
            return last and list(mask[1]) in ([self.shape[0]], [self.shape[0], 1])
        return self.shape[1] in (2, 3) and self.shape[0] > 6 * self.shape[1]

    @cached_property
    def black_and_white(self) -> tuple[float, float] | None:
        """The values that are black and white in samples that are pictures; None for others."""
        if len(self.shape) != 3 or self.shape[0] not in (1, 3):
            return None
        if self.units.clip:
            shift, scale = np.float64(self.units.shift), np.float64(self.units.scale)  # type: ignore[arg-type]
            ends = float(shift - scale), float(shift + scale)
            return ends if ends in _GREYS else None
        if self.ends is None:
            return None
        lowest, highest = self.ends
        for low, high in _GREYS:
            room = 0.1 * (high - low)
            if low <= lowest <= low + room and high - room <= highest <= high:
                return low, high
        return None

    @cached_property
    def columns(self) -> list[Column]:
        """The variables along the axis that has them; a category is one of them."""
        named = list(self.names.columns)
        count = 1 if self.axis is None else self.shape[self.axis]
        if named and sum(column.width for column in named) == count:
            return named
        if count == 1 or (self.kind == "series" and len(self.shape) == 1):
            return [Column("value")]
        noun = _NOUNS.get(self.kind, "channel")
        return [Column(f"{noun} {place}") for place in range(count)]

    @property
    def axis(self) -> int | None:
        """The axis of a sample along which its variables are."""
        if self.is_set:
            return 1
        if self.units.axis is None and self.kind == "fields" and len(self.shape) == 2:
            return None
        return self.units.axis or 0

    def values(self, rows: Rows) -> np.ndarray:
        """The rows in float64, NaN where a mask has no element: `[N, C, L]` of series, `[N, C, H,
        W]` of fields, `[N, L, D]` of sets, and `[N, D]` of numbers, a category as its place.

        Of fields with more axes it is the middle of these.
        """
        x = rows.x.double()
        mask = mask_of(x, rows.cond)
        x = x if mask is None else x.masked_fill(~mask, torch.nan)
        if self.kind in ("numbers", "plane"):
            flat = x.reshape(-1, self.shape[-1])
            return self._by_column(flat[~flat.isnan().all(1)]).numpy()
        if self.kind == "sets":
            return x.numpy()
        axis = self.axis
        whole = self.kind == "series" and len(self.shape) == 1
        x = x[:, None] if axis is None or whole else x.movedim(axis + 1, 1)
        while self.kind == "fields" and x.ndim > 4:
            x = x[:, :, x.shape[2] // 2]
        return x.numpy()

    def _by_column(self, x: Tensor) -> Tensor:
        """A number for each column as its type has it: of a category its place among them."""
        parts = x.split([column.width for column in self.columns], 1)
        pairs = list(zip(parts, self.columns, strict=True))
        return torch.stack([_as_type(part, column) for part, column in pairs], 1)


def _as_type(x: Tensor, column: Column) -> Tensor:
    """The numbers `[N, width]` of a column, one for each row; NaN where there are none."""
    values = x.argmax(1).double() if column.type == "category" else x[:, 0]
    values = values.round() if column.type in ("int", "bool") else values
    return values.masked_fill(x.isnan().any(1), torch.nan)
