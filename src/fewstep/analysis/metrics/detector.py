"""A detector: it learns to tell samples from data, and is tested on pairs that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fewstep.base.randomness import generator

MOST_FIT = 5000  # rows of either kind that it learns from
MOST_UNITS = 128  # random units beside the clues
PENALTIES = tuple(10.0**k for k in (-3.0, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0))


class Detection(NamedTuple):
    """accuracy of each draw: the share of pairs in which it picks the sample; 1/2 for one law.

    p_value: P(at least as accurate | one law).
    """

    accuracy: tuple[float, ...]
    p_value: float


def fit(samples: Tensor, data: Tensor) -> Callable[[Tensor], Tensor]:
    """The detector that least squares find for +1 of samples and -1 of data, `[N, F]` clues each.

    A linear score of clues and of random units max(0, w clues + b): higher for samples.
    Its penalty has the least generalised cross-validation |y - y_hat|^2 / (1 - df / N)^2 of nine.
    Source: Golub, Heath & Wahba, Technometrics 21 (1979).
    """
    both = torch.cat([samples, data])
    mean, deviation = both.mean(0), both.std(0, correction=0)
    deviation = torch.where(deviation > 1e-6, deviation, 1)
    count, size = both.shape
    width = min(MOST_UNITS, count // 8)
    source = generator(0, "detector")
    units = torch.randn(size, width, generator=source) / math.sqrt(size)
    offsets = torch.randn(width, generator=source)

    def inputs(clues: Tensor) -> Tensor:
        scores = ((clues - mean) / deviation).clamp(-5, 5)
        return torch.cat([scores, (scores @ units + offsets).relu()], 1)

    x = inputs(both)
    target = torch.cat([torch.ones(len(samples)), -torch.ones(len(data))])
    weights = _ridge(x - x.mean(0), target - target.mean())
    return lambda clues: inputs(clues) @ weights


def _ridge(inputs: Tensor, target: Tensor) -> Tensor:
    """The weights of centred inputs `[N, F]` for a centred target."""
    count = len(inputs)
    products = (inputs.T @ inputs).double() / count
    values, vectors = torch.linalg.eigh(products)
    values = values.clamp_min(0)
    moments = vectors.T @ (inputs.T @ target).double() / count
    power = target.double().square().mean()

    def error(penalty: float) -> float:
        """The generalised cross-validation."""
        shrunk = moments / (values + penalty)
        rest = power - 2 * (moments * shrunk).sum() + (values * shrunk.square()).sum()
        freedom = (values / (values + penalty)).sum() / count
        return (rest / (1 - freedom).square()).item()

    penalty = min(PENALTIES, key=error)
    return (vectors @ (moments / (values + penalty))).float()


def detect(
    learn: Sequence[Tensor], data: Tensor, draws: Sequence[Tensor], held_out: Sequence[Tensor]
) -> Detection:
    """Clues `[n, F]` of samples in `learn` and of data teach it; `draws` test it.

    Draw i is tested beside block i mod H of held-out rows: in pair j its score of the draw's row j
    beats that of the block's row j, or a tie counts half. Under one law the place of a held-out row
    among its k rivals is uniform on 0 .. k. The sum of all places has a variance that is known, and
    lighter tails than the normal law by which the p-value is taken.
    """
    detector = fit(torch.cat(list(learn))[:MOST_FIT], data[:MOST_FIT])
    accuracy = []
    places: list[Tensor] = [torch.zeros(len(block)) for block in held_out]
    rivals = [0] * len(held_out)
    scores = [detector(block) for block in held_out]
    for i, draw in enumerate(draws):
        block = i % len(held_out)
        gap = detector(draw)[: len(scores[block])] - scores[block][: len(draw)]
        wins = (gap > 0).float() + 0.5 * (gap == 0).float()
        accuracy.append(wins.mean().item())
        places[block][: len(wins)] += wins
        rivals[block] += 1
    total = sum(place.sum().item() for place in places)
    sizes = [min(len(draws[0]), len(block)) for block in held_out]
    mean = sum(n * k / 2 for n, k in zip(sizes, rivals, strict=True))
    variance = sum(n * k * (k + 2) / 12 for n, k in zip(sizes, rivals, strict=True))
    score = (total - mean - 0.5) / math.sqrt(variance)
    return Detection(tuple(accuracy), 0.5 * math.erfc(score / math.sqrt(2)))
