"""Squared maximum mean discrepancies of two sets, without pairs of a sample with itself.

Unbiased, so they can fall below 0 where the sets agree.
Source: Gretton et al., "A kernel two-sample test", 2012.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fewstep.base.errors import require
from fewstep.base.randomness import permutation
from fewstep.statistics.distances import ROWS, flat, reduce_distances
from fewstep.statistics.sets import of_sets

Kernel = Callable[[Tensor, Tensor], Tensor]  # rows [A, F] and [B, F] -> [A, B]

_MEDIAN_ROWS = 1000


def cubic(a: Tensor, b: Tensor) -> Tensor:
    """k(a, b) = (a.b / F + 1)^3, the kernel of KID. Source: Binkowski et al., arXiv 1801.01401."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def gaussian(bandwidth: float) -> Kernel:
    """k(a, b) = exp(-|a - b|^2 / (2 bandwidth^2))."""
    require(
        bandwidth > 0,
        "bandwidth",
        bandwidth,
        "a positive number; the median distance is 0 where half the set is one point",
    )

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        distances = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        return torch.exp(distances.square() / (-2 * bandwidth**2))

    return kernel


def within(x: Tensor, kernel: Kernel) -> float:
    """E k(x, x') over pairs of different samples of x `[N, ...]`, N >= 2."""
    x = flat(x)
    total = 0.0
    for first, part in zip(range(0, len(x), ROWS), x.split(ROWS), strict=True):
        block = kernel(part, x)
        total += (block.sum() - block[:, first : first + len(part)].diagonal().sum()).item()
    return total / (len(x) * (len(x) - 1))


@of_sets()
def mmd2(x: Tensor, y: Tensor, kernel: Kernel, within_y: float | None = None) -> float:
    """E k(x, x') + E k(y, y') - 2 E k(x, y). `within_y`: the second term, if known."""
    flat_y = flat(y)
    total = sum(kernel(part, flat_y).sum().item() for part in flat(x).split(ROWS))
    between = total / (len(x) * len(y))
    if within_y is None:
        within_y = within(y, kernel)
    return within(x, kernel) + within_y - 2 * between


@of_sets()
def kid(x: Tensor, y: Tensor, within_y: float | None = None) -> float:
    """Kernel inception distance of features `[N, F]`: `mmd2` with the cubic kernel, all pairs."""
    return mmd2(x, y, cubic, within_y)


@of_sets()
def kid_subsets(
    x: Tensor, y: Tensor, *, size: int = 1000, subsets: int = 100, seed: int = 0
) -> Tensor:
    """KID `[subsets]` of random subsets of `size` samples each, as it is usually published.

    Their mean is unbiased too. Their spread is no standard error: subsets share samples.
    """
    largest = min(len(x), len(y))
    require(2 <= size <= largest, "size", size, f"2 to {largest}, the smaller set")

    def subset(rows: Tensor, stream: str, number: int) -> Tensor:
        return rows[permutation(seed, stream, number, len(rows))[:size]]

    values = []
    for number in range(subsets):
        values.append(kid(subset(x, "kid x", number), subset(y, "kid y", number)))
    return torch.tensor(values, dtype=torch.float64)


def median_distance(x: Tensor) -> float:
    """The usual bandwidth: the median distance within x, of 1000 shuffled samples at most."""
    rows = x[permutation(0, "median distance", 0, len(x))[:_MEDIAN_ROWS]]
    distances = reduce_distances(rows, rows, lambda piece: piece).reshape(len(rows), len(rows))
    upper = torch.triu_indices(len(rows), len(rows), 1)
    return distances[upper[0], upper[1]].median().item()
