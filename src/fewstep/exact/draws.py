"""What is expected of a function of x_r given x_t, where both mix one x0 and one z: by exact draws
of x0 given x_t.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.base.conditions import Cond
from fewstep.base.errors import require
from fewstep.base.randomness import generator, rows
from fewstep.core.process import Time, per_row

_BLOCK = 16  # rows and draws that are made at once


class Expectation(NamedTuple):
    """A mean over draws and its standard error, like what the function gives for one."""

    mean: Tensor
    error: Tensor


def conditional_draws(seed: int, n: int, count: int, size: int) -> tuple[Tensor, Tensor]:
    """Uniforms `[n, count]` and unit normals `[n, count, size]`, float64: of a seed, a draw and a
    row alone.
    """

    def block(draws: int, number: int) -> Tensor:
        """`[rows, draws, 1 + size]` of so many of each."""
        source = generator(seed, f"posterior {draws}", number)
        u = torch.rand(_BLOCK, _BLOCK, 1, generator=source, dtype=torch.float64)
        return torch.cat(
            [u, torch.randn(_BLOCK, _BLOCK, size, generator=source, dtype=torch.float64)], 2
        )

    blocks = [
        rows(partial(block, draws), 0, max(count, 1), _BLOCK) for draws in range(-(-n // _BLOCK))
    ]
    drawn = torch.cat(blocks, 1)[:count, :n].transpose(0, 1)
    return drawn[:, :, 0].contiguous(), drawn[:, :, 1:]


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
    """E[f(x_r) | x_t], x_r = jump(x_t, x0, t, r) over n draws of x0 given x_t: what consistency
    training fits f to.

    Of f(x) = x it is jump(x_t, D(x_t, t), t, r), of variance (alpha_r - sigma_r alpha_t /
    sigma_t)^2 Cov[x0 | x_t].

    Args:
        f: `[M, *shape]` -> `[M, ...]`, called once with all n draws of all rows
        law: of this room
        x_t: `[B, *shape]`
        t: a number or `[B]`
        r: like t, below or above it
        n: draws, 2 or more; the error falls like 1 / sqrt(n)
        seed: of the draws
        cond: labels `[B]`
    """
    require(n > 1, "n", n, "2 or more draws, for an error")
    x0 = law.posterior(x_t, t, n, seed, cond)
    times = (per_row(time, x_t).repeat(n) for time in (t, r))
    x_r = law.process.jump(x_t.repeat(n, *[1] * (x_t.ndim - 1)), x0.flatten(0, 1), *times)
    values = f(x_r).unflatten(0, (n, len(x_t)))
    return Expectation(values.mean(0), values.std(0) / n**0.5)
