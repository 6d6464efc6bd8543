"""Times of flow maps: their order, their laws, which end is told, and how many rows are far."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.core import abilities
from fewstep.core.balances import Adaptive
from fewstep.core.times import Between, Diagonal, Dyadic, Ends, Gap, LogitNormal, Told

LAW = LogitNormal(mean=-0.4, std=1.0)
OTHER = LogitNormal(mean=-4.0, std=1.6)
SAMPLERS = {
    "ends": Ends(law=LAW),
    "ends of two laws": Ends(law=LAW, end=OTHER),
    "ends, near": Ends(law=LAW, near=fs.curricula.Decay(0.1, 0.002)),
    "between": Between(times=Ends(law=LAW)),
    "gap": Gap(gap=LAW, end=OTHER),
    "dyadic": Dyadic(powers=7),
    "told": Told(times=fs.methods.ect().times),
    "diagonal": Diagonal(times=Ends(law=LAW), share=0.75, law=OTHER),
    "diagonal, dyadic": Diagonal(times=Dyadic(powers=3), share=0.875, law=LAW),
    "diagonal, between": Diagonal(times=Between(times=Ends(law=LAW)), share=0.5),
}


def uniforms(rows: int, count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, count, generator=generator(seed, "u"), dtype=torch.float64)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), progress=st.floats(0, 1), first=st.integers(0, 10**6))
def test_times_are_ordered_and_the_end_is_told(sampler, seed, progress, first):
    """a <= r <= t; far rows are told a, those of the diagonal t with r = a = 0; by row alone."""
    u, number = uniforms(16, seed=seed), first + torch.arange(16)
    times = sampler(u, progress, number)
    assert bool((times.a <= times.r).all())
    assert bool((times.r <= times.t).all())
    assert bool((times.t > 0).all())
    far = times.to < times.t
    assert torch.equal(times.to[far], times.a[far])
    near = ~far
    assert torch.equal(times.to[near], times.t[near])
    assert not bool(times.r[near].any())
    assert not bool(times.a[near].any())
    assert sampler.ends == 1
    alone = sampler(u[5:6], progress, number[5:6])
    for name in ("t", "r", "a", "to"):
        # One number and sixteen go through different instructions: a last digit may differ.
        own, of_batch = getattr(alone, name), getattr(times, name)[5:6]
        torch.testing.assert_close(own, of_batch, rtol=1e-14, atol=0)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1), first=st.integers(0, 10**4), rows=st.integers(1, 300))
def test_every_run_of_rows_has_the_share_of_the_diagonal(share, first, rows):
    """To one row, wherever the run starts, so in every batch and on every device."""
    sampler = Diagonal(times=Ends(law=LAW), share=share)
    times = sampler(uniforms(rows), 0.0, first + torch.arange(rows))
    far = int((times.to < times.t).sum())
    assert abs(far - rows * (1 - share)) < 1 + 1e-6
    if first == 0:
        assert far == math.floor(rows * (1 - share))


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 0.875, 0.0, 1.0])
def test_shares_of_a_power_of_two_are_exact_in_each_eight_rows(share):
    sampler = Diagonal(times=Ends(law=LAW), share=share)
    times = sampler(uniforms(64), 0.0, 1000 + torch.arange(64))
    on_diagonal = (times.to == times.t).reshape(8, 8).sum(1)
    assert on_diagonal.tolist() == [round(8 * share)] * 8


def test_laws():
    """t and a are max and min of two draws; the gap's share and the end have their own laws."""
    u = uniforms(4000)
    times = SAMPLERS["ends of two laws"](u, 0.0)
    draws = torch.stack([LAW.quantile(u[:, 0]), OTHER.quantile(u[:, 1])])
    assert torch.equal(times.t, draws.amax(0))
    assert torch.equal(times.a, draws.amin(0))
    assert torch.equal(times.r, times.t)
    gap = SAMPLERS["gap"](u, 0.0)
    for value, mean, std in (
        (gap.a, -4.0, 1.6),
        ((gap.t - gap.a) / (1 - gap.a), -0.4, 1.0),
    ):
        assert stats.kstest(value.logit(), "norm", (mean, std)).pvalue > 1e-3
    between = SAMPLERS["between"](u, 0.0)
    share = (between.r - between.a) / (between.t - between.a)
    assert stats.kstest(share, "uniform").pvalue > 1e-3
    near = SAMPLERS["ends, near"](u, 0.5)
    step = (near.t - near.r) / (near.t - near.a)
    torch.testing.assert_close(step, torch.full_like(step, (0.1 * 0.002) ** 0.5), rtol=1e-6, atol=0)


