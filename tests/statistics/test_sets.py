"""Distances of two sets agree with closed forms, other libraries and their own expectations."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from fewstep.analysis.metrics import (
    c2st,
    frechet,
    kid,
    kid_subsets,
    mmd2,
    moments,
    prdc,
    sliced_w2,
    w2,
)
from fewstep.base.errors import UserError
from fewstep.statistics import kernels, manifolds
from fewstep.statistics.moments import CHUNK, moments_of
from fewstep.statistics.transport import directions
from fewstep.statistics.twosample import binomial_tail
from tests.analysis.test_metrics import normals


class Double(torch.nn.Module):
    """Features that pass through torchmetrics' own class as they are."""

    num_features = 4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_frechet_agrees_with_torchmetrics():
    """Its public class, with features of our own, in the float64 that it is set to."""
    x, y = normals(300, 4, 0) @ normals(4, 4, 9), normals(200, 4, 1, mean=0.3, std=1.4)
    theirs = FrechetInceptionDistance(feature=Double()).set_dtype(torch.float64)
    theirs.update(x, real=True)
    theirs.update(y, real=False)
    assert frechet(x, y) == pytest.approx(theirs.compute().item(), rel=1e-6)
    assert frechet(moments(x), moments(y)) == frechet(x, y)


@pytest.mark.parametrize("size", [1, 7, 500, 5000])
def test_moments_of_pieces_in_one_pass_are_those_of_all_rows(size):
    x = 1e4 + torch.randn(1000, 6, generator=torch.Generator().manual_seed(0)).double()
    whole, pieces = moments(x), moments_of(x.split(size))
    torch.testing.assert_close(pieces.mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(pieces.cov, whole.cov, rtol=0, atol=1e-12)
    assert pieces.n == whole.n
    with pytest.raises(UserError, match="1 samples have no covariance"):
        moments_of([x[:1]])


def test_moments_in_pieces_are_the_moments():
    x = 100 + normals(2 * CHUNK + 5, 3, 0)
    result = moments(x)
    torch.testing.assert_close(result.mean, x.mean(0), rtol=1e-13, atol=0)
    torch.testing.assert_close(result.cov, torch.cov(x.T), rtol=1e-11, atol=1e-13)
    assert result.n == len(x)
    with pytest.raises(UserError, match="1 samples have no covariance"):
        moments(x[:1])


def test_frechet_refuses_features_of_two_extractors():
    with pytest.raises(UserError, match="expected samples of one shape"):
        frechet(normals(10, 3, 0), normals(10, 2, 0))


def test_kid_agrees_with_torchmetrics():
    x, y = normals(40, 5, 0), normals(40, 5, 1, mean=0.5)
    theirs = poly_mmd(x, y, degree=3, gamma=None, coef=1.0).item()
    assert kid(x, y) == pytest.approx(theirs, rel=1e-9)
    whole = kid_subsets(x, y, size=40, subsets=2)
    assert whole.tolist() == pytest.approx([theirs, theirs])
    assert len(set(kid_subsets(x, y, size=20, subsets=5).tolist())) == 5
    with pytest.raises(UserError, match="size = 41: expected 2 to 40"):
        kid_subsets(x, y, size=41)


def test_kid_does_not_depend_on_its_pieces(monkeypatch):
    x, y = normals(25, 3, 0), normals(31, 3, 1)
    whole, narrow = kid(x, y), kernels.mmd2(x, y, kernels.gaussian(1.0))
    monkeypatch.setattr(kernels, "ROWS", 4)
    assert kid(x, y) == pytest.approx(whole, rel=1e-12)
    assert mmd2(x, y, kernels.gaussian(1.0)) == pytest.approx(narrow, rel=1e-12)


def test_kid_is_unbiased_for_equal_laws_and_for_shifted_ones():
    """In one dimension E (xy + 1)^3 of x ~ N(m, 1), y ~ N(o, 1) is a polynomial of m and o."""

    def expectation(m: float, o: float) -> float:
        return 1 + 3 * m * o + 3 * (1 + m * m) * (1 + o * o) + (m**3 + 3 * m) * (o**3 + 3 * o)

    for m in (0.0, 0.8):
        exact = expectation(m, m) + expectation(0, 0) - 2 * expectation(m, 0)
        draws = torch.tensor(
            [kid(normals(10, 1, 2 * i, mean=m), normals(7, 1, 2 * i + 1)) for i in range(1000)]
        )
        assert abs(draws.mean().item() - exact) < 3.5 * draws.std().item() / math.sqrt(1000)


def test_gaussian_mmd_is_unbiased_with_its_closed_form():
    """The difference z ~ N(m, 2 I) has a known E exp(-|z|^2 / (2 h^2)).

    It is (1 + 2 / h^2)^(-d/2) exp(-|m|^2 / (2 (h^2 + 2))).
    """
    h, m, d = 1.3, 0.7, 2
    level = (1 + 2 / h**2) ** (-d / 2)
    for shift in (0.0, m):
        exact = 2 * level * (1 - math.exp(-d * shift**2 / (2 * (h**2 + 2))))
        kernel = kernels.gaussian(h)
        draws = torch.tensor(
            [
                mmd2(normals(8, d, 2 * i, mean=shift), normals(9, d, 2 * i + 1), kernel)
                for i in range(500)
            ]
        )
        assert abs(draws.mean().item() - exact) < 3.5 * draws.std().item() / math.sqrt(500)


def test_the_bandwidth_is_the_median_distance():
    x = normals(60, 3, 0)
    assert kernels.median_distance(x) == torch.pdist(x).median().item()
    with pytest.raises(UserError, match="bandwidth = 0"):
        kernels.gaussian(kernels.median_distance(torch.zeros(9, 2)))


def test_manifolds_of_a_set_with_itself_and_of_sets_far_apart():
    x, y = normals(50, 2, 0), normals(60, 2, 1)
    same = prdc(x, x, k=3)
    assert (same["precision"], same["recall"], same["coverage"]) == (1, 1, 1)
    assert same["density"] >= 1
    assert set(prdc(x, y + 100).values()) == {0}


def test_manifolds_of_points_on_a_line():
    """Real points 0, 1, 3 have balls of radius 1, 1, 2; generated points 0.5, 9 both of 8.5."""
    y, x = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.5], [9.0]])
    assert manifolds.radii(y, 1).tolist() == [1, 1, 2]
    assert manifolds.radii(y, 2).tolist() == [3, 2, 3]
    assert prdc(x, y, k=1) == {"precision": 0.5, "recall": 1, "density": 1, "coverage": 2 / 3}
    with pytest.raises(UserError, match="k = 3: expected 1 to 2"):
        manifolds.radii(y, 3)


