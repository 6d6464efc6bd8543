"""Scores of ensembles have their closed forms, and ranks and coverage are right under one law."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

import fewstep as fs
from fewstep.analysis.metrics import (
    coverage,
    crps,
    energy_score,
    ranks,
    spread_skill,
    uniformity,
)
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.statistics.ensembles import holm
from fewstep.statistics.intervals import estimate, wilson
from tests.analysis.test_metrics import normals


def pairs(rows: int, size: int, *shape: int, seed: int = 0, std: float = 1.0, mean: float = 0.0):
    """Truths N(m, 1) of their own means m, and samples N(m + mean, std^2) of each."""
    source = generator(seed, "ensembles")
    centre, truth, noise = (
        torch.randn(rows, count, *shape, generator=source, dtype=torch.float64)
        for count in (1, 1, size)
    )
    return centre + mean + std * noise, (centre + truth)[:, 0]


def near(values, exact: float) -> bool:
    """Whether independent values have this mean, by 4 standard errors."""
    values = torch.as_tensor(values).double()
    return abs(values.mean().item() - exact) < 4 * values.std().item() / math.sqrt(len(values))


@pytest.mark.parametrize(("std", "y"), [(1.0, 0.0), (2.0, 1.5), (0.5, -2.0)])
def test_crps_of_a_gaussian_is_its_integral(std, y):
    """std (w (2 Phi(w) - 1) + 2 phi(w) - 1 / sqrt(pi)), w = y / std, already with 3 samples."""
    w = y / std
    inside = w * (2 * scipy.stats.norm.cdf(w) - 1) + 2 * scipy.stats.norm.pdf(w)
    samples = normals(20_000 * 3, 1, 1, std=std).reshape(20_000, 3)
    assert near(crps(samples, torch.full((20_000,), y)), std * (inside - 1 / math.sqrt(math.pi)))


def test_the_energy_score_of_one_number_is_crps_and_of_more_is_its_sum(monkeypatch):
    samples, truth = pairs(7, 6, 1)
    torch.testing.assert_close(energy_score(samples, truth), crps(samples, truth)[:, 0])
    samples, truth = pairs(7, 6, 3, 2)
    to_truth = (samples - truth[:, None]).flatten(2).norm(dim=2).mean(1)
    between = [(a[None] - a[:, None]).flatten(2).norm(dim=2).sum() / 60 for a in samples]
    torch.testing.assert_close(energy_score(samples, truth), to_truth - torch.stack(between))
    monkeypatch.setattr("fewstep.statistics.ensembles.MOST", 50)
    torch.testing.assert_close(energy_score(samples, truth), to_truth - torch.stack(between))


@pytest.mark.parametrize("score", [crps, energy_score])
@pytest.mark.parametrize(("std", "mean"), [(1.0, 0.3), (0.8, 0.0), (1.25, 0.0)])
def test_the_true_law_has_the_best_score(score, std, mean):
    right, wrong = (score(*pairs(4000, 8, 2, **o)) for o in ({}, {"std": std, "mean": mean}))
    gap = (wrong - right).reshape(4000, -1).mean(1)
    assert gap.mean() > 4 * gap.std() / math.sqrt(4000)


def test_the_energy_score_sees_wrong_dependence_and_crps_does_not():
    """Numbers that are equal, and samples whose numbers are not: the same marginals."""
    samples, truth = pairs(2000, 10)
    right, truth = samples[..., None].expand(-1, -1, 2), truth[:, None].expand(-1, 2)
    wrong = torch.stack([samples, samples.roll(1, 1)], 2)
    torch.testing.assert_close(crps(wrong, truth), crps(right, truth))
    gap = energy_score(wrong, truth) - energy_score(right, truth)
    assert gap.mean() > 4 * gap.std() / math.sqrt(2000)


@pytest.mark.parametrize(("size", "level"), [(3, 0.5), (3, 0.95), (50, 0.8), (20, 0.95)])
def test_coverage_of_the_right_law_is_nominal_for_every_size(size, level):
    assert near(coverage(*pairs(20_000, size), level=level), level)


def test_coverage_counts_by_hand():
    """Of 3 samples the central half is from the sample 1 to 3; of 4 from 1 1/4 to 3 3/4."""
    three, four = torch.tensor([1.0, 2, 3]), torch.tensor([1.0, 2, 3, 4])
    truth = torch.tensor([0.5, 1.5, 2.5, 3.5, 4.5])
    assert coverage(three.expand(5, 3), truth, level=0.5).tolist() == [0, 1, 1, 0, 0]
    found = coverage(four.expand(5, 4), truth, level=0.5)
    torch.testing.assert_close(found, torch.tensor([0, 0.75, 1, 0.75, 0]).double())
    assert coverage(torch.ones(1, 9), [1.0], level=0.8).item() == pytest.approx(0.8)  # all equal


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_overconfidence_is_seen_by_coverage_spread_and_ranks(level):
    samples, truth = pairs(4000, 200, std=0.7)
    exact = 2 * scipy.stats.norm.cdf(0.7 * scipy.stats.norm.ppf((1 + level) / 2)) - 1
    assert coverage(samples, truth, level=level).mean().item() == pytest.approx(exact, abs=0.03)
    assert spread_skill(samples, truth).item() == pytest.approx(0.7, rel=0.04)
    assert uniformity(ranks(samples[:200], truth[:200]), 200) < 1e-4


@pytest.mark.parametrize("size", [2, 3, 50])
def test_spread_is_skill_for_every_size(size):
    assert spread_skill(*pairs(20_000, size, 2)).tolist() == pytest.approx([1, 1], rel=0.02)


def test_monotone_maps_leave_ranks_and_coverage_and_units_scale_scores():
    samples, truth = pairs(50, 9, 3)
    for one in (ranks, coverage):
        assert torch.equal(one(samples.exp(), truth.exp()), one(samples, truth))
    for one in (crps, energy_score):
        moved = one(4 + 1000 * samples, 4 + 1000 * truth)
        torch.testing.assert_close(moved, 1000 * one(samples, truth), rtol=1e-9, atol=1e-9)
    ratio = spread_skill(4 + 1000 * samples, 4 + 1000 * truth)
    torch.testing.assert_close(ratio, spread_skill(samples, truth))


def test_ranks_count_and_break_ties_by_chance():
    samples = torch.tensor([[3.0, 1, 2, 2]])
    assert [ranks(samples, [y]).item() for y in (0.0, 1.5, 2.5, 9.0)] == [0, 1, 3, 4]
    whole = normals(4000 * 10, 1, 5).reshape(4000, 10).round()
    found = ranks(whole[:, :9], whole[:, 9])
    assert scipy.stats.chisquare(found.bincount(minlength=10)).pvalue > 0.01
    assert torch.equal(found, ranks(whole[:, :9], whole[:, 9]))
    assert not torch.equal(found, ranks(whole[:, :9], whole[:, 9], seed=1))


@pytest.mark.parametrize(("rows", "size"), [(30, 50), (200, 2), (200, 3), (200, 20)])
def test_p_values_of_uniform_ranks_are_uniform(rows, size):
    draws = torch.randint(size + 1, (rows, 1000), generator=generator(rows + size, "uniform"))
    mask = torch.arange(rows)[:, None] < rows - torch.arange(1000) % 10
    spoilt = draws.where(mask, size)
    found = uniformity(spoilt, size, mask=mask)
    assert scipy.stats.kstest(found, "uniform").pvalue > 0.01
    assert (found < 0.05).double().mean().item() == pytest.approx(0.05, abs=0.025)


@pytest.mark.parametrize("change", [{"mean": 0.25}, {"std": 0.8}, {"std": 1.25}])
def test_ranks_see_shift_and_spread(change):
    samples, truth = pairs(200, 50, 40, **change)
    assert (uniformity(ranks(samples, truth), 50) < 0.05).double().mean() > 0.8


def test_holm_by_hand():
    found = holm(torch.tensor([0.04, 0.01, 0.03, 0.9]).double())
    assert found.tolist() == pytest.approx([0.09, 0.04, 0.09, 0.9])


def test_intervals_of_coverage_hold_the_nominal_one():
    """Also of few rows, whose numbers depend on each other, at a level near 1."""
    samples, truth = pairs(300 * 25, 50, 3)
    inside = coverage(samples, truth, level=0.95)[:, [0, 0, 1, 2]].mean(1)
    scores = [estimate(rows) for rows in inside.split(25)]
    intervals = [wilson(score.value, score.error, 25) for score in scores]
    assert sum(low <= 0.95 <= high for low, high in intervals) >= 0.92 * 300
    assert wilson(0.3, math.sqrt(0.21 / 1e5), 10**5) == pytest.approx(
        tuple(scipy.stats.binomtest(30_000, 10**5).proportion_ci(method="wilson")), rel=1e-6
    )
    assert wilson(1.0, 0.0, 20)[0] < 0.95


def test_arrays_of_any_kind_and_padding():
    samples, truth = pairs(20, 5, 4)
    lists = crps(samples.numpy().tolist(), np.asarray(truth))
    torch.testing.assert_close(lists, crps(samples, truth))
    mask = torch.arange(4) < 1 + torch.arange(20)[:, None] % 4
    spoilt = torch.where(mask[:, None], samples, 77.0)
    torch.testing.assert_close(
        spread_skill(spoilt, truth, mask=mask.numpy())[1],
        spread_skill(samples[mask[:, 1]], truth[mask[:, 1]])[1],
    )


def test_what_are_no_ensembles_is_told():
    samples, truth = pairs(5, 4, 3)
    with pytest.raises(UserError, match=r"crps of samples \(5, 4, 3\) and truth \(5, 4\)"):
        crps(samples, samples[:, :, 0])
    with pytest.raises(UserError, match="K of 2 or more"):
        ranks(samples[:, :1], truth)
    with pytest.raises(UserError, match="energy_score: 1 of 5 samples of truth hold NaN"):
        energy_score(samples, truth.index_fill(0, torch.tensor(2), math.nan))
    with pytest.raises(UserError, match="level = 80: expected a number between 0 and 1"):
        coverage(samples, truth, level=80)
    for wrong in (truth, torch.tensor([5]), torch.empty(0, 3).long()):
        with pytest.raises(UserError, match=r"expected integers 0 \.\. 4"):
            uniformity(wrong, 4)
    assert fs.metrics.crps is crps