@settings(max_examples=30, deadline=None)
@given(powers=st.integers(1, 9), seed=st.integers(0, 10**6))
def test_dyadic_jumps_fill_their_grids(powers, seed):
    """t - r = r - a = 2^-k, a is a multiple of t - a, and the last jump ends at 1 at most."""
    times = Dyadic(powers=powers)(uniforms(64, seed=seed), 0.0)
    step = times.t - times.r
    assert torch.equal(step, times.r - times.a)
    power = -step.log2()
    assert torch.equal(power, power.round())
    assert power.min() >= 1
    assert power.max() <= powers
    assert torch.equal((times.a / (2 * step)).floor(), times.a / (2 * step))
    assert times.t.max() <= 1


def test_dyadic_sizes_and_places_are_even():
    times = Dyadic(powers=4)(uniforms(8000), 0.0)
    power = -(times.t - times.r).log2()
    counts = [int((power == k).sum()) for k in (1, 2, 3, 4)]
    assert stats.chisquare(counts).pvalue > 1e-3
    smallest = times.a[power == 4] * 8
    assert stats.chisquare([int((smallest == i).sum()) for i in range(8)]).pvalue > 1e-3


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
def test_rows_of_a_known_time_lead_to_the_data(sampler):
    t = torch.tensor([0.3, 0.9], dtype=torch.float64)
    times = sampler.at(t, 0.3)
    assert torch.equal(times.t, t)
    assert times.to.tolist() == [0.0, 0.0] == times.a.tolist()
    assert bool((times.r <= t).all())


def test_how_many_uniforms_and_ends_a_method_takes():
    assert fs.methods.psd().uniforms == 3
    assert fs.methods.meanflow().uniforms == fs.methods.ect().uniforms == 2
    assert fs.methods.meanflow().ends == 1
    assert fs.methods.ect().ends == 0
    assert abilities.uniforms(SAMPLERS["diagonal, between"]) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Diagonal(times=Ends(law=LAW), share=1.1), "diagonal = 1.1"),
        (lambda: Dyadic(powers=0), "powers = 0"),
        (lambda: LogitNormal(mean=0.0, std=0.0), "std = 0.0"),
        (lambda: LogitNormal(mean=math.nan, std=1.0), "mean = nan"),
        (lambda: Adaptive(p=2.0), "p = 2.0"),
        (lambda: Adaptive(c=0.0), "c = 0.0"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


@settings(max_examples=30, deadline=None)
@given(p=st.floats(0, 1), c=st.floats(1e-4, 10), share=st.floats(0.01, 1))
def test_the_adaptive_weight_scales_rows_without_gradient(p, c, share):
    """l / (sg l + c)^p, with l over the neighbour's share of the way inside."""
    loss = torch.tensor([0.02, 3.0], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.5, 0.8], dtype=torch.float64)
    a = torch.tensor([0.1, 0.2], dtype=torch.float64)
    times = fs.Times(t, t - share * (t - a), a, torch.ones_like(t))
    for by_share in (False, True):
        value = Adaptive(p, c, by_share)(loss, times, None)
        inside = loss.detach() / (share if by_share else 1.0)
        torch.testing.assert_close(value.detach(), loss.detach() / (inside + c) ** p)
        (slope,) = torch.autograd.grad(value.sum(), loss)
        torch.testing.assert_close(slope, (inside + c) ** -p)