def test_few_modes_cost_recall_and_coverage_and_noise_costs_precision():
    real = torch.cat([normals(200, 2, 0), normals(200, 2, 1, mean=20)])
    narrow, wide = prdc(normals(400, 2, 2), real), prdc(normals(400, 2, 3, mean=10, std=30), real)
    assert narrow["precision"] > 0.9
    assert narrow["coverage"] < 0.6
    assert narrow["recall"] < 0.6
    assert wide["precision"] < 0.3


def test_balls_hold_what_the_loops_say():
    x, y, k = normals(30, 3, 0), normals(40, 3, 1, mean=0.7), 4
    between, inner = torch.cdist(x, y), torch.cdist(y, y)
    reach = [sorted(row)[k] for row in inner.tolist()]
    inside = [[between[i, j].item() <= reach[j] for j in range(40)] for i in range(30)]
    result = prdc(x, y, k)
    assert result["precision"] == pytest.approx(sum(any(row) for row in inside) / 30)
    assert result["density"] == pytest.approx(sum(map(sum, inside)) / (30 * k))
    assert result["coverage"] == pytest.approx(
        sum(any(row[j] for row in inside) for j in range(40)) / 40
    )


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_one_dimensional_w2_agrees_with_pot_for_any_sizes(n, m, seed):
    x, y = normals(n, 1, seed), normals(m, 1, seed + 1)
    truth = math.sqrt(ot.wasserstein_1d(x[:, 0].numpy(), y[:, 0].numpy(), p=2))
    assert sliced_w2(x, y, projections=1) == pytest.approx(truth, abs=1e-9)


