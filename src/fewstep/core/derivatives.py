"""Derivatives of a network along a direction, by two engines, and the choice between them by trial."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fewstep.base.randomness import generator
from fewstep.core.denoiser import Denoiser, passes_in

Engine = Literal["auto", "jvp", "difference"]
Curve = Callable[[Tensor, Tensor], Tensor]  # (x, t) -> like x
Line = tuple[
    Curve, Tensor, Tensor, Tensor, Tensor
]  # f, and the x, t, dx, dt where and along which it is derived

# relative error from which on a jvp is not believed: where it misses a branch it is off by more
AGREE = 1e-2


def jvp(f: Curve, x: Tensor, t: Tensor, dx: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """f(x, t) and its derivative along (dx, dt), by forward-mode differentiation."""
    x, t, dx, dt = (part.contiguous() for part in (x, t, dx, dt))  # it takes no expanded times
    found: tuple[Tensor, Tensor] = torch.func.jvp(f, (x, t), (dx, dt))  # type: ignore[assignment]
    return found


def difference(
    f: Curve, x: Tensor, t: Tensor, dx: Tensor, dt: Tensor, step: float
) -> tuple[Tensor, Tensor]:
    """f(x, t) and its derivative along (dx, dt) as (f(+ step) - f(- step)) / (2 step), of error
    O(step^2).

    Outside of autocast: differences of bfloat16 numbers have no digits left.
    """
    with passes_in(None):
        below, above = (f(x + h * dx, t + h * dt) for h in (-step, step))
        return f(x, t), (above - below) / (2 * step)


def step_of(*dtypes: torch.dtype) -> float:
    """The cube root of the coarsest dtype's eps, where rounding eps/h is about the truncation h^2:
    5e-3 in float32.
    """
    return float(max(torch.finfo(dtype).eps for dtype in dtypes) ** (1 / 3))


def precision(denoiser: Denoiser, x: Tensor) -> tuple[torch.dtype, ...]:
    """The dtypes that a pass goes through: x's and the network's."""
    weights = denoiser.parameters() if isinstance(denoiser, nn.Module) else ()
    return x.dtype, *(p.dtype for p in weights if p.is_floating_point())


def shaken(denoiser: Denoiser, dtype: torch.dtype) -> Denoiser:
    """A copy in that dtype whose weights are moved by a tenth of what they would be drawn with; a
    function as it is.

    A network that starts with zeros is flat, and any derivative of it would seem right.
    """
    if not isinstance(denoiser, nn.Module):
        return denoiser
    made, source = (
        copy.deepcopy(denoiser).requires_grad_(False).eval().to(dtype),
        generator(0, "shaken"),
    )
    for p in made.parameters():
        noise = torch.randn(p.shape, generator=source) * (
            0.1 / math.sqrt(p[0].numel() if p.ndim > 1 else 1)
        )
        p.data += noise.to(p)
    return made


def relative(found: Tensor, truth: Tensor) -> float:
    """||found - truth|| / ||truth|| over all rows; 0 where both are 0."""
    off, size = ((part.double()).norm().item() for part in (found.cpu() - truth.cpu(), truth))
    return off / size if size else math.inf if off else 0.0


def told(error: Exception) -> str:
    """An error's type and first line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def choose(
    line: Callable[[torch.dtype], Line], dtypes: Sequence[torch.dtype]
) -> tuple[Engine, str] | None:
    """The engine for a line and why: jvp where it runs and agrees with differences, else
    differences.

    line: the same problem in each of the dtypes, the best one first; a network may know its own
    alone, the last.
    None where not even differences can be taken: the first step will tell why.
    """
    for dtype in dict.fromkeys(dtypes):
        try:
            given, steps = (
                line(dtype),
                (step_of(dtype), step_of(torch.float32)),
            )  # parts may be float32 all the same
            truths = [difference(*given, step)[1] for step in steps]
            break
        except Exception:  # of whatever kind
            continue
    else:
        return None
    where = f"on {len(given[1])} rows in {str(dtype).removeprefix('torch.')}"
    try:
        off = min(relative(jvp(*given)[1], truth) for truth in truths)
        if off <= AGREE:
            return "jvp", f"derivative: jvp, {off:.1e} from finite differences {where}"
        why = f"jvp is {off:.1e} from finite differences {where}"
    except Exception as error:
        why = f"jvp fails with {told(error)}"
    off = relative(difference(*line(dtypes[-1]), step_of(dtypes[-1]))[1], truths[0])
    return "difference", f"derivative: difference, of error {off:.1e} {where}, since {why}"
