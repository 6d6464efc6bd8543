"""Wasserstein-2 distances of two sets, `[N, ...]` each, as lengths."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fewstep.base.errors import UserError, require
from fewstep.base.randomness import generator
from fewstep.statistics.distances import flat, reduce_distances
from fewstep.statistics.sets import of_sets

MOST = 5000  # samples of an exact W2: its cost matrix takes 200 MB, its solution half a minute

_AT_ONCE = 32  # projections


def directions(size: int, count: int, seed: int) -> Tensor:
    """`count` unit vectors `[size, count]`, uniform on the sphere, the same for the same seed."""
    normals = torch.randn(count, size, generator=generator(seed, "sliced w2"), dtype=torch.float64)
    return (normals / normals.norm(dim=1, keepdim=True)).T


@of_sets(least=1)
def sliced_w2(x: Tensor, y: Tensor, *, projections: int = 128, seed: int = 0) -> float:
    """Root of the mean over directions of W2^2 of the projections, each exact.

    The sets may differ in size. Biased upwards, so compare only values at equal N.
    Source: Bonneel et al., "Sliced and Radon Wasserstein barycenters", 2015.
    """
    require(projections >= 1, "projections", projections, "1 or more")
    x, y = flat(x), flat(y)
    total = 0.0
    for part in directions(x.shape[1], projections, seed).split(_AT_ONCE, 1):
        total += _squared_w2((x @ part).T, (y @ part).T).sum().item()
    return math.sqrt(total / projections)


def _squared_w2(x: Tensor, y: Tensor) -> Tensor:
    """W2^2 `[K]` of numbers `[K, N]` and `[K, M]`: int (q_x(u) - q_y(u))^2 du of the quantiles."""
    n, m = x.shape[1], y.shape[1]
    # The places u where a quantile function jumps, times n m.
    steps = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
    lengths = torch.diff(steps, prepend=torch.zeros(1, dtype=torch.long)).double() / (n * m)
    quantiles_x = x.sort(1).values[:, (steps - 1) // m]
    quantiles_y = y.sort(1).values[:, (steps - 1) // n]
    return (quantiles_x - quantiles_y).square() @ lengths


@of_sets(least=1)
def w2(x: Tensor, y: Tensor) -> float:
    """Exact W2 of two sets of one size, by the best assignment; scipy is imported here.

    Biased upwards, so compare only values at equal N. Raises UserError beyond 5000 samples.
    """
    if len(x) != len(y) or len(x) > MOST:
        raise UserError(
            f"w2 of {len(x)} and {len(y)} samples: expected equally many, {MOST} at most; sliced_w2"
            " takes any"
        )
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise UserError("w2 needs scipy: pip install 'fewstep[metrics]'") from None
    cost = reduce_distances(x, y, torch.square).reshape(len(x), len(y)).numpy()
    rows, columns = linear_sum_assignment(cost)
    return math.sqrt(float(cost[rows, columns].mean()))
