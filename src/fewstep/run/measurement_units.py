"""A measurement of the user's numbers as one of the model's, and what both take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fewstep.base.conditions import tensor
from fewstep.base.errors import UserError, require
from fewstep.base.randomness import generator
from fewstep.core.measurements import Measurement, matrix
from fewstep.data import Units

MOST = 2048  # numbers of a sample whose measurement becomes a matrix
_EXACT = 2**24  # whole numbers up to here are exact in float32
_TOLERANCE = 1e-6


def check_values(
    y: Tensor, measurement: Measurement, shape: Sequence[int], n: int
) -> tuple[Tensor, bool]:
    """The values `[1 or n, ...]` as floats, and whether they are one for all samples.

    Raises UserError where they are not what the measurement gives of samples of that shape.
    """
    entries = measurement.entries
    if entries is not None:
        fits = entries.ndim <= len(shape) and all(
            size in (1, side) for size, side in zip(entries.shape[::-1], shape[::-1], strict=False)
        )
        require(fits, "mask of shape", tuple(entries.shape), f"the shape of a sample, {shape}")
    measurement.check(shape)
    expected = tuple(measurement.forward(torch.zeros(1, *shape)).shape[1:])
    y = tensor("y", y)
    if tuple(y.shape) == expected:
        y = y[None]
    fits = tuple(y.shape) in ((1, *expected), (n, *expected))
    require(fits, "y of shape", tuple(y.shape), f"{expected}, what is measured, or {n} of these")
    if not y.is_floating_point():
        y = y.to(torch.float64 if bool((y.abs() > _EXACT).any()) else torch.float32)
    values = y if entries is None else torch.where(entries, y, 0)
    if not bool(values.isfinite().all()):
        raise UserError("y holds NaN or infinity where it is measured: expected finite numbers")
    return y, len(y) == 1


def in_model_units(
    measurement: Measurement, y: Tensor, units: Units, shape: tuple[int, ...]
) -> tuple[Measurement, Tensor]:
    """The measurement of x0 in the model's units, and its values (float32).

    With x = shift + scale x0 it is A scale, whose pseudo-inverse is A^+ over the scale where
    variables that are measured together have one scale; else it is computed. Raises UserError
    where units are no shift and scale, or a sample has too many numbers for that.
    """
    origin = torch.zeros(1, *shape)
    if measurement.entries is not None:
        fill = units.to_user(origin).to(y.dtype)
        return measurement, units.to_model(torch.where(measurement.entries, y, fill))
    need = "a mask alone: by quantiles, the user's numbers are no linear map of the model's"
    require(not units.quantiles, "measurement", "a linear map", need)
    shift = replace(units, clip=False).to_user(origin).double()
    y = (y.double() - measurement.forward(shift)).float()
    scale = units.scales(shape)
    inverse = torch.where(scale == 0, 0.0, 1 / torch.where(scale == 0, 1.0, scale))
    inner = Measurement(
        lambda x: measurement.forward(x * scale.to(x)),
        lambda y: measurement.pinverse(y).reshape(-1, *shape) * inverse.to(y),
    )
    if _is_pseudo_inverse(inner, shape):
        return inner, y
    size = math.prod(shape)
    need = f"at most {MOST} where variables of different units are measured together"
    require(size <= MOST, "numbers of a sample", size, need)
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    return matrix(inner.forward(basis).flatten(1).T), y.flatten(1)


def _is_pseudo_inverse(measurement: Measurement, shape: Sequence[int]) -> bool:
    """Whether A A^+ A = A and A^+ A is symmetric, on random samples."""
    source = generator(0, "measurement")
    x = torch.randn(2, *shape, generator=source, dtype=torch.float64)
    y = measurement.forward(x)
    inside = measurement.pinverse(y).reshape(x.shape)
    again = measurement.forward(inside)
    skew = (x[0] * inside[1]).sum() - (x[1] * inside[0]).sum()
    room = _TOLERANCE * float(y.abs().max())
    return float((again - y).abs().max()) <= room and float(skew.abs()) <= _TOLERANCE * x.numel()
