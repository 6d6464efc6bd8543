"""The exact test of ranks: uniform under one law, small where spread or condition is wrong."""

from __future__ import annotations

import pytest
import scipy.stats
import torch

from fewstep.base.randomness import generator
from fewstep.statistics.rank_test import MOST, members, p_value


def posteriors(
    rows: int, numbers: int, seed: int, *, narrow: float = 1.0, shuffle: bool = False, size: int = 9
):
    """Truths and samples about a condition, with noise that the numbers of a row share."""
    source = generator(seed, "posteriors")

    def noise(count: int):
        own, shared = (
            torch.randn(rows, count, n, generator=source, dtype=torch.float64) for n in (numbers, 1)
        )
        return own + shared

    condition = 2 * noise(1)
    truth = (condition + noise(1))[:, 0]
    known = condition.roll(1, 0) if shuffle else condition
    return known + narrow * noise(size), truth


def p_of(rows: int, numbers: int, seed: int, mask=None, **law) -> float:
    x, y = posteriors(rows, numbers, seed, **law)
    mask = torch.ones(rows, numbers, dtype=torch.bool) if mask is None else mask
    return p_value(members(x, y, mask, seed))


def test_p_values_of_a_right_posterior_are_uniform():
    """Of few rows too, with numbers that depend on each other and one that is seldom there."""
    mask = torch.ones(6, 2, dtype=torch.bool)
    mask[2:, 1] = False
    found = torch.tensor([p_of(6, 2, seed, mask) for seed in range(200)])
    assert scipy.stats.kstest(found, "uniform").pvalue > 0.01
    assert (found <= 0.05).double().mean().item() == pytest.approx(0.05, abs=0.045)


@pytest.mark.parametrize("law", [{"narrow": 0.5}, {"narrow": 2.0}, {"shuffle": True}])
@pytest.mark.parametrize("numbers", [1, 20])
def test_wrong_spread_and_shuffled_conditions_are_seen(law, numbers):
    assert p_of(80, numbers, 0, **law, size=50) < 1e-3


def test_padding_and_what_does_not_vary_count_for_nothing():
    x, y = posteriors(40, 2, 0)
    mask = torch.ones(40, 2, dtype=torch.bool)
    alone = p_value(members(x[..., :1], y[:, :1], mask[:, :1]))
    mask[:, 1] = False
    spoilt = members(x, y + 100 * ~mask, mask)
    assert p_value(spoilt) == alone
    assert p_value(torch.zeros_like(spoilt)) == 1.0


def test_ties_are_broken_by_chance():
    """Whole numbers have the places that any of their order would have, one for each member."""
    x, y = (part.round() for part in posteriors(800, 1, 0))
    scores = members(x, y, torch.ones(800, 1, dtype=torch.bool))[:, :, 0, 0]
    torch.testing.assert_close(scores.sum(1), torch.zeros(800), atol=1e-5, rtol=0)
    assert all(len(row.unique()) == 10 for row in scores[:5])
    assert abs(float(scores[:, 0].mean())) < 4 / 800**0.5


def test_of_many_numbers_some_are_looked_at():
    x, y = posteriors(6, 5 * MOST, 0)
    assert members(x, y, torch.ones(6, 5 * MOST, dtype=torch.bool)).shape == (6, 10, 16, 4)
