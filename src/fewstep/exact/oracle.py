"""The end of consistency training and distillation at N levels, on the line and without a network.

With f_0(x) = x at the lowest time, least squares gives each level from the one below, as in
`recursions` for one Gaussian: training f_t(y) = E[f_r(x_r) | x_t = y], distillation
f_t(y) = f_r(solver's move of y). For a mixture the first is an integral over x0's posterior, by
component, and the second a composition; the truth is the monotone rearrangement F_0^-1(F_T(x)). So
the part of a method's error that is its grid's, and not its network's or its training's, is known:
E f(x_r) is not f(E x_r), and training blurs the boundaries between modes by a width ~ N^-1/2.

Steps are intervals: N + 1 increasing times, the lowest where f is the identity, so a process with
alpha = 1 and sigma = 0 there or nearly so (edm from 0.002, linear from 0). Float64. A table of
training is exact on lines; at N = 30 half as many nodes move a mixture's `Oracle.error` by under
1e-3 of itself, twice as many by under 1e-4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.base.errors import require
from fewstep.core.solvers import euler
from fewstep.exact.line import Line, between, line
from fewstep.exact.recursions import Solver, Steps, increasing

# Standard deviations of the marginal that a table reaches; beyond them it is a line.
_OUT = 8.0
# Levels whose nodes are exact quantiles; between them nodes are interpolated: any dense ones do.
_SOLVED = 24
# Where neighbours are so uneven that a quartic's shares add up to more, it is not used.
_UNEVEN = 30.0
_APART = 1e-12  # least distance of two nodes, in units of the table's reach


@dataclass(frozen=True, eq=False)
class Oracle:
    """The map f(x, t_max) at a method's end, called with x `[n]`, and its errors.

    `edges` are the pieces of its quadratures: numbers q as in `Line`, dense where the flow's map is
    steep.
    """

    line: Line
    times: Tensor  # [N + 1], increasing
    map: Callable[[Tensor], Tensor]
    edges: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return self.map(x.double())

    def truth(self, x: Tensor) -> Tensor:
        """The flow's own map from the highest time to the lowest, like x `[n]`."""
        return self.line.flow(x, self.times[-1], self.times[0])

    def error(self) -> float:
        """Root mean square of f - truth under the marginal at the highest time."""
        q, mass = _normal(self.edges)
        away = self(self.line.quantile(q, self.times[-1])) - self.line.quantile(q, self.times[0])
        return math.sqrt(away.square() @ mass)

    def samples(self) -> tuple[Tensor, Tensor]:
        """One-step samples f(sigma(t_max) z) in order, and their masses: a quadrature over z."""
        sigma = self.line.process.sigma(self.times[-1])
        z, mass = _normal(self.line.quantile(self.edges, self.times[-1]) / sigma)
        values, order = self(sigma * z).sort()
        return values, mass[order]

    def w2(self) -> float:
        """Wasserstein-2 distance of one-step samples to the data, by quantiles."""
        values, mass = self.samples()
        below = mass.cumsum(0) - mass / 2
        above = mass.flip(0).cumsum(0).flip(0) - mass / 2
        side = torch.where(below < 0.5, 1.0, -1.0)
        q = side * torch.special.ndtri(torch.minimum(below, above))
        return math.sqrt((values - self.line.quantile(q, 0.0)).square() @ mass)

    @property
    def mean(self) -> float:
        """Of one-step samples."""
        values, mass = self.samples()
        return (values @ mass).item()

    @property
    def std(self) -> float:
        """Of one-step samples."""
        values, mass = self.samples()
        return math.sqrt((values - values @ mass).square() @ mass)


@dataclass(frozen=True, eq=False)
class Table:
    """A function by its values at increasing nodes `[M]`: monotone cubics, and lines outside.

    Slopes are those of the quartic through five neighbours, at most three times the flatter
    neighbouring difference (Fritsch & Carlson, SIAM J. Numer. Anal. 17, 1980). Next to the ends,
    and where the spacing is very uneven, they are Brodlie's weighted harmonic means (Fritsch &
    Butland, SIAM J. Sci. Stat. Comput. 5, 1984). Exact on lines.
    """

    nodes: Tensor
    starts: Tensor  # of each piece, the two outer lines included [M + 1]
    powers: tuple[Tensor, Tensor, Tensor, Tensor]  # of x - start, `[M + 1]` each

    @classmethod
    def of(cls, nodes: Tensor, values: Tensor) -> Table:
        h = nodes.diff()
        rises = values.diff() / h
        slopes = torch.cat([rises[:1], _slopes(nodes, values, rises), rises[-1:]])
        left, right = slopes[:-1], slopes[1:]
        line = torch.zeros(1, dtype=torch.float64)
        square = torch.cat([line, (3 * rises - 2 * left - right) / h, line])
        cube = torch.cat([line, (left + right - 2 * rises) / h.square(), line])
        # The line below the first node has that node's value and slope.
        starts, value, slope = (torch.cat([part[:1], part]) for part in (nodes, values, slopes))
        return cls(nodes, starts, (value, slope, square, cube))

    def __call__(self, x: Tensor) -> Tensor:
        piece = torch.searchsorted(self.nodes, x)
        away = x - self.starts[piece]
        value, slope, square, cube = (part[piece] for part in self.powers)
        return value + away * (slope + away * (square + away * cube))