def test_sliced_w2_of_shifted_and_scaled_sets_is_its_closed_form():
    """A shift by m costs (theta.m)^2 along theta; N(0, 4) against N(0, 1) costs 1 in the limit."""
    x, m = normals(400, 3, 0), torch.tensor([1.0, -2.0, 0.5]).double()
    exact = (m @ directions(3, 64, 5)).square().mean().sqrt().item()
    assert sliced_w2(x, x + m, projections=64, seed=5) == pytest.approx(exact, rel=1e-12)
    assert sliced_w2(x, x + m, projections=4000) == pytest.approx(
        m.norm().item() / math.sqrt(3), rel=0.03
    )
    assert sliced_w2(
        2 * normals(20_000, 2, 1), normals(9000, 2, 2), projections=16
    ) == pytest.approx(1, rel=0.03)


def test_sliced_w2_agrees_with_pot_in_the_same_directions():
    x, y = normals(50, 4, 0), normals(50, 4, 1, mean=0.5)
    theirs = ot.sliced_wasserstein_distance(
        x.numpy(), y.numpy(), projections=directions(4, 40, 0).numpy()
    )
    assert sliced_w2(x, y, projections=40) == pytest.approx(theirs, rel=1e-9)


def test_exact_w2_agrees_with_pot_and_refuses_what_it_cannot():
    x, y = normals(60, 3, 0), normals(60, 3, 1, mean=0.5)
    theirs = math.sqrt(ot.emd2(np.ones(60) / 60, np.ones(60) / 60, ot.dist(x.numpy(), y.numpy())))
    assert w2(x, y) == pytest.approx(theirs, rel=1e-9)
    assert w2(x, x.flip(0) + 1) == pytest.approx(math.sqrt(3), rel=1e-9)
    with pytest.raises(UserError, match="w2 of 60 and 59 samples"):
        w2(x, y[:59])


def test_c2st_p_values_are_uniform_under_one_law():
    tests = [c2st(normals(200, 2, 2 * i), normals(200, 2, 2 * i + 1), seed=i) for i in range(40)]
    p = np.array([t.p_value for t in tests])
    # The steps of a discrete law are as high as 0.08. Randomised within its step, a p-value is
    # uniform exactly.
    below = np.array([binomial_tail(round(t.accuracy * t.tested) + 1, t.tested) for t in tests])
    spread = below + (p - below) * np.random.default_rng(0).random(40)
    assert scipy.stats.kstest(spread, "uniform").pvalue > 0.01
    assert abs(np.mean([t.accuracy for t in tests]) - 0.5) < 4 * 0.5 / math.sqrt(40 * 100)


def test_c2st_sees_a_shift_and_a_change_of_spread():
    x = normals(400, 2, 0)
    assert c2st(x, normals(400, 2, 1, mean=1.0)).p_value < 1e-6
    wide = c2st(x, normals(400, 2, 1, std=3.0))
    assert wide.p_value < 1e-6
    assert wide.accuracy > 0.7
    assert c2st(x, normals(400, 2, 1), seed=3) == c2st(x, normals(400, 2, 1), seed=3)
    with pytest.raises(UserError, match="c2st of 3 and 4 samples"):
        c2st(x[:3], x[:4])


def test_the_binomial_tail_is_scipys():
    for k in (0, 1, 60, 100, 120, 200):
        assert binomial_tail(k, 200) == pytest.approx(
            scipy.stats.binom.sf(k - 1, 200, 0.5), rel=1e-12
        )
