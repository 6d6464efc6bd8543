"""The moves along the ODE alone, and a solver that makes many of them along a grid of times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from fewstep.base.conditions import Cond
from fewstep.base.errors import require
from fewstep.core.denoiser import Denoiser, ask, in_shards
from fewstep.core.guidance import awake
from fewstep.core.process import Process, Time, expand, per_row


class Solver(Protocol):
    """A move from t to s along the trajectory that `denoiser` defines."""

    def __call__(
        self, process: Process, denoiser: Denoiser, x: Tensor, t: Time, s: Time, cond: Cond = None
    ) -> Tensor: ...


def move(x: Tensor, t: Tensor, s: Tensor, x_s: Tensor) -> Tensor:
    """x_s, and x itself in rows that do not move, whatever the network answers there."""
    return torch.where(expand(t == s, x).bool(), x, x_s)


def ddim(
    process: Process, denoiser: Denoiser, x: Tensor, t: Time, s: Time, cond: Cond = None
) -> Tensor:
    """x_s = jump(x, D(x, t)), exact for a constant x0_hat; first order (DDIM, arXiv 2010.02502)."""
    t, s = per_row(t, x), per_row(s, x)
    return process.jump(x, denoiser(x, t, cond), t, s)


def jump(
    process: Process, denoiser: Denoiser, x: Tensor, t: Time, s: Time, cond: Cond = None
) -> Tensor:
    """x_s = jump(x, D(x, t, to=s)): where a flow map leads; for others it is `ddim`."""
    t, s = per_row(t, x), per_row(s, x)
    return process.jump(x, ask(denoiser, x, t, cond, s), t, s)


def euler(
    process: Process, denoiser: Denoiser, x: Tensor, t: Time, s: Time, cond: Cond = None
) -> Tensor:
    """x_s = x + (s - t) v(x, t): first order."""
    t, s = per_row(t, x), per_row(s, x)
    return move(x, t, s, x + expand(s - t, x) * process.velocity(x, denoiser(x, t, cond), t))


def heun(
    process: Process,
    denoiser: Denoiser,
    x: Tensor,
    t: Time,
    s: Time,
    cond: Cond = None,
    *,
    alpha: float = 1.0,
) -> Tensor:
    """Second order: x_s = x + h ((1 - 1/(2 alpha)) v(x, t) + 1/(2 alpha) v(x', t')), h = s - t.

    x' = x + alpha h v, t' = t + alpha h; alpha = 1 is Heun's method, 2/3 Ralston's, 1/2 the
    midpoint. Rows that end at the data, s = 0, take Euler's move: K moves to the data are 2K - 1
    evaluations. Source: EDM, arXiv 2206.00364, algorithm 3.
    """
    t, s = per_row(t, x), per_row(s, x)
    step = s - t
    last = s == 0
    v = process.velocity(x, denoiser(x, t, cond), t)
    straight = x + expand(step, x) * v
    if bool(last.all()) and not in_shards(denoiser):
        return move(x, t, s, straight)
    # Rows in their last move ask where they stand.
    half_t = torch.where(last, t, t + alpha * step)
    half_x = x + expand(half_t - t, x) * v
    slope = process.velocity(half_x, denoiser(half_x, half_t, cond), half_t)
    share = 1 / (2 * alpha)
    bent = x + expand(step, x) * ((1 - share) * v + share * slope)
    return move(x, t, s, torch.where(expand(last, x).bool(), straight, bent))


@dataclass(frozen=True)
class Along:
    """A solver that moves from t to s by way of the grid's times between them, row by row.

    grid: decreasing times. Only rows that move between two grid points are evaluated; the others
    stay where they are and cost nothing.
    """

    solver: Callable[..., Tensor]
    grid: tuple[float, ...]
    counts_rows = True

    def __call__(
        self,
        process: Process,
        denoiser: Denoiser,
        x: Tensor,
        t: Time,
        s: Time,
        cond: Cond = None,
        **options: Any,
    ) -> Tensor:
        last = x
        for _, last in self.points(process, denoiser, x, t, s, cond, **options):  # noqa: B007
            pass
        return last

    def points(
        self,
        process: Process,
        denoiser: Denoiser,
        x: Tensor,
        t: Time,
        s: Time,
        cond: Cond = None,
        **options: Any,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The times `[B]` and points on the way, the start first; outside t .. s a row rests."""
        now, end = per_row(t, x), per_row(s, x)
        yield now, x
        for stop in (*self.grid, 0.0):
            after = torch.maximum(now.clamp(max=stop), end)
            moves = after < now
            if bool(moves.any()):
                x = self.solver(process, awake(denoiser, moves), x, now, after, cond, **options)
                yield after, x
            now = after


def along(solver: Callable[..., Tensor], grid: Sequence[float] | Tensor) -> Along:
    """The solver along a grid of decreasing times: a row moves from grid point to grid point."""
    times = tuple(float(t) for t in grid)
    require(all(a > b for a, b in pairwise(times)), "grid", times, "decreasing times")
    return Along(solver, times)