def _slopes(x: Tensor, f: Tensor, rises: Tensor) -> Tensor:
    """At the inner nodes: the quartic's, limited to what is monotone, or Brodlie's."""
    # Brodlie's weighted harmonic mean of the differences on both sides.
    h = x.diff()
    d1, d2 = rises[:-1], rises[1:]
    same = d1 * d2 > 0
    d1, d2 = torch.where(same, d1, 1.0), torch.where(same, d2, 1.0)
    first = h[:-1] + 2 * h[1:]
    second = 2 * h[:-1] + h[1:]
    harmonic = (first + second) / (first / d1 + second / d2)

    # The quartic through five neighbours, as a weighted sum of four differences.
    others = [i for i in range(5) if i != 2]
    away = torch.stack([x[i : len(x) - 4 + i] for i in others]) - x[2:-2]  # [4, M - 4]
    rise = (torch.stack([f[i : len(f) - 4 + i] for i in others]) - f[2:-2]) / away
    shares = torch.stack(
        [_product(away[k] / (away[k] - away[j]) for k in range(4) if k != j) for j in range(4)]
    )
    quartic = (shares * rise).sum(0)
    most = 3 * torch.minimum(d1.abs(), d2.abs())[1:-1]
    limit = torch.where(quartic * d1[1:-1] > 0, quartic.abs().minimum(most), 0.0)
    monotone = limit * d1[1:-1].sign()

    inner = torch.where(shares.abs().sum(0) < _UNEVEN, monotone, harmonic[1:-1])
    return torch.where(same, torch.cat([harmonic[:1], inner, harmonic[-1:]]), 0.0)


def _product(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(parts)).prod(0)


def trained(law: Any, times: Steps, *, nodes: int = 800, points: int = 10) -> Oracle:
    """Consistency training: f_t(y) = E[f_r(x_r) | x_t = y].

    x_r = keep y + make x0 by `process.jump`. x0 given y is a mixture of Gaussians; each is
    integrated by Gauss and Hermite's rule. Source: CM, arXiv 2303.01469, eq. 10, at its fixed
    point.

    Args:
        law: one-dimensional, of this package
        times: increasing
        nodes: of the table, besides a quarter as many about each component
        points: of the quadrature over a component
    """
    one = line(law)
    steps = torch.tensor(increasing(times), dtype=torch.float64)
    q = _edges(one, steps, nodes)
    away, mass = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(points))
    table: Callable[[Tensor], Tensor] = lambda x: x  # noqa: E731
    for (r, t), x in zip(pairwise(steps), _nodes(one, steps, q)[1:], strict=True):
        apart = x.diff() > _APART * (x[-1] - x[0])
        x = x[torch.cat([torch.ones(1, dtype=torch.bool), apart])]
        table = Table.of(x, _mean_below(one, table, x, t, r, away, mass))
    return Oracle(one, steps, table, q)


def _mean_below(
    one: Line,
    below: Callable[[Tensor], Tensor],
    y: Tensor,
    t: Tensor,
    r: Tensor,
    away: Tensor,
    mass: Tensor,
) -> Tensor:
    """E[below(x_r) | x_t = y], `[M]`."""
    a, s = one.process.alpha(t), one.process.sigma(t)
    y = y[:, None]
    v = (a * one.stds).square() + s.square()
    shares = (one.weights.log() - v.log() / 2 - (y - a * one.means).square() / (2 * v)).softmax(1)
    mean = one.means + a * one.stds.square() / v * (y - a * one.means)
    width = one.stds * s / v.sqrt()
    x0 = mean[:, :, None] + width[:, None] * away
    one_and_none = torch.eye(2, dtype=torch.float64)
    keep, make = one.process.jump(one_and_none[0], one_and_none[1], t, r)
    values = below(keep * y[:, :, None] + make * x0)
    return ((values @ (mass / mass.sum())) * shares).sum(1)


def distilled(law: Any, times: Steps, solver: Solver = euler, *, nodes: int = 800) -> Oracle:
    """Consistency distillation: f_t(y) = f_r(solver's move of y with the exact denoiser).

    It is a composition and needs no table. solver: of `fewstep.solvers`. Source: CM,
    arXiv 2303.01469, algorithm 2, at its fixed point.
    """
    one = line(law)
    steps = torch.tensor(increasing(times), dtype=torch.float64)

    def compose(x: Tensor) -> Tensor:
        x = x[:, None]
        for t, r in pairwise(steps.flip(0).tolist()):
            x = solver(one.process, law, x, t, r)
        return x[:, 0]

    return Oracle(one, steps, compose, _edges(one, steps, nodes))


def _edges(one: Line, steps: Tensor, nodes: int) -> Tensor:
    """Even steps of q, and the q of points dense on the data: the map is steep between modes."""
    require(nodes >= 16, "nodes", nodes, "at least 16")
    even = torch.linspace(-_OUT, _OUT, nodes, dtype=torch.float64)
    near = one.score(one.scales(nodes // 4), steps[0])
    return torch.cat([even, near[near.abs() < _OUT]]).unique()


def _nodes(one: Line, steps: Tensor, q: Tensor) -> list[Tensor]:
    """Points `[M]` of each level that follow the flow: quantiles, or points between two levels'."""
    count = min(_SOLVED, len(steps))
    levels = torch.linspace(0, len(steps) - 1, count).round().long().tolist()
    exact = {i: one.quantile(q, steps[i]) for i in levels}
    result = [exact[0]]
    for low, high in pairwise(levels):
        shares = (steps[low + 1 : high + 1] - steps[low]) / (steps[high] - steps[low])
        result += [torch.lerp(exact[low], exact[high], share) for share in shares]
    return result


def _normal(edges: Tensor) -> tuple[Tensor, Tensor]:
    """Points and masses of a unit normal's quadrature over these pieces; the masses add up to 1."""
    z, lengths = between(edges)
    mass = lengths * torch.exp(-z.square() / 2)
    return z, mass / mass.sum()
