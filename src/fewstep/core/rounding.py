"""How much of the difference between neighbours is rounding, by the precision of the passes."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fewstep.base.conditions import Cond
from fewstep.core import abilities
from fewstep.core.denoiser import Denoiser, passes_in, quiet
from fewstep.core.distances import mse
from fewstep.core.method import Method
from fewstep.core.process import Process
from fewstep.core.times import Limit, Times


class Rounding(NamedTuple):
    """Mean squares per row `[B]` in float64: of D_t - D_r, and of its error in each precision."""

    gap: Tensor
    errors: list[Tensor]

    def ratios(self) -> list[float]:
        """rms of each error over that of the difference; NaN where it is not finite."""
        gap = self.gap.mean().clamp_min(1e-300)
        return [float((error.mean() / gap).sqrt()) for error in self.errors]


def compares(method: Method) -> bool:
    """Whether a method is trained on D(x_t, t) - D(x_r, r) at times a step apart: no flow map."""
    is_taught = method.target is not None and not abilities.at_anchor(method.times)
    return is_taught and not method.ends and not isinstance(method.times, Limit)


def ratio_without(method: Method) -> float:
    """Of a method that compares no neighbours: 0; infinite in the limit, since it is unknown."""
    return math.inf if isinstance(method.times, Limit) else 0.0


def rounding(
    denoiser: Denoiser,
    process: Process,
    x0: Tensor,
    z: Tensor,
    times: Times,
    cond: Cond,
    passes: Sequence[torch.dtype | None],
) -> Rounding:
    """The rounding of D(x_t, t) - D(x_r, r) where networks pass in each of the dtypes.

    x0, z `[B, ...]`; None is the network's own precision. The truth is the difference by a copy in
    float64; by the network's own precision where the copy cannot be asked, whose error is then NaN:
    not measured.
    Both points mix the same x0 and z, nothing is dropped.
    """
    own = _difference(denoiser, process, x0, z, times, cond)
    own_error = None
    try:
        truth = _difference(_wide(denoiser), process, x0.double(), z.double(), times, _wide(cond))
    except (RuntimeError, TypeError, ValueError, NotImplementedError):  # it takes float32 alone
        truth = own.double()
        own_error = truth.new_full((len(x0),), math.nan)
    errors = []
    for dtype in passes:
        if dtype is None and own_error is not None:
            errors.append(own_error)
            continue
        with passes_in(dtype):
            value = own if dtype is None else _difference(denoiser, process, x0, z, times, cond)
        errors.append(mse(value.double(), truth))
    return Rounding(mse(truth, torch.zeros_like(truth)), errors)


def _difference(
    denoiser: Denoiser, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
) -> Tensor:
    """D(x_t, t) - D(x_r, r) `[B, ...]`."""
    with torch.no_grad(), quiet(denoiser):
        upper, lower = (denoiser(process.mix(x0, z, s), s, cond) for s in (times.t, times.r))
    return upper - lower


def _wide(value: Any) -> Any:
    """A copy of a module, a tensor or a condition in float64."""
    if isinstance(value, nn.Module):
        return copy.deepcopy(value).requires_grad_(False).double()
    if isinstance(value, Mapping):
        return {name: _wide(part) for name, part in value.items()}
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.double()
    return value
