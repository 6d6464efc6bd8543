"""Times follow their laws, keep t > r >= a, and depend on the row's uniforms and progress alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.core.times import (
    Adjacent,
    AtAnchor,
    AtNeighbour,
    Atom,
    Clean,
    Levels,
    LogNormal,
    LogStudentT,
    RatioMap,
    Segments,
)
from fewstep.core.times.curricula import Doubling, Exponential, Fixed, Progressive

LAW = LogNormal(mean=-1.1, std=2.0)
SAMPLERS = {
    "clean": Clean(law=LAW),
    "ratio": RatioMap(law=LAW),
    "ratio, capped": RatioMap(law=LAW, q=4.0, stages=12, ratio_max=0.999),
    "ratio, truncated law": RatioMap(
        law=LogNormal(mean=-0.8, std=1.6, low=0.002, high=80.0), q=256.0, stages=1
    ),
    "adjacent": Adjacent(steps=Progressive(2, 150)),
    "adjacent by law": Adjacent(
        steps=Doubling(10, 1280), law=LogNormal(mean=-1.1, std=2.0, low=0.002, high=80.0)
    ),
    "segments": Segments(segments=4, steps=Exponential(64, 1280)),
    "one segment of a trigonometric process": Segments(
        segments=1, steps=Fixed(64), end=math.pi / 2
    ),
    "at the anchor": AtAnchor(times=Segments(segments=4, steps=Fixed(64))),
    "at the neighbour": AtNeighbour(times=Levels(grid=(80.0, 5.0, 0.3, 0.0))),
    "ratio fixed": RatioMap(law=LogStudentT(), fixed_ratio=0.9),
    "levels": Levels(grid=(80.0, 5.0, 0.3, 0.0)),
    "the highest level": Levels(grid=(80.0, 5.0, 0.3, 0.0), first=True),
    "an atom of a quarter": Atom(
        times=RatioMap(law=LogStudentT(), fixed_ratio=0.9), at_time=1.0, weight=0.0
    ),
}


@settings(max_examples=50)
@given(mean=st.floats(-2, 1), std=st.floats(0.2, 3), q=st.floats(0.001, 0.999))
def test_quantiles_invert_the_distribution_function(mean, std, q):
    u = torch.tensor([q], dtype=torch.float64)
    law = LogNormal(mean=mean, std=std)
    torch.testing.assert_close(law.cdf(law.quantile(u)), u, rtol=1e-12, atol=1e-13)
    low, high = math.exp(mean - std), math.exp(mean + 2 * std)
    cut = LogNormal(mean=mean, std=std, low=low, high=high)
    t = cut.quantile(u)
    below, above = law.cdf(torch.tensor([low, high], dtype=torch.float64))
    torch.testing.assert_close((law.cdf(t) - below) / (above - below), u, rtol=1e-9, atol=1e-12)


STUDENT_RANGES = {
    "from the mean on": (0.0, 0.2, 1.0, 80.0),
    "from below the mean": (0.0, 0.2, 0.3, 80.0),
    "from the far tail on": (0.0, 0.2, 2.0, 80.0),
    "both tails": (-1.1, 2.0, 0.002, 80.0),
    "below the mean alone": (5.0, 0.2, 2.0, 80.0),
    "narrow": (1.0, 0.5, 2.0, 5.0),
}


@pytest.mark.parametrize("nu", [0.01, 0.5, 1.0, 3.0, 30.0, 1000.0])
@pytest.mark.parametrize(
    ("mean", "std", "low", "high"), STUDENT_RANGES.values(), ids=STUDENT_RANGES.keys()
)
def test_quantiles_of_the_students_law(nu, mean, std, low, high):
    """Against SciPy's distribution function and quantiles, from the tail that has the digits."""
    inner = torch.linspace(0, 1, 1001, dtype=torch.float64)[1:-1]
    u = torch.cat([inner, torch.tensor([1e-6, 1 - 1e-6]).double()])
    law, truth = LogStudentT(mean=mean, std=std, nu=nu, low=low, high=high), stats.t(nu)
    t = law.quantile(u)
    bottom, top = ((math.log(end) - mean) / std for end in (low, high))
    is_upper = bottom > 0

    def share(x):
        return truth.sf(bottom) - truth.sf(x) if is_upper else truth.cdf(x) - truth.cdf(bottom)

    p = share((t.log().numpy() - mean) / std) / share(top)
    # SciPy's own error at nu = 1 is 4e-11.
    np.testing.assert_allclose(p, u.numpy(), rtol=0, atol=1e-10)
    mass = u.numpy() * share(top)
    by_scipy = truth.ppf(truth.cdf(bottom) + mass)
    if is_upper:
        by_scipy = truth.isf(truth.sf(bottom) - mass)
    np.testing.assert_allclose(t.numpy(), np.exp(mean + std * by_scipy), rtol=1e-9)


