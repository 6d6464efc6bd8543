"""Distances between two sets of samples or features, `[N, ...]` each, in float64."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor

from fewstep.base.errors import UserError
from fewstep.statistics.moments import Statistics, moments
from fewstep.statistics.sets import of_sets

ROWS = 1000  # rows of a matrix of distances in memory at once
MOST = 2 * 10**7  # distances of it: of a large set fewer rows
PIECE = 2**22  # numbers of the other set that are in float64 at once
_KEPT = 8  # sets whose spread is remembered
_SPREADS: dict[bytes, float] = {}


def flat(x: Tensor) -> Tensor:
    return x.flatten(1).double()


def reduce_distances(
    x: Tensor, y: Tensor, reduce: Callable[[Tensor], Tensor], *, quick: bool = False
) -> Tensor:
    """`reduce` of the distances `[rows, M]` of x to y, in pieces of 1000 rows.

    Computed from differences. quick: from products of the centred rows, ten times as fast; half the
    digits of a distance far below the others are lost then, and none of their mean.
    """
    x, y = x.contiguous(), y.contiguous()  # else sums have other last digits
    rows = min(ROWS, MOST // max(len(y), 1) + 1)
    columns = y.split(PIECE // max(math.prod(y.shape[1:]), 1) + 1)
    centre = (
        y.mean(0, dtype=torch.float64).flatten() if quick else torch.zeros((), dtype=torch.float64)
    )
    results = []
    for part in x.split(rows):
        a = flat(part) - centre
        distances = [_distances(a, flat(column) - centre, quick) for column in columns]
        whole = distances[0] if len(distances) == 1 else torch.cat(distances, 1)
        results.append(reduce(whole).reshape(-1))
    return torch.cat(results)


def _distances(x: Tensor, y: Tensor, quick: bool) -> Tensor:
    mode = "use_mm_for_euclid_dist" if quick else "donot_use_mm_for_euclid_dist"
    return torch.cdist(x, y, compute_mode=mode)


@of_sets()
def frechet(x: Tensor | Statistics, y: Tensor | Statistics) -> float:
    """Squared Fréchet distance of the Gaussians with the sets' moments.

    ||m_x - m_y||^2 + tr(C_x + C_y - 2 (C_x^1/2 C_y C_x^1/2)^1/2), covariances over N - 1.
    With few samples it is biased upwards, so compare only values at equal N.
    Source: FID, arXiv 1706.08500.
    """
    a = x if isinstance(x, Statistics) else moments(x)
    b = y if isinstance(y, Statistics) else moments(y)
    if a.mean.shape != b.mean.shape:
        raise UserError(
            f"features of {len(a.mean)} and {len(b.mean)} numbers: they come from two extractors"
        )
    values, vectors = torch.linalg.eigh(a.cov)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.cov @ root).clamp_min(0).sqrt().sum()
    return ((a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * cross).item()


def spread(x: Tensor) -> float:
    """E|x - x'| over pairs of different samples.

    Kept for the last few sets: scores of one run after the other share their training data.
    """
    digest = hashlib.sha256(f"{x.shape}|{x.dtype}".encode())
    digest.update(x.detach().cpu().contiguous().numpy().data)
    key = digest.digest()
    if key not in _SPREADS:
        while len(_SPREADS) >= _KEPT:
            _SPREADS.pop(next(iter(_SPREADS)), None)
        _SPREADS[key] = _spread(x)
    return _SPREADS[key]


def _spread(x: Tensor) -> float:
    """Each pair is computed once."""
    total = torch.zeros((), dtype=torch.float64)
    rows = min(ROWS, MOST // len(x) + 1)
    for start in range(0, len(x), rows):
        part = x[start : start + rows]
        total += reduce_distances(part, part, torch.sum, quick=True).sum() / 2
        rest = x[start + rows :]
        if len(rest):
            total += reduce_distances(part, rest, torch.sum, quick=True).sum()
    return 2 * total.item() / (len(x) * (len(x) - 1))


@of_sets()
def energy(x: Tensor, y: Tensor, spread_y: float | None = None) -> float:
    """Energy distance 2 E|x - y| - E|x - x'| - E|y - y'|, without pairs of a sample with itself.

    Unbiased, so it can fall below 0 where the sets agree. `spread_y`: the last term, if known.
    Source: Szekely & Rizzo, "Energy statistics", 2013.
    """
    between = reduce_distances(x, y, torch.sum, quick=True).sum().item() / (len(x) * len(y))
    if spread_y is None:
        spread_y = spread(y)
    return 2 * between - spread(x) - spread_y


def to_nearest(x: Tensor, train: Tensor) -> float:
    """Mean distance of x to the nearest training sample."""
    nearest = reduce_distances(x, train, lambda piece: piece.argmin(1), quick=True)
    # That distance itself with all its digits: of a copy it is 0.
    parts = zip(x.contiguous().split(ROWS), nearest.split(ROWS), strict=True)
    return torch.cat([(flat(a) - flat(train[b])).norm(dim=1) for a, b in parts]).mean().item()


@of_sets(least=1)
def nearest_ratio(x: Tensor, held_out: Tensor, train: Tensor) -> float:
    """Mean distance to the nearest training sample: of x, over that of held-out data.

    About 1 for new samples like the data, near 0 for memorised ones, above 1 for samples far off.
    """
    return ratio(to_nearest(x, train), to_nearest(held_out, train))


def ratio(a: float, b: float) -> float:
    """a / b; NaN where b is 0."""
    return a / b if b else math.nan
