"""Fidelity and coverage by nearest neighbours: a set's manifold is the union of balls around its
samples.

The ball of a sample reaches to its k-th nearest other sample of the same set. All numbers depend
on the sizes of both sets, so compare only values at equal N. x is generated, y is real, `[N, ...]`
each.
"""

from __future__ import annotations

from torch import Tensor

from fewstep.base.errors import require
from fewstep.statistics.distances import reduce_distances
from fewstep.statistics.sets import of_sets


def radii(x: Tensor, k: int) -> Tensor:
    """Distances `[N]` of each sample to its k-th nearest other one."""
    require(1 <= k < len(x), "k", k, f"1 to {len(x) - 1}, for there are {len(x)} samples")
    # The nearest is the sample itself.
    return reduce_distances(x, x, lambda piece: piece.kthvalue(k + 1, dim=1).values)


def precision(x: Tensor, y: Tensor, radii_y: Tensor) -> float:
    """Share of x within any ball of y. Source: Kynkaanniemi et al., arXiv 1904.06991."""
    inside = reduce_distances(x, y, lambda piece: (piece <= radii_y).any(1))
    return inside.double().mean().item()


def recall(x: Tensor, y: Tensor, radii_x: Tensor) -> float:
    """Share of y within any ball of x: `precision` the other way round."""
    return precision(y, x, radii_x)


def density(x: Tensor, y: Tensor, radii_y: Tensor, k: int) -> float:
    """Number of balls of y that hold a sample of x, over k: may exceed 1.

    Source: Naeem et al., arXiv 2002.09797.
    """
    balls = reduce_distances(x, y, lambda piece: (piece <= radii_y).sum(1))
    return balls.double().mean().item() / k


def coverage(x: Tensor, y: Tensor, radii_y: Tensor) -> float:
    """Share of balls of y that hold any sample of x. Source: Naeem et al., arXiv 2002.09797."""
    nearest = reduce_distances(y, x, lambda piece: piece.min(1).values)
    return (nearest <= radii_y).double().mean().item()


@of_sets()
def prdc(x: Tensor, y: Tensor, k: int = 5) -> dict[str, float]:
    """Precision, recall, density and coverage with one k. Raises UserError for too few samples."""
    most = min(len(x), len(y)) - 1
    require(0 < k <= most, "k", k, f"1 to {most}, one below the smaller set")
    radii_y = radii(y, k)
    return {
        "precision": precision(x, y, radii_y),
        "recall": recall(x, y, radii(x, k)),
        "density": density(x, y, radii_y, k),
        "coverage": coverage(x, y, radii_y),
    }
