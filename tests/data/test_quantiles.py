"""Units by quantiles: a normal number for each value, monotone, exact at the data's own values."""

from __future__ import annotations

import json
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep import data
from fewstep.base.errors import UserError
from fewstep.data.quantiles import MOST_KNOTS, Quantiles, quantiles_of

RANDOM = np.random.default_rng(0)
QUANTILE = data.Reading(units="quantile")
COUNTS = st.lists(st.integers(-5, 9), min_size=3, max_size=60)
FLOATS = st.lists(st.floats(-1e9, 1e9, allow_subnormal=False), min_size=3, max_size=60)


@settings(max_examples=60, deadline=None)
@given(COUNTS | FLOATS)
def test_a_value_has_the_normal_number_of_its_place_and_comes_back(values):
    """y = Phi^-1((rows below + half of those with it) / rows), and back without an error."""
    x = np.array(values, np.float64)
    law = quantiles_of(x)
    if len(np.unique(x)) < 3:
        assert law is None
        return
    place = [((x < value).sum() + (x == value).sum() / 2) / len(x) for value in x]
    y = law.to_normal(x)
    np.testing.assert_allclose(y, [NormalDist().inv_cdf(p) for p in place], atol=1e-9)
    slopes = np.abs(np.diff(law.values) / np.diff(law.shares)).max()
    np.testing.assert_allclose(law.to_user(y), x, rtol=0, atol=1e-14 * slopes)
    grid = law.to_user(np.linspace(-9, 9, 400))
    assert (np.diff(grid) >= 0).all()
    assert (grid[0], grid[-1]) == (x.min(), x.max())
    between = np.linspace(x.min() - 1, x.max() + 1, 400)
    assert (np.diff(law.to_normal(between)) >= 0).all()
    assert Quantiles.from_json(json.loads(json.dumps(law.to_json()))) == law


@pytest.mark.parametrize("rows", [700, 30_000])
def test_many_values_have_few_knots_and_the_same_law(rows):
    """A heavy tail with a spike at 0: each quantile splits the rows as it should; 0 is exact."""
    x = np.where(RANDOM.random(rows) < 0.3, 0.0, np.exp(2 * RANDOM.normal(size=rows)))
    law = quantiles_of(x)
    assert len(law.shares) <= MOST_KNOTS
    p = np.linspace(0.0005, 0.9995, 2000)
    y = np.array([NormalDist().inv_cdf(one) for one in p])
    share = (x == 0).mean()
    below = np.searchsorted(np.sort(x), law.to_user(y)) / rows
    np.testing.assert_allclose(below[p > share], p[p > share], atol=0.005)
    assert (law.to_user(y[p < share - 1 / rows]) == 0).all()
    assert (law.to_user(y[p > share + 1 / rows]) > 0).all()
    assert law.to_user(law.to_normal(np.zeros(1)))[0] == 0


def test_an_increasing_function_of_the_data_changes_nothing_for_the_model():
    x = torch.from_numpy(RANDOM.normal(size=(300, 2)))
    x0, other = (data.from_tensors(v, QUANTILE).train.x0 for v in (x, x.exp()))
    torch.testing.assert_close(x0, other)
    torch.testing.assert_close(x0.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(x0.std(0, correction=0), torch.full((2,), 0.5))


def test_columns_of_one_and_two_values_are_straight():
    flag = torch.arange(90).double()[:, None] % 3 // 2
    x = torch.cat(
        [flag, torch.full_like(flag, 7.3), torch.from_numpy(RANDOM.normal(size=(90, 1)))], 1
    )
    ours, straight = data.from_tensors(x, QUANTILE), data.from_tensors(x)
    assert torch.equal(ours.train.x0[:, :2], straight.train.x0[:, :2])
    z = torch.from_numpy(RANDOM.normal(size=(9, 3))).float()
    assert torch.equal(ours.units.to_user(z)[:, :2], straight.units.to_user(z)[:, :2])
    assert ours.sigma_data() == 0.5


def test_units_by_quantiles_survive_json_and_refuse_what_is_none():
    x = torch.from_numpy(RANDOM.poisson(2, (60, 2)) * [1.0, 0.0])
    grids = torch.from_numpy(RANDOM.normal(size=(9, 8, 8)))
    for values in (x, grids):
        units = data.from_tensors(values, QUANTILE).units
        stored = json.loads(json.dumps(units.to_json()))
        assert data.Units.from_json(stored, tuple(values.shape[1:])) == units
    stored = data.from_tensors(x, QUANTILE).units.to_json()
    shares, knots = stored["quantiles"][0]
    for wrong in (
        [None],
        [[shares, knots], [shares, knots], None],
        [[shares[::-1], knots], None],
        [[shares, knots[::-1]], None],
        [[[0.0, *shares[1:]], knots], None],
        [[shares[1:], knots], None],
        [[shares, [*knots[1:], float("nan")]], None],
        [3, None],
        "no",
    ):
        assert data.Units.from_json({**stored, "quantiles": wrong}, (2,)) is None
    with pytest.raises(UserError, match="variables = 1001: expected at most 1000"):
        data.from_tensors(torch.from_numpy(RANDOM.normal(size=(4, 1001))), QUANTILE)
