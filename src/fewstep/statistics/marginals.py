"""Laws of single numbers: columns of a table, distances in a set; and correlations of columns.

Each function prepares a reference and gives a function of other values. NaN is a missing value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fewstep.base.randomness import generator, permutation
from fewstep.statistics.structure import Compare

LEVELS = 200  # quantiles of the reference at which laws are compared
MOST_COLUMNS = 1000  # whose correlations are compared
MOST_ELEMENTS = 64  # of a set whose distances are taken


def kolmogorov(reference: Tensor) -> Compare:
    """The largest |F_x(q) - F(q)| over the columns, at 200 quantiles q of each, `[N, D]`."""
    columns, counts = _sort(reference)
    places = torch.linspace(0, 1, LEVELS + 2)[1:-1] * (counts[:, None] - 1).clamp_min(0)
    grid = columns.gather(1, places.round().long())
    usual = _shares(columns, counts, grid)

    def compare(values: Tensor) -> float:
        return (_shares(*_sort(values), grid) - usual).abs().max().item()

    return compare


def _sort(values: Tensor) -> tuple[Tensor, Tensor]:
    """The columns `[D, N]` in their order, missing values last, and how many are there `[D]`."""
    columns = values.flatten(1).T.nan_to_num(math.inf).contiguous()
    return columns.sort(1).values, (columns < math.inf).sum(1)


def _shares(columns: Tensor, counts: Tensor, grid: Tensor) -> Tensor:
    """The share of each column's values up to each point of its grid."""
    below = torch.searchsorted(columns, grid, right=True).minimum(counts[:, None])
    return below.double() / counts[:, None].clamp_min(1)


def correlation(reference: Tensor) -> Compare:
    """The largest difference of the correlations of two columns."""
    columns = reference.flatten(1)
    some = permutation(0, "columns", 0, columns.shape[1])[:MOST_COLUMNS].sort().values
    usual = _correlations(columns[:, some])
    varies = usual.diagonal() > 0
    pairs = torch.triu(varies & varies[:, None], 1)

    def compare(values: Tensor) -> float:
        gaps = (_correlations(values.flatten(1)[:, some]) - usual)[pairs].abs()
        return gaps.max().item() if len(gaps) else 0.0

    return compare


def _correlations(values: Tensor) -> Tensor:
    """Pearson's `[D, D]` over the rows that have both values; 0 for a constant column."""
    numbers = values.double()
    there = (~numbers.isnan()).double()
    gaps = (numbers - numbers.nanmean(0)).nan_to_num()
    deviation = gaps.square().sum(0).div(there.sum(0).clamp_min(1)).sqrt()
    units = torch.where(deviation > 1e-9, gaps / deviation.clamp_min(1e-9), 0)
    return units.T @ units / (there.T @ there).clamp_min(1)


def categories(reference: Tensor, blocks: Sequence[range]) -> Compare:
    """The total variation 1/2 sum |p_x - p| of the frequencies of the worst one-hot category."""

    def frequencies(values: Tensor) -> list[Tensor]:
        parts = (values[:, block.start : block.stop].argmax(1) for block in blocks)
        counts = (
            part.bincount(minlength=len(b)).double() for part, b in zip(parts, blocks, strict=True)
        )
        return [count / count.sum() for count in counts]

    usual = frequencies(reference)

    def compare(values: Tensor) -> float:
        pairs = zip(frequencies(values), usual, strict=True)
        return max(0.5 * (p - q).abs().sum().item() for p, q in pairs)

    return compare


def elements_of(values: Tensor) -> Tensor:
    """At most 64 elements `[N, S, D]` of each set, of larger ones by chance; NaN is none."""
    x = values.flatten(2)
    if x.shape[1] <= MOST_ELEMENTS:
        return x
    chance = torch.rand(x.shape[:2], generator=generator(0, "elements"))
    order = chance.masked_fill(x[:, :, 0].isnan(), 2).argsort(1)[:, :MOST_ELEMENTS]
    return x.gather(1, order[:, :, None].expand(-1, -1, x.shape[2]))


def pair_distances(values: Tensor) -> Tensor:
    """|a - b| of all elements of a set `[N, S, S]`; NaN where one is missing, and to itself."""
    x = elements_of(values)
    gaps = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    return gaps.masked_fill(torch.eye(x.shape[1], dtype=torch.bool), math.nan)


def neighbour_distances(values: Tensor) -> Tensor:
    """The distance of each element of a set to the nearest other one `[N, S]`; NaN without one."""
    nearest = pair_distances(values).nan_to_num(math.inf).amin(2)
    return nearest.masked_fill(nearest == math.inf, math.nan)


def of_pairs(reference: Tensor) -> Compare:
    """Kolmogorov distance of the pooled distances of pairs of elements."""
    compare = kolmogorov(pair_distances(reference).reshape(-1, 1))
    return lambda values: compare(pair_distances(values).reshape(-1, 1))


def of_neighbours(reference: Tensor) -> Compare:
    """Kolmogorov distance of the pooled distances to the nearest element."""
    compare = kolmogorov(neighbour_distances(reference).reshape(-1, 1))
    return lambda values: compare(neighbour_distances(values).reshape(-1, 1))
