"""The user's numbers and the model's: a monotone map for each variable, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewstep.base.conditions import Cond, mask_of
from fewstep.base.errors import UserError, require
from fewstep.data.quantiles import FEWEST, MOST_IN_ALL, MOST_KNOTS, Quantiles, quantiles_of

STD = 0.5  # of the model's x0 for each variable
COND_STD = 1.0  # of a condition's numbers
MOST_VARIABLES = 10_000  # with units of their own
LARGEST = 1e30  # of a mean or deviation

AUTO, STANDARD, ROBUST, QUANTILE = "auto", "standard", "robust", "quantile"
WHOLE, AS_IS = "whole", "as-is"
EDM2_LATENTS, SD_LATENTS = "edm2-latents", "sd-latents"
NAMES = (AUTO, STANDARD, ROBUST, QUANTILE, WHOLE, AS_IS, EDM2_LATENTS, SD_LATENTS)
CHOICES = f"{', '.join(NAMES)} or LOW..HIGH"

Numbers = float | tuple[float, ...]  # one for all variables, or one for each


class Map(NamedTuple):
    """The units of one variable."""

    shift: float
    scale: float
    quantiles: Quantiles | None


@dataclass(frozen=True)
class Units:
    """user's value = shift + scale * x0, where every variable of a sample has its own.

    shift, scale: one number for all, or one for each place along `axis` of a sample. A scale of 0
    is a variable that is always `shift`. With `clip`, x0 is cut to [-1, 1] (pictures). A variable
    with quantiles has its normal number in place of the user's value, and these lead to the value.
    """

    shift: Numbers = 0.0
    scale: Numbers = 1.0
    clip: bool = False
    axis: int | None = None
    quantiles: tuple[Quantiles | None, ...] = ()  # one for each variable, or ()

    @property
    def are_plain(self) -> bool:
        """Whether the user's values are the model's."""
        return self.shift == 0 and self.scale == 1 and not self.quantiles

    def to_user(self, x0: Tensor) -> Tensor:
        """The user's values: float32, or float64 where float32 could not tell neighbours apart."""
        shift, scale = self.broadcast(x0.ndim)
        x = shift + scale * (x0.clamp(-1, 1) if self.clip else x0).cpu().double()
        for law, part in self._curves(x):
            part.copy_(torch.from_numpy(law.to_user(part.numpy())))
        return x if self.need_double else x.float()

    def of(self, place: int) -> Map:
        """The map of the variable at that place."""
        shift, scale = np.atleast_1d(self.shift), np.atleast_1d(self.scale)
        index = place if len(shift) > 1 else 0
        law = self.quantiles[index] if self.quantiles else None
        return Map(float(shift[index]), float(scale[index]), law)

    def to_model(self, x: Tensor) -> Tensor:
        """x0 of the user's values: the way back from `to_user`. Raises UserError for others."""
        if self.axis is not None:
            places = x.shape[self.axis + 1] if self.axis + 1 < x.ndim else 0
            need = f"{len(np.atleast_1d(self.shift))} variables along axis {self.axis} of a sample"
            fine = places == len(np.atleast_1d(self.shift))
            require(fine, "rows of shape", tuple(x.shape[1:]), f"{need}, as their units have them")
        if x.dtype == torch.uint8 and x.ndim == 4 and self == BYTES:
            # Pictures have an arithmetic of their own, without doubles: their memory counts.
            return x.float().div_(127.5).sub_(1)
        shift, scale = self.broadcast(x.ndim)
        x = x.double().clone() if self.quantiles else x.double()
        for law, part in self._curves(x):
            part.copy_(torch.from_numpy(law.to_normal(part.numpy())))
        x0 = (x - shift) / torch.where(scale == 0, 1, scale)
        return torch.where(scale == 0, 0, x0).float()

    def varies(self, shape: tuple[int, ...]) -> Tensor:
        """Where a sample of that shape is not always the same, as booleans that broadcast to it."""
        return (self.broadcast(len(shape) + 1)[1] != 0)[0]

    def scales(self, shape: tuple[int, ...]) -> Tensor:
        """The scale of each number of a sample of that shape, float64."""
        return self.broadcast(len(shape) + 1)[1][0].expand(shape)

    def broadcast(self, ndim: int) -> tuple[Tensor, Tensor]:
        """Shift and scale with axes like a batch of `ndim` axes."""
        shape = [1] * ndim
        if self.axis is not None:
            shape[self.axis + 1] = -1
        shift, scale = self._numbers
        return shift.reshape(shape), scale.reshape(shape)

    @cached_property
    def _numbers(self) -> tuple[Tensor, Tensor]:
        """Shift and scale in float64, kept: wherever the caller is, ordinary ones of the host."""
        with torch.inference_mode(False):
            shift, scale = (
                torch.tensor(one, dtype=torch.float64, device="cpu")
                for one in (self.shift, self.scale)
            )
        return shift, scale

    def _curves(self, x: Tensor) -> Iterator[tuple[Quantiles, Tensor]]:
        """Each variable of a batch that has quantiles, as a view."""
        for place, law in enumerate(self.quantiles):
            if law is not None:
                yield law, x if self.axis is None else x.select(self.axis + 1, place)

    @cached_property
    def need_double(self) -> bool:
        """Whether float32 could not tell neighbours apart."""
        shift, scale = np.array(self.shift), np.array(self.scale)
        is_far = np.abs(shift) > 1e4 * scale
        is_exact = (scale == 0) & (shift == np.float32(shift))  # a constant comes back as it was
        return bool((is_far & ~is_exact).any()) or any(q.are_far for q in self.quantiles if q)

    def to_json(self) -> list[Any] | dict[str, Any]:
        """As JSON's own types."""
        if self.axis is None and not self.quantiles:
            return [self.shift, self.scale, self.clip]
        values = {
            "axis": self.axis,
            "shift": np.atleast_1d(self.shift).tolist(),
            "scale": np.atleast_1d(self.scale).tolist(),
        }
        if self.quantiles:
            values["quantiles"] = [law and law.to_json() for law in self.quantiles]
        return values

    @staticmethod
    def from_json(value: Any, shape: tuple[int, ...]) -> Units | None:
        """The units that `to_json` gave, of samples of that shape; None for what is none."""
        if isinstance(value, list) and len(value) in (2, 3):
            fine = all(map(_is_finite, value[:2])) and value[1] > 0
            fine = fine and all(type(clip) is bool for clip in value[2:])
            # As floats: JSON's whole numbers may be longer than tensors take.
            return Units(float(value[0]), float(value[1]), *value[2:]) if fine else None
        keys = {"axis", "shift", "scale"}
        if not isinstance(value, dict) or value.keys() - {"quantiles"} != keys:
            return None
        axis, shift, scale = value["axis"], value["shift"], value["scale"]
        laws = value.get("quantiles", [])
        is_place = type(axis) is int and 0 <= axis < len(shape)
        if not is_place and (axis is not None or not laws):
            return None
        places = shape[axis] if is_place else 1
        for numbers in (shift, scale):
            fine = isinstance(numbers, list) and len(numbers) == places <= MOST_VARIABLES
            if not fine or not all(map(_is_finite, numbers)):
                return None
        if min(scale) < 0 or not isinstance(laws, list) or len(laws) not in (0, places):
            return None
        quantiles = [law and Quantiles.from_json(law) for law in laws]
        if any(law is not None and own is None for law, own in zip(laws, quantiles, strict=True)):
            return None
        pair = tuple(map(float, shift)), tuple(map(float, scale))
        return Units(*pair, axis=axis, quantiles=tuple(quantiles))


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and -1e300 < value < 1e300


