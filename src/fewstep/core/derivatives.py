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
from fewstep.base.surroundings import tf32
from fewstep.core.denoiser import Denoiser, passes_in
from fewstep.core.process import expand

Engine = Literal["auto", "jvp", "difference"]
Curve = Callable[[Tensor, Tensor], Tensor]  # (x, t) -> like x
# f, the x and t where it is derived, and the direction dx, dt.
Line = tuple[Curve, Tensor, Tensor, Tensor, Tensor]

# The largest relative error of a derivative that is trusted, over all rows and of the worst: a jvp
# that misses a branch is off by more.
AGREE, WORST = 1e-3, 1e-2
# From which relative difference on two truths say nothing.
UNLIKE = 0.3


def jvp(f: Curve, x: Tensor, t: Tensor, dx: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """f(x, t) and its derivative along (dx, dt), by forward-mode differentiation."""
    # It takes no expanded times.
    x, t, dx, dt = (part.contiguous() for part in (x, t, dx, dt))
    pair: tuple[Tensor, Tensor] = torch.func.jvp(f, (x, t), (dx, dt))  # type: ignore[assignment]
    return pair


def difference(
    f: Curve,
    x: Tensor,
    t: Tensor,
    dx: Tensor,
    dt: Tensor,
    step: float,
    end: float = math.inf,
    at_once: bool = False,
) -> tuple[Tensor, Tensor]:
    """f(x, t) and its derivative along (dx, dt), dt >= 0, by the two sides of a step.

    The mean and (f(+ step) - f(- step)) / (2 step), whose errors are O(step^2). Without autocast
    and TF32: differences of such numbers have no digits left.
    end: of the time, which no side passes: next to it steps are as short as what is left of it,
    down to a fifth of their length, and in the last fifth they are taken a little before t.
    at_once: f takes both sides as one batch, one after the other.
    """
    half = step * dt
    room = torch.maximum((end - t).clamp_min(0.0), half / 5)
    share = torch.where(half > room, room / half, 1.0)
    back = torch.where(half > room, ((t + room - end) / half).clamp_min(0.0), 0.0)
    middle = -step * back
    sides = [middle + h * share for h in (step, -step)]
    pairs = [(x + expand(h, x) * dx, t + h * dt) for h in sides]
    with tf32(False), passes_in(None):
        if at_once:
            above, below = f(*map(torch.cat, zip(*pairs, strict=True))).chunk(2)
        else:
            above, below = (f(*pair) for pair in pairs)
    slope = (above - below) / expand(2 * step * share, x)
    return (above + below) / 2, slope


def extrapolate(line: Line, step: float, end: float = math.inf) -> Tensor:
    """The derivative by differences of the step and half of it, whose error is O(step^4)."""
    coarse, fine = (difference(*line, h, end)[1] for h in (step, step / 2))
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


def worst(x: Tensor, truth: Tensor) -> float:
    """The largest ||x_i - truth_i|| of a row over its size, or over a usual row's if that is more.

    A truth of a row is small where hardly anything changes.
    """
    error = (x.cpu() - truth.cpu()).double().flatten(1).norm(dim=1)
    size = truth.double().cpu().flatten(1).norm(dim=1)
    ratio = error / torch.maximum(size, size.median())
    return float(torch.where(error == 0, 0.0, ratio).nan_to_num(math.inf).max())


def is_right(x: Tensor, truth: Tensor) -> bool:
    """Whether a derivative is within AGREE of the truth, and every row within WORST."""
    return relative(x, truth) <= AGREE and worst(x, truth) <= WORST


def describe(error: Exception) -> str:
    """An error's type and first line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def choose(
    line: Callable[[torch.dtype], Line],
    dtypes: Sequence[torch.dtype],
    own: Callable[[Line], Tensor],
    end: float = math.inf,
    prefer: Engine = "jvp",
) -> tuple[Engine, str] | None:
    """The engine for a line and why: the preferred one where it is right, else the other.

    line: the same problem in each of the dtypes, the best one first; a network may take only its
    own, the last, in which differences would be taken by `own`. Right is what is within AGREE, and
    in every row within WORST, of extrapolated differences. Where these are not finite or do not
    agree with each other in any steps, as in a network of bfloat16, they say nothing of a jvp,
    which is taken. None where not even differences can be taken: the first step will show why.
    """
    for dtype in dict.fromkeys(dtypes):
        try:
            problem = line(dtype)
            # Also with float32's step, since parts may be float32 all the same, and between them.
            ends = step_of(dtype), step_of(torch.float32)
            steps = dict.fromkeys((ends[0], math.sqrt(ends[0] * ends[1]), ends[1]))
            truths = [extrapolate(problem, step, end) for step in steps]
            by_difference = own(line(dtypes[-1]))
            break
        except Exception:  # of whatever kind
            continue
    else:
        return None
    where = f"on {len(problem[1])} rows in {str(dtype).removeprefix('torch.')}"
    truths = [truth for truth in truths if bool(truth.isfinite().all())]
    on_trust = f"derivative: jvp, unchecked: differences have no digits {where}"
    if not truths:
        return "jvp", on_trust
    error = relative(by_difference, truths[0])
    result = f"derivative: difference, of error {error:.1e} {where}"
    if prefer == "difference" and is_right(by_difference, truths[0]):
        return "difference", result
    try:
        slope = jvp(*problem)[1]
        error = min(relative(slope, truth) for truth in truths)
        if any(is_right(slope, truth) for truth in truths):
            return "jvp", f"derivative: jvp, {error:.1e} from finite differences {where}"
        pairs = [relative(*pair) for pair in combinations(truths, 2)]
        if pairs and min(pairs) > UNLIKE:
            return "jvp", on_trust
        why = f"jvp is {error:.1e} from finite differences {where}"
    except Exception as failure:
        why = f"jvp fails with {describe(failure)}"
    return "difference", f"{result}, since {why}"
