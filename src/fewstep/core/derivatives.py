"""Derivatives of a network along a direction, by two engines; a trial chooses between them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn

from fewstep.base.randomness import generator
from fewstep.core.denoiser import Denoiser, passes_in

Engine = Literal["auto", "jvp", "difference"]
Curve = Callable[[Tensor, Tensor], Tensor]  # (x, t) -> like x
# f, the x and t where it is derived, and the direction dx, dt.
Line = tuple[Curve, Tensor, Tensor, Tensor, Tensor]

# The largest relative error of a jvp that is trusted: one that misses a branch is off by more.
AGREE = 1e-3
# From which relative difference on two truths say nothing.
UNLIKE = 0.3


def jvp(f: Curve, x: Tensor, t: Tensor, dx: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """f(x, t) and its derivative along (dx, dt), by forward-mode differentiation."""
    # It takes no expanded times.
    x, t, dx, dt = (part.contiguous() for part in (x, t, dx, dt))
    pair: tuple[Tensor, Tensor] = torch.func.jvp(f, (x, t), (dx, dt))  # type: ignore[assignment]
    return pair


def difference(
    f: Curve, x: Tensor, t: Tensor, dx: Tensor, dt: Tensor, step: float, at_once: bool = False
) -> tuple[Tensor, Tensor]:
    """f(x, t) and its derivative along (dx, dt) as (f(+ step) +- f(- step)) over 2 and 2 step.

    The errors of both are O(step^2). Without autocast: differences of bfloat16 numbers have no
    digits left.
    at_once: f takes both sides as one batch, one after the other.
    """
    sides = [(x + h * dx, t + h * dt) for h in (step, -step)]
    with passes_in(None):
        if at_once:
            above, below = f(*map(torch.cat, zip(*sides, strict=True))).chunk(2)
        else:
            above, below = (f(*side) for side in sides)
    return (above + below) / 2, (above - below) / (2 * step)


def extrapolate(line: Line, step: float) -> Tensor:
    """The derivative by differences of the step and half of it, whose error is O(step^4)."""
    coarse, fine = (difference(*line, h)[1] for h in (step, step / 2))
    return (4 * fine - coarse) / 3


def step_of(*dtypes: torch.dtype) -> float:
    """The cube root of the coarsest dtype's eps, 5e-3 in float32.

    There the rounding eps / h is about the truncation h^2.
    """
    return float(max(torch.finfo(dtype).eps for dtype in dtypes) ** (1 / 3))


def precision(denoiser: Denoiser, x: Tensor) -> tuple[torch.dtype, ...]:
    """The dtypes that a pass goes through: x's and the network's."""
    weights = denoiser.parameters() if isinstance(denoiser, nn.Module) else ()
    return x.dtype, *(p.dtype for p in weights if p.is_floating_point())


def perturb(denoiser: Denoiser, dtype: torch.dtype) -> Denoiser:
    """A copy of a module in that dtype, its weights moved by a tenth of their usual initial size.

    A network that starts with zeros is flat, and any derivative of it would seem right. A function
    stays as it is.
    """
    if not isinstance(denoiser, nn.Module):
        return denoiser
    module = copy.deepcopy(denoiser).requires_grad_(False).eval().to(dtype)
    source = generator(0, "shaken")
    for p in module.parameters():
        size = 0.1 / math.sqrt(p[0].numel() if p.ndim > 1 else 1)
        p.data += (torch.randn(p.shape, generator=source) * size).to(p)
    return module


def relative(x: Tensor, truth: Tensor) -> float:
    """||x - truth|| / ||truth|| over all rows; 0 where both are 0."""
    error = (x.cpu() - truth.cpu()).double().norm().item()
    size = truth.double().norm().item()
    if size:
        return error / size
    return math.inf if error else 0.0


def describe(error: Exception) -> str:
    """An error's type and first line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def choose(
    line: Callable[[torch.dtype], Line],
    dtypes: Sequence[torch.dtype],
    prefer: Engine = "jvp",
) -> tuple[Engine, str] | None:
    """The engine for a line and why: the preferred one where it is right, else the other.

    line: the same problem in each of the dtypes, the best one first; a network may take only its
    own, the last, in which differences would be taken. Right is what is within AGREE of
    extrapolated differences. Where these do not agree with each other in any steps, as in a network
    of bfloat16, they say nothing of a jvp, which is taken. None where not even differences can be
    taken: the first step will show why.
    """
    for dtype in dict.fromkeys(dtypes):
        try:
            problem = line(dtype)
            # Also with float32's step, since parts may be float32 all the same, and between them.
            ends = step_of(dtype), step_of(torch.float32)
            steps = dict.fromkeys((ends[0], math.sqrt(ends[0] * ends[1]), ends[1]))
            truths = [extrapolate(problem, step) for step in steps]
            break
        except Exception:  # of whatever kind
            continue
    else:
        return None
    where = f"on {len(problem[1])} rows in {str(dtype).removeprefix('torch.')}"
    own = relative(difference(*line(dtypes[-1]), step_of(dtypes[-1]))[1], truths[0])
    by_difference = f"derivative: difference, of error {own:.1e} {where}"
    if prefer == "difference" and own <= AGREE:
        return "difference", by_difference
    try:
        error = min(relative(jvp(*problem)[1], truth) for truth in truths)
        if error <= AGREE:
            return "jvp", f"derivative: jvp, {error:.1e} from finite differences {where}"
        pairs = [relative(*pair) for pair in combinations(truths, 2)]
        if pairs and min(pairs) > UNLIKE:
            return "jvp", f"derivative: jvp, unchecked: differences have no digits {where}"
        why = f"jvp is {error:.1e} from finite differences {where}"
    except Exception as failure:
        why = f"jvp fails with {describe(failure)}"
    return "difference", f"{by_difference}, since {why}"