BYTES = Units(127.5, 127.5, clip=True)  # of pictures: [0, 255] at [-1, 1]

_OF_LATENTS = {
    # EDM2's training/encoders.py: mean and deviation of each raw channel, to deviation 0.5.
    EDM2_LATENTS: Units((5.81, 3.25, 0.12, -2.15), (8.34, 9.24, 7.42, 6.56), axis=0),
    SD_LATENTS: Units(0.0, 1 / 0.18215),  # scaling_factor, arXiv 2112.10752, appendix D.1
}


def check_choice(choice: str) -> tuple[float, float] | None:
    """The range that a choice of units names, if it does. Raises UserError for an unknown one."""
    if choice in NAMES:
        return None
    low, dots, high = choice.partition("..")
    try:
        bounds = float(low), float(high)
    except ValueError:
        bounds = 0.0, 0.0
    fine = bool(dots) and -LARGEST < bounds[0] < bounds[1] < LARGEST
    require(fine, "units", choice, f"{CHOICES}, such as 0..1")
    return bounds


def variable_axis(x0: Tensor, cond: Cond, channel_axis: int | None = None) -> int | None:
    """The axis of a sample along which each place is a variable of its own; None: there is none.

    x0 `[N, ...]`. For vectors and tables `[N, D]` it is each number; of padded sets, whose mask
    leaves out whole elements, the last; of arrays `[N, C, ...]` each channel; of square grids
    `[N, S, S]` of 8 x 8 and more there is none. channel_axis: of the whole array, instead of all
    this. Raises UserError for an axis that the samples do not have.
    """
    if channel_axis is not None:
        fine = channel_axis != 0 and -x0.ndim < channel_axis < x0.ndim
        need = f"an axis of the samples: 1 .. {x0.ndim - 1} or -1 .. {1 - x0.ndim}"
        require(fine, "channel_axis", channel_axis, need)
        return channel_axis % x0.ndim - 1
    mask = mask_of(x0, cond)
    if mask is not None and x0.ndim > 2 and _is_set(mask):
        return x0.ndim - 2
    if x0.ndim == 3 and x0.shape[1] == x0.shape[2] >= 8:
        return None
    return 0


