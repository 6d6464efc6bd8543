"""Two-sample tests: by a small network on new samples, and by the energy distance."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from fewstep.base.errors import UserError
from fewstep.base.randomness import fork_rng, generator, permutation
from fewstep.statistics.distances import flat, reduce_distances
from fewstep.statistics.sets import of_sets

_MOST_ROWS = 1000  # whose energy distance is tested
_HIDDEN = 32
_STEPS = 60
_RATE = 0.02
_DECAY = 1e-2


class TwoSample(NamedTuple):
    """accuracy near 1/2 for one law; p_value = P(at least as accurate | one law), exact."""

    accuracy: float
    p_value: float
    tested: int


@of_sets()
def c2st(x: Tensor, y: Tensor, *, seed: int = 0) -> TwoSample:
    """Trains on one half of each set and tests on the other; sets `[N, ...]` of one size, N >= 4.

    Of each pair (x_i, y_i) of the second half the network sees one, by a fair coin. Under one law
    the coins are independent of what it sees, and the correct answers are exactly
    Binomial(tested, 1/2). Source: Lopez-Paz & Oquab, arXiv 1610.06545.
    """
    if len(x) != len(y) or len(x) < 4:
        raise UserError(f"c2st of {len(x)} and {len(y)} samples: expected equally many, at least 4")
    order = permutation(seed, "c2st halves", 0, len(x))
    half = len(x) // 2
    x, y = flat(x)[order].float(), flat(y)[order].float()
    both = torch.cat([x[:half], y[:half]])
    mean, std = both.mean(0), both.std(0).clamp_min(1e-12)
    network = _fit((x[:half] - mean) / std, (y[:half] - mean) / std, seed)
    count = len(x) - half
    coins = torch.rand(count, generator=generator(seed, "c2st coins")) < 0.5
    samples = torch.where(coins[:, None], x[half:], y[half:])
    with torch.no_grad():
        correct = int(((network((samples - mean) / std)[:, 0] > 0) == coins).sum())
    return TwoSample(correct / count, binomial_tail(correct, count), count)


def _fit(x: Tensor, y: Tensor, seed: int) -> nn.Sequential:
    """A network whose output is positive for x: full-batch Adam on the logistic loss."""
    with fork_rng(seed, "c2st"):
        network = nn.Sequential(nn.Linear(x.shape[1], _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=_DECAY, foreach=True)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        (softplus(-network(x)).mean() + softplus(network(y)).mean()).backward()
        optimizer.step()
    return network


def energy_p_value(x: Tensor, y: Tensor, *, pairs: bool = False, shuffles: int = 2000) -> float:
    """P(energy distance of x and y at least as large | one law), of 1000 rows each at most; exact.

    Rows change sides in each shuffle; with `pairs`, of equally many rows, x_i with y_i alone. With
    weights s = 1 / n of one side and -1 / m of the other the distance, pairs of a row with itself
    included, is -s D s of the distances D.
    Source: Szekely & Rizzo, "Testing for equal distributions in high dimension", 2004.
    """
    x, y = flat(x[:_MOST_ROWS]), flat(y[:_MOST_ROWS])
    both = torch.cat([x, y])
    count = len(both)
    rows = reduce_distances(both, both, lambda piece: piece.float(), quick=True)
    distances = rows.reshape(count, count)
    sides = torch.where(torch.arange(count) < len(x), 1 / len(x), -1 / len(y))
    weights = shuffled_weights(sides, shuffles, pairs)
    values = -((weights @ distances) * weights).sum(1)
    ties = 1e-6 * distances.mean()
    return int((values >= values[0] - ties).sum()) / shuffles


def shuffled_weights(weights: Tensor, shuffles: int, pairs: bool) -> Tensor:
    """The weights `[F]` shuffled `[shuffles, F]`, first as they are.

    pairs: the number i of the first half and that of the second change places, or not.
    """
    count = len(weights)
    source = generator(0, "shuffles")
    if pairs:
        coins = 1.0 - 2.0 * (torch.rand(shuffles, count // 2, generator=source) < 0.5)
        coins[0] = 1
        return weights * coins.repeat(1, 2)
    chance = torch.rand(shuffles, count, generator=source)
    chance[0] = torch.arange(count) / count
    return weights[chance.argsort(1)]


def binomial_tail(least: int, n: int) -> float:
    """P(K >= least) of K ~ Binomial(n, 1/2), in integers until the last division."""
    return sum(math.comb(n, k) for k in range(least, n + 1)) / 2**n
