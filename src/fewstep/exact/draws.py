"""E[f(x_r) | x_t] by exact draws of x0 given x_t, where both points mix one x0 and one z.

Also the checks of what laws are called with: labels, and times of the process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.base.conditions import Cond
from fewstep.base.errors import UserError, require
from fewstep.base.randomness import generator, rows
from fewstep.core.process import Process, Time, per_row

_BLOCK = 16  # rows and draws of one block
_ROUNDING = 1e-6  # at an end of the process alpha and sigma may be this far below 0 (float32 times)


class Expectation(NamedTuple):
    """A mean over draws and its standard error, each like the function's value for one draw."""

    mean: Tensor
    error: Tensor


def check_labels(cond: Cond, classes: int, x_t: Tensor) -> Tensor | None:
    """Labels `[B]` or None; -1 is no label. Raises UserError on anything else."""
    if cond is None:
        return None
    if not isinstance(cond, Tensor) or cond.shape != x_t.shape[:1]:
        raise UserError(
            f"cond {getattr(cond, 'shape', cond)}: expected a label for each of the {len(x_t)} rows"
        )
    if cond.dtype == torch.bool or bool((cond != cond.round()).any()):
        raise UserError(f"cond of {cond.dtype}: expected labels, integers")
    if len(cond) and (int(cond.min()) < -1 or int(cond.max()) >= classes):
        need = f"0..{classes - 1}, or -1 for none"
        if not classes:
            need = "-1 only, this law has no classes"
        raise UserError(f"cond has labels {int(cond.min())}..{int(cond.max())}: expected {need}")
    return cond


def coefficients(process: Process, t: Time, x: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma `[B]` on the host. Raises UserError for times that are not on the process."""
    times = per_row(t, x)
    alpha, sigma = process.alpha(times), process.sigma(times)
    fine = (alpha > -_ROUNDING) & (sigma > -_ROUNDING)
    fine = fine & torch.isfinite(alpha) & torch.isfinite(sigma)
    if not bool(fine.all()):
        wrong = float(times.detach()[~fine][0])
        raise UserError(
            f"t = {wrong:g}: expected times of the process, from 0, where alpha and sigma are at"
            " least 0"
        )
    return alpha, sigma


def conditional_draws(seed: int, n: int, count: int, size: int) -> tuple[Tensor, Tensor]:
    """Uniforms `[n, count]` and unit normals `[n, count, size]`, float64.

    Each depends on the seed, the draw and the row alone.
    """

    def block(draws: int, number: int) -> Tensor:
        """`[rows, draws, 1 + size]` of so many of each."""
        source = generator(seed, f"posterior {draws}", number)
        u = torch.rand(_BLOCK, _BLOCK, 1, generator=source, dtype=torch.float64)
        z = torch.randn(_BLOCK, _BLOCK, size, generator=source, dtype=torch.float64)
        return torch.cat([u, z], 2)

    numbers = range(-(-n // _BLOCK))
    blocks = [rows(partial(block, draws), 0, max(count, 1), _BLOCK) for draws in numbers]
    draws = torch.cat(blocks, 1)[:count, :n].transpose(0, 1)
    return draws[:, :, 0].contiguous(), draws[:, :, 1:]


@torch.no_grad()
def expectation(
    f: Callable[[Tensor], Tensor],
    law: Any,
    x_t: Tensor,
    t: Time,
    r: Time = 0.0,
    *,
    n: int = 256,
    seed: int = 0,
    cond: Cond = None,
) -> Expectation:
    """E[f(x_r) | x_t], x_r = jump(x_t, x0, t, r), over n draws of x0 given x_t.

    Consistency training fits f to it. Of f(x) = x it is jump(x_t, D(x_t, t), t, r), of variance
    (alpha_r - sigma_r alpha_t / sigma_t)^2 Cov[x0 | x_t].

    Args:
        f: `[M, *shape]` -> `[M, ...]`, called once with all n draws of all rows
        law: of this package
        x_t: `[B, *shape]`
        t: a number or `[B]`
        r: like t, below or above it
        n: draws, 2 or more; the error falls like 1 / sqrt(n)
        seed: of the draws
        cond: labels `[B]`
    """
    require(n > 1, "n", n, "2 or more draws, for an error")
    x0 = law.posterior(x_t, t, n, seed, cond)
    times = [per_row(time, x_t).repeat(n) for time in (t, r)]
    copies = x_t.repeat(n, *[1] * (x_t.ndim - 1))
    x_r = law.process.jump(copies, x0.flatten(0, 1), *times)
    values = f(x_r).unflatten(0, (n, len(x_t)))
    return Expectation(values.mean(0), values.std(0) / n**0.5)