def _is_set(mask: Tensor) -> bool:
    """Whether a mask with the axes of its data leaves out whole elements of padded sets."""
    if mask.shape[-1] > 1 and bool((mask != mask[..., :1]).any()):
        return False
    return mask.ndim == 3 or mask.shape[2:] == (1,) * (mask.ndim - 2)


def measured_units(x0: Tensor, cond: Cond, choice: str = AUTO, axis: int | None = None) -> Units:
    """The units that bring x0 `[N, ...]` (float64) to mean 0 and deviation `STD`, without padding.

    choice: "standard" or "auto" for each variable along `axis` of a sample, "robust" by median and
    quartiles, "quantile" for the normal number of each value, "whole" for all numbers together,
    "as-is" for the identity, "LOW..HIGH" for that range at [-1, 1], "edm2-latents" and "sd-latents"
    for the published numbers of Stable Diffusion's autoencoder. Raises UserError where nothing
    varies, or values are out of the range.
    """
    bounds = check_choice(choice)
    if choice == AS_IS:
        return Units()
    if choice in (EDM2_LATENTS, SD_LATENTS):
        need = "4 channels [N, 4, H, W], as the latents of Stable Diffusion"
        require(x0.ndim == 4 and x0.shape[1] == 4, f"units = {choice}: shape", [*x0.shape], need)
        return _OF_LATENTS[choice]
    if bounds is not None:
        return _of_range(x0, bounds)
    units = _measure(x0, cond, choice == ROBUST, None if choice == WHOLE else axis, STD)
    if not np.any(units.scale):
        shift = np.unique(units.shift)
        value = f"{shift[0]} everywhere" if len(shift) == 1 else "the same in every row"
        raise UserError(f"data is {value}: there is nothing to learn")
    return _with_quantiles(units, x0, cond) if choice == QUANTILE else units


