"""What a detector looks at in a sample: the numbers that tell noise, structure and condition."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.base.conditions import Cond
from fewstep.base.randomness import generator, permutation
from fewstep.data import Arrays, Dataset
from fewstep.statistics.layout import (
    ORDERED,
    SET,
    Features,
    Layout,
    Numbers,
    condition_numbers,
    values_of,
)
from fewstep.statistics.marginals import neighbour_distances, pair_distances
from fewstep.statistics.structure import axes_of, powers

MOST_ROWS = 5000  # of a draw that are looked at
MOST_NUMBERS = 128  # of a sample or a condition: of larger ones as many random projections
MOST_VARIABLES = 12  # whose structure is told apart; of more the mean over groups of them
MOST_PRODUCTS = 256  # of a number of the condition and one of the sample

Function = Callable[[Tensor], Tensor]

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class Scale:
    """(numbers - mean) / deviation, at most 5 deviations off, projected where they are many."""

    mean: Tensor
    deviation: Tensor
    projection: Tensor | None = None

    def __call__(self, numbers: Tensor) -> Tensor:
        scores = ((numbers - self.mean) / self.deviation).clamp(-5, 5)
        return scores if self.projection is None else scores @ self.projection


def scale_of(numbers: Tensor, most: int = MOST_NUMBERS) -> Scale:
    """The scale of training numbers `[N, F]`."""
    mean = numbers.mean(0)
    deviation = (numbers - mean).square().mean(0).sqrt()
    deviation = torch.where(deviation > 1e-6, deviation, 1)
    size = numbers.shape[1]
    if size <= most:
        return Scale(mean, deviation)
    normals = torch.randn(size, most, generator=generator(0, "projection"))
    return Scale(mean, deviation, normals / math.sqrt(size))


def clues_of(dataset: Dataset, layout: Layout) -> Features:
    """The clues `[N, F]` of samples with their conditions, scaled by the training split's rows.

    They are the values and their squares; in series, fields and pictures the logarithms of squared
    differences and of the power in bands; of sets quantiles of elements, of pair and of nearest
    distances; the condition, and its products with the values.
    """
    values, numbers = values_of(dataset), condition_numbers(dataset)
    train = dataset.train
    few = permutation(0, "clues", 0, len(train))[:MOST_ROWS]
    rows = train.rows(few)
    x = values(rows)
    own, structure = _own_of(layout), _structure_of(layout, x)
    scale, structure_scale = scale_of(own(x)), scale_of(structure(x), most=2 * MOST_NUMBERS)
    with_condition = _products_of(numbers, rows.cond, scale(own(x)))

    def clues(rows: Arrays) -> Tensor:
        x = values(rows)
        plain = scale(own(x))
        shape = structure_scale(structure(x))
        return torch.cat([plain, plain.square(), shape, with_condition(rows.cond, plain)], 1)

    return clues


def _own_of(layout: Layout) -> Function:
    """The values themselves `[N, F]`; of sets what does not depend on the elements' order."""
    if layout.kinds == (SET,):
        return _element_moments
    return lambda values: values.flatten(1).nan_to_num()


def _element_moments(values: Tensor) -> Tensor:
    """Of each set how many elements it has, their mean and the mean of products of two numbers."""
    x = values.flatten(2)
    there = ~x[:, :, 0].isnan()
    count = there.sum(1, keepdim=True)
    x = x.nan_to_num()
    few = x[:, :, :8]
    products = torch.einsum("nsi,nsj->nij", few, few).flatten(1)
    return torch.cat([count, x.sum(1) / count.clamp_min(1), products / count.clamp_min(1)], 1)


def _structure_of(layout: Layout, train: Tensor) -> Function:
    """The numbers `[N, F]` that tell the structure of a sample; none of a table."""
    if layout.kinds == (SET,):
        return _set_structure
    if layout.kinds[0] not in ORDERED:
        return lambda values: values.new_empty(len(values), 0)
    values = layout.by_variable(train)
    # Logarithms from a thousandth of the usual value on: what is smaller is as good as 0.
    floor = _ordered_numbers(values).mean(0) * 1e-3 + 1e-12
    return lambda values: (_ordered_numbers(layout.by_variable(values)) + floor).log()


def _ordered_numbers(values: Tensor) -> Tensor:
    """Squared differences of neighbours and power in bands, of each variable and axis."""
    columns = []
    for axis in axes_of(values):
        differences = values.diff(dim=axis).square()
        columns.append(differences.flatten(2).nanmean(2).nan_to_num()[:, :, None])
        power = powers(values, axis)
        columns.append(power.reshape(*power.shape[:2], -1, power.shape[-1]).mean(2))
    numbers = torch.cat(columns, 2)
    groups = numbers.tensor_split(min(numbers.shape[1], MOST_VARIABLES), 1)
    return torch.cat([group.mean(1) for group in groups], 1)


def _set_structure(values: Tensor) -> Tensor:
    """Quantiles of each number of the elements, and of their distances."""
    x = values.flatten(2)[:, :, :8]
    distances = (pair_distances(values).flatten(1), neighbour_distances(values))
    parts = [_quantiles(x[:, :, place]) for place in range(x.shape[2])]
    return torch.cat([*parts, *((_quantiles(part) + 1e-3).log() for part in distances)], 1)


def _quantiles(numbers: Tensor) -> Tensor:
    """Quantiles of the numbers of each row `[N, Q]`, without those that are missing."""
    columns = numbers.nan_to_num(math.inf).sort(1).values
    count = (columns < math.inf).sum(1, keepdim=True)
    places = torch.tensor(_QUANTILES) * (count - 1).clamp_min(0)
    return columns.gather(1, places.round().long()).nan_to_num(posinf=0)


def _products_of(
    numbers: Numbers | None, train: Cond, plain: Tensor
) -> Callable[[Cond, Tensor], Tensor]:
    """The condition's numbers, and their products with the sample's."""
    if numbers is None:
        return lambda cond, plain: plain[:, :0]
    scale = scale_of(numbers(train), most=MOST_NUMBERS // 2)
    condition = scale(numbers(train))
    narrow = scale_of(condition, most=16)
    thin = scale_of(plain, most=MOST_PRODUCTS // min(condition.shape[1], 16))

    def with_condition(cond: Cond, plain: Tensor) -> Tensor:
        condition = scale(numbers(cond))
        products = narrow(condition)[:, :, None] * thin(plain)[:, None, :]
        return torch.cat([condition, products.flatten(1)], 1)

    return with_condition