@pytest.mark.parametrize("nu", [3.0, 1000.0])
def test_the_students_tail_is_a_power(nu):
    """P(T > x) ~ x^-nu where x^2 >> nu, also where the density is below the smallest float64."""
    law = LogStudentT(mean=0.0, std=1e-5, nu=nu, low=2.0, high=80.0)
    u = torch.linspace(0, 0.999, 1000, dtype=torch.float64)
    mass = 1 - (math.log(law.low) / math.log(law.high)) ** nu
    torch.testing.assert_close(
        law.quantile(u).log(),
        math.log(law.low) * (1 - u * mass) ** (-1 / nu),
        rtol=1e-8,
        atol=0,
    )


def test_the_students_law_fills_its_range_and_no_more():
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    for nu in (0.01, 1.0):
        low, high = LogStudentT(nu=nu).quantile(ends)
        assert low == pytest.approx(1.0, abs=1e-12)
        assert high == pytest.approx(80.0, rel=1e-9)
        assert high <= 80
    assert torch.isfinite(LogStudentT(nu=1e6, low=0.002).quantile(ends)).all()


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
@settings(max_examples=50)
@given(progress=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_times_are_ordered(sampler, progress, seed):
    u = torch.rand(64, 2, generator=generator(seed, "u"), dtype=torch.float64)
    u[0], u[1] = 0.0, 1 - 2**-53
    times = sampler(u, progress, torch.arange(64))
    assert (times.t > times.r).all()
    assert (times.r >= times.a).all()
    assert (times.a >= 0).all()
    assert times.w.mean().item() == pytest.approx(1.0)
    assert all(x.dtype == torch.float64 and x.shape == (64,) for x in times[:4])
    assert torch.isfinite(times.t).all()


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
def test_a_row_does_not_depend_on_its_batch(sampler):
    u = torch.rand(8, 2, generator=generator(0, "u"), dtype=torch.float64)
    whole = sampler(u, 0.4, torch.arange(8))
    for i in range(8):
        alone = sampler(u[i : i + 1], 0.4, torch.tensor([i]))
        for many, one in zip(whole[:4], alone[:4], strict=True):
            assert torch.equal(many[i : i + 1], one)


OUT_OF_RANGE = {
    "q": lambda: RatioMap(law=LAW, q=1.0),
    "k": lambda: RatioMap(law=LAW, k=-1.0),
    "b": lambda: RatioMap(law=LAW, b=math.nan),
    "stages": lambda: RatioMap(law=LAW, stages=0),
    "ratio_max": lambda: RatioMap(law=LAW, ratio_max=1.5),
    "std": lambda: LogNormal(mean=0.0, std=0.0),
    "mean": lambda: LogNormal(mean=math.nan, std=1.0),
    "low": lambda: LogNormal(mean=0.0, std=1.0, low=2.0, high=1.0),
    "mean ": lambda: LogStudentT(mean=math.inf),
    "std ": lambda: LogStudentT(std=-1.0),
    "nu": lambda: LogStudentT(nu=0.0),
    "low ": lambda: LogStudentT(low=0.0),
    "fixed_ratio": lambda: RatioMap(law=LAW, fixed_ratio=1.0),
    "share": lambda: Atom(times=RatioMap(law=LAW), at_time=1.0, share=1.0),
    "weight": lambda: Atom(times=RatioMap(law=LAW), at_time=1.0, weight=-0.1),
    "grid": lambda: Levels(grid=(1.0, 2.0, 0.0)),
    "grid ": lambda: Levels(grid=(2.0, 1.0)),
    "segments": lambda: Segments(segments=0, steps=Fixed(8)),
}


@pytest.mark.parametrize(("name", "build"), OUT_OF_RANGE.items(), ids=OUT_OF_RANGE.keys())
def test_an_option_out_of_range_is_named(name, build):
    with pytest.raises(UserError, match=f"^{name.strip()} = .*: expected "):
        build()


def test_adjacent_times_by_number_and_by_value_are_the_same_interval():
    sampler = Adjacent(steps=Fixed(17))
    by_number, grid = sampler.at(torch.arange(17), 0.0), sampler.grid(0.0)
    by_value = sampler.at(grid[1:], 0.0)
    for ours, other in zip(by_number[:4], by_value[:4], strict=True):
        assert torch.equal(ours, other)
    assert sampler.at(grid[3:4] * 1.0001, 0.0).r == grid[3]


@settings(max_examples=50)
@given(segments=st.integers(1, 16), steps=st.integers(1, 300), seed=st.integers(0, 2**31))
def test_a_segments_times_lie_in_it(segments, steps, seed):
    sampler = Segments(segments=segments, steps=Fixed(steps))
    times = sampler(torch.rand(64, 1, generator=generator(seed, "u"), dtype=torch.float64), 0.0)
    total = segments * max(1, round(steps / segments))
    torch.testing.assert_close(times.t - times.r, torch.full_like(times.t, 1 / total))
    for name in ("t", "r"):
        whole = getattr(times, name) * total
        torch.testing.assert_close(whole, whole.round(), rtol=0, atol=1e-9)
    assert ((times.a * segments).round() / segments - times.a).abs().max() < 1e-12
    assert (times.t - times.a <= 1 / segments + 1e-12).all()
    for offset in (0.0, 0.5 / total):
        again = sampler.at(times.t - offset, 0.0)
        assert torch.equal(again.t, times.t)


def test_the_steps_of_a_segment_are_rounded_once():
    """N = 70.49 gives 4 segments 17.62 steps, which are 18."""
    first, last, p = 64, 1280, 0.5 * math.log(70.49 / 64) / math.log(1280 / 64)
    assert Exponential(first, last)(p) == pytest.approx(70.49)
    assert Segments(segments=4, steps=Exponential(first, last)).per_segment(p) == 18
    # 69.7 / 4 = 17.4, and 70 / 4 = 17.5 was rounded up.
    p = 0.5 * math.log(69.7 / 64) / math.log(1280 / 64)
    assert Segments(segments=4, steps=Exponential(first, last)).per_segment(p) == 17


def test_one_segment_per_step_is_diffusion_and_one_in_all_is_a_consistency_model():
    u = torch.rand(64, 1, generator=generator(0, "u"), dtype=torch.float64)
    every = Segments(segments=64, steps=Fixed(64))(u, 0.0)
    assert torch.equal(every.r, every.a)
    single = Segments(segments=1, steps=Fixed(64))(u, 0.0)
    assert (single.a == 0).all()


def test_at_the_anchor_is_the_other_sampler_with_r_moved_to_a():
    inner = Segments(segments=4, steps=Fixed(64))
    u = torch.rand(64, 1, generator=generator(0, "u"), dtype=torch.float64)
    plain, at_anchor = inner(u, 0.5), AtAnchor(times=inner)(u, 0.5)
    assert torch.equal(at_anchor.r, plain.a)
    assert torch.equal(at_anchor.t, plain.t)
    assert torch.equal(AtAnchor(times=inner).at(plain.t, 0.5).r, plain.a)


def test_a_law_wider_than_the_grid_meets_its_outer_intervals():
    sampler = Adjacent(steps=Fixed(10), law=LogNormal(mean=-1.1, std=2.0))
    grid = sampler.grid(0.0)
    times = sampler(torch.tensor([[1e-6], [1 - 1e-9]], dtype=torch.float64), 0.0)
    assert torch.equal(times.t, grid[[1, 10]])
    assert torch.equal(times.r, grid[[0, 9]])
    assert sampler.at(grid[:1], 0.0).r == grid[0]
    steps = Segments(segments=2, steps=Fixed(8))
    assert (steps.at(0.0, 0.0).t, steps.at(1.5, 0.0).t) == (1 / 8, 1.0)


@settings(max_examples=100)
@given(share=st.floats(0, 0.99), first=st.integers(0, 10**7), count=st.integers(1, 300))
def test_an_atom_takes_its_share_of_every_run_of_rows(share, first, count):
    """floor(end share) - floor(start share) of the rows start .. end: the share to within a row."""
    sampler = Atom(times=RatioMap(law=LogStudentT(low=2.0)), at_time=1.0, share=share)
    ordinal = torch.arange(first, first + count)
    times = sampler(torch.full((count, 2), 0.5, dtype=torch.float64), 0.0, ordinal)
    at_atom = int((times.t == 1.0).sum())
    assert at_atom == math.floor((first + count) * share) - math.floor(first * share)
    assert abs(at_atom - count * share) < 1 + 1e-6


@settings(max_examples=100)
@given(
    first=st.integers(0, 1000),
    count=st.integers(1, 40),
    share=st.sampled_from([0.0, 0.1, 0.25, 0.7]),
)
def test_realised_sizes_make_the_sum_of_two_means_in_every_batch(first, count, share):
    """Also where a stratum has no row, which then adds nothing; never NaN."""
    sampler = Atom(
        times=RatioMap(law=LogStudentT()), at_time=1.0, share=share, weight=0.3, realised=True
    )
    u = torch.rand(count, 2, generator=generator(first, "u"), dtype=torch.float64)
    times = sampler(u, 0.0, torch.arange(first, first + count))
    loss = torch.rand(count, generator=generator(first, "loss"), dtype=torch.float64)
    at = times.t == 1.0
    truth = sum(
        part * rows.mean() for part, rows in ((1.0, loss[~at]), (0.3, loss[at])) if len(rows)
    )
    torch.testing.assert_close((times.w * loss).mean(), torch.as_tensor(truth), rtol=1e-12, atol=0)


def test_levels_by_number_and_by_value_are_the_same_move():
    sampler = Levels(grid=(80.0, 5.0, 0.3, 0.0))
    by_number = sampler.at(torch.arange(3), 0.0)
    assert by_number.t.tolist() == [80.0, 5.0, 0.3]
    assert by_number.r.tolist() == [5.0, 0.3, 0.0]
    by_value = sampler.at(by_number.t, 0.0)
    assert torch.equal(by_value.r, by_number.r)
    assert sampler.at(torch.tensor([6.0, 0.1]), 0.0).r.tolist() == [5.0, 0.0]
    u = (torch.arange(300, dtype=torch.float64)[:, None] + 0.5) / 300
    assert torch.equal(
        torch.unique(sampler(u, 0.0).t, return_counts=True)[1], torch.tensor([100, 100, 100])
    )
    assert (Levels(grid=(80.0, 5.0, 0.3, 0.0), first=True)(u, 0.0).t == 80).all()