def _with_quantiles(units: Units, x0: Tensor, cond: Cond) -> Units:
    """The units by quantiles of each variable that has three values or more.

    Raises UserError for more variables than a checkpoint could keep the quantiles of.
    """
    shift, scale = (np.atleast_1d(v).tolist() for v in (units.shift, units.scale))
    most = MOST_IN_ALL // FEWEST
    need = f"at most {most} variables with quantiles of their own: units = {STANDARD} takes more"
    require(len(shift) <= most, "variables", len(shift), need)
    laws: list[Quantiles | None] = []
    for place in range(len(shift)):
        values = _numbers(x0, cond, units.axis, place)
        law = quantiles_of(values, min(MOST_KNOTS, MOST_IN_ALL // len(shift)))
        laws.append(law)
        if law is not None:
            shift[place], spread = _moments(law.to_normal(values))
            scale[place] = spread / STD
    return replace(units, shift=tuple(shift), scale=tuple(scale), quantiles=tuple(laws))


def condition_units(part: Tensor, choice: str) -> Units:
    """The units that bring a part of a condition `[N, ...]` to mean 0 and deviation `COND_STD`.

    A number that never varies is shifted alone.
    """
    axis = variable_axis(part, None) if part.ndim > 1 else None
    units = _measure(part.double(), None, choice == ROBUST, axis, COND_STD)
    if axis is None:
        return replace(units, scale=units.scale or 1.0)
    return replace(
        units, scale=tuple(value or 1.0 for value in np.atleast_1d(units.scale).tolist())
    )


def _measure(x0: Tensor, cond: Cond, robust: bool, axis: int | None, std: float) -> Units:
    """Of each variable the mean, or median, and its deviation over `std`. Raises UserError."""
    shift, deviation = moments(x0, cond, axis, robust=robust)
    for place, (mean, spread) in enumerate(zip(shift, deviation, strict=True)):
        if not spread + abs(mean) < LARGEST:
            where = "" if axis is None else f" in variable {place}"
            raise UserError(
                f"data of mean {mean:.3g} and deviation {spread:.3g}{where}: expected at most"
                f" {LARGEST:.0e}, choose other units"
            )
    scale = [spread / std for spread in deviation]
    if axis is None:
        return Units(shift[0], scale[0])
    return Units(tuple(shift), tuple(scale), axis=axis)


def moments(
    x0: Tensor, cond: Cond, axis: int | None, *, robust: bool = False
) -> tuple[list[float], list[float]]:
    """Of each variable its mean and deviation over x0 `[N, ...]`, without padding.

    robust: its median, and the deviation that the quartiles of a Gaussian would tell. Raises
    UserError for too many variables.
    """
    places = 1 if axis is None else x0.shape[axis + 1]
    if places > MOST_VARIABLES:
        raise UserError(
            f"{places} variables: expected at most {MOST_VARIABLES} with units of their own:"
            f" units = {WHOLE} gives all one shift and scale"
        )
    measure = _robust if robust else _moments
    pairs = [measure(_numbers(x0, cond, axis, place)) for place in range(places)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _numbers(x0: Tensor, cond: Cond, axis: int | None, place: int) -> np.ndarray:
    """All numbers of one variable, without padding."""
    mask = mask_of(x0, cond)
    values = x0 if axis is None else x0.select(axis + 1, place)
    if mask is None:
        return values.numpy()
    mask = mask.expand_as(x0)
    return values[mask if axis is None else mask.select(axis + 1, place)].numpy()


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and deviation; of a constant, itself and 0, without rounding."""
    if not values.size:
        return 0.0, 0.0
    first = float(values.flat[0])
    if (values == first).all():
        return first, 0.0
    with np.errstate(over="ignore"):
        return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))


def _robust(values: np.ndarray) -> tuple[float, float]:
    """The median, and the deviation that the quartiles of a Gaussian would tell.

    Where half the values are the same, the deviation itself.
    """
    mean, std = _moments(values)
    if std == 0:
        return mean, std
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float(middle), float(high - low) / 1.3489795 or std


def _of_range(x0: Tensor, bounds: tuple[float, float]) -> Units:
    low, high = bounds
    least, most = float(x0.min()), float(x0.max())
    fine = low <= least and most <= high
    require(
        fine, "units", f"{low:g}..{high:g}", f"a range of all values: they are {least:g}..{most:g}"
    )
    return Units((low + high) / 2, (high - low) / 2, clip=True)
