"""Draws of x0 given a linear measurement of it, with a generator that knows nothing of it.

A population of samples goes down a schedule of noise levels s. At level s its law is
p(x) exp(-d(x)^2 / 2 s^2), d the distance of x to the samples that agree with the measurement: as if
that were noisy. Two jumps to the data leave this law as it is, exactly for Gaussian p: noise is
added to all and the measured part put back, x_s = project(x + s z), then x' = f(f(x_s, s) + s z',
s), which is a draw of x0 given x_s. From one level to the next a sample counts by what the law
gains there, a function of d alone, and where few samples count for most, they are drawn anew. So
modes get their weights although no sample moves from one to another any more.

Source of the two alternating draws: split Gibbs sampling (Vono et al., IEEE TSP 2019); of the
weights: sequential Monte Carlo samplers (Del Moral et al., JRSS B 2006).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.base.conditions import Cond, apply_mask, pick
from fewstep.base.errors import require
from fewstep.core.denoiser import Denoiser
from fewstep.core.measurements import Measurement
from fewstep.core.process import Process, Time, expand, per_row

HIGHEST, LOWEST = 2.0, 0.04  # noise levels of an edit, in standard deviations of the data
FEW = 0.5  # samples are drawn anew where fewer than this share of them count


@dataclass(frozen=True)
class Population:
    """Samples x `[P, ...]`, their conditions, and their log-weights `[P]`."""

    x: Tensor
    cond: Cond
    log_weights: Tensor  # float64, on the host

    @property
    def count(self) -> float:
        """How many equally weighted samples the weights are worth: 1 / sum w^2."""
        return float(1 / self.log_weights.softmax(0).square().sum())

    def draw(self, n: int, offset: float) -> Population:
        """n of the samples by their weights, which become equal.

        Systematic: evenly spaced points of the weights' sum, from `offset` in [0, 1) on.
        """
        edges = self.log_weights.softmax(0).cumsum(0)
        points = (torch.arange(n, dtype=torch.float64) + offset) / n * edges[-1]
        index = torch.searchsorted(edges, points, right=True).clamp_max(len(edges) - 1)
        x = self.x[index.to(self.x.device)]
        return Population(x, pick(self.cond, index), torch.zeros(n, dtype=torch.float64))


def levels_of(count: int, std: float) -> list[float]:
    """So many noise levels, even in the logarithm from 2 to 0.04 deviations of the data."""
    require(count > 0, "levels", count, "at least 1")
    if count == 1:
        return [LOWEST * std]
    return [std * HIGHEST * (LOWEST / HIGHEST) ** (place / (count - 1)) for place in range(count)]


def edit(
    process: Process,
    denoiser: Denoiser,
    measurement: Measurement,
    y: Tensor,
    levels: Sequence[float],
    noise: Callable[[int], Tensor],
    offset: Callable[[int], float],
    cond: Cond = None,
) -> Population:
    """A population that agrees with y, by 1 + 2 len(levels) jumps.

    Args:
        process: of the denoiser
        denoiser: a jump from any time to the data: a consistency function, or `by_solver`
        measurement: in the model's units
        y: `[1, ...]`, its values
        levels: decreasing noise levels sigma / alpha
        noise: unit normals `[P, *shape]`, of the jump of that number
        offset: a number in [0, 1), of the draw at the level of that number
        cond: P rows; they stay with their samples when these are drawn anew
    """
    x = process.prior(noise(0))
    x = denoiser(x, per_row(process.t_max, x), cond)
    population = Population(x, cond, torch.zeros(len(x), dtype=torch.float64))
    precision = 0.0
    for place, level in enumerate(levels):
        population = weigh(population, measurement.distance(population.x, y), precision, level)
        precision = level**-2
        if population.count < FEW * len(x):
            population = population.draw(len(x), offset(place))
        x, cond = population.x, population.cond
        near = measurement.project(x + level * noise(2 * place + 1), y)
        x = jump(process, denoiser, apply_mask(near, cond), level, cond)
        x = jump(process, denoiser, x + level * noise(2 * place + 2), level, cond)
        population = Population(x, cond, population.log_weights)
    x = apply_mask(measurement.project(population.x, y), population.cond)
    return Population(x, population.cond, population.log_weights)


def weigh(population: Population, squares: Tensor, precision: float, level: float) -> Population:
    """Its weights times exp(-d^2 (1 / level^2 - precision) / 2) for the squared distances d^2."""
    gain = -0.5 * squares * (level**-2 - precision)
    return Population(population.x, population.cond, population.log_weights + gain)


def jump(process: Process, denoiser: Denoiser, x: Tensor, level: float, cond: Cond) -> Tensor:
    """x0 + level z -> x0: the denoiser's answer at the time of that level."""
    t = per_row(process.time_at(level), x)
    return denoiser(expand(process.alpha(t), x) * x, t, cond)


def by_solver(process: Process, denoiser: Denoiser, solver: Callable[..., Tensor]) -> Denoiser:
    """A jump to the data for a denoiser that cannot jump: along its trajectory, by the solver."""

    def jump_along(x_t: Tensor, t: Time, cond: Cond = None) -> Tensor:
        return solver(process, denoiser, x_t, t, 0.0, cond)

    return jump_along


def slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """The way from a to b `[B, ...]` along a great circle, at each row's share `[B]` in [0, 1].

    (sin((1 - w) angle) a + sin(w angle) b) / sin(angle): of two independent unit normals about a
    unit normal for every share. Source: CM, arXiv 2303.01469, appendix D.
    """
    flat = [one.flatten(1).double() for one in (a, b)]
    cosine = (flat[0] * flat[1]).sum(1) / (flat[0].norm(dim=1) * flat[1].norm(dim=1))
    angle = cosine.clamp(-1, 1).acos()
    even = angle.sin() < 1e-6  # nearly the same direction: the straight way
    sine = torch.where(even, 1.0, angle.sin())
    first = torch.where(even, 1 - share, ((1 - share) * angle).sin() / sine)
    last = torch.where(even, share, (share * angle).sin() / sine)
    return expand(first, a) * a + expand(last, a) * b
