"""The moves of a process are inverse to each other, exact in their limits, and have their rates."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fewstep as fs
from fewstep.base.randomness import generator
from fewstep.core import scalings
from fewstep.core.denoiser import across
from fewstep.core.process import expand
from tests.support.toys import Gaussian

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
TABLE = fs.process.discrete(betas=BETAS)
PROCESSES = {
    "edm": fs.process.edm(),
    "trig": fs.process.trig(sigma_data=0.5),
    "linear": fs.process.linear(),
    "clipped cosine": fs.process.cosine(),  # sigma(0) > 0
    "shifted cosine": fs.process.cosine(logsnr=(-10, 12), shift=(-1.4, -1.4)),
    "interpolated cosine": fs.process.cosine(shift=(-1.4, 0.7)),
    "table": TABLE,
}

pytestmark = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


def follows_its_rates(process):
    """A table's rates are those of the process it discretises, its own slopes only to O(beta)."""
    return {"rtol": 0.025, "atol": 1e-3} if process is TABLE else {"rtol": 1e-10, "atol": 1e-11}


def points(
    seed: int, rows: int = 5, shape: tuple[int, ...] = (2, 3), dtype: torch.dtype = torch.float64
):
    source = generator(seed, "points")
    return [torch.randn(rows, *shape, generator=source, dtype=dtype) for _ in range(2)]


def times(process, seed: int, rows: int = 5):
    """Pairs t > s >= 0 over the whole range, the data end included."""
    source = generator(seed, "times")
    low = process.t_min if process.t_min > 0 else 0.01 * process.t_max
    high = 0.98 * process.t_max
    t = low + torch.rand(rows, generator=source, dtype=torch.float64) * (high - low)
    s = t * torch.rand(rows, generator=source, dtype=torch.float64)
    s[0] = 0.0
    return t, s


@settings(max_examples=50)
@given(seed=st.integers(0, 2**31))
def test_aim_inverts_jump(process, seed):
    x_t, x0_hat = points(seed)
    t, s = times(process, seed)
    # The difference of the points is divided by the gap.
    gap = process._move(t, s)[1].abs().min().item()
    x0 = process.aim(x_t, process.jump(x_t, x0_hat, t, s), t, s)
    torch.testing.assert_close(x0, x0_hat, rtol=0, atol=100 * 2**-52 * x_t.abs().max().item() / gap)


@settings(max_examples=50)
@given(seed=st.integers(0, 2**31), share=st.floats(0.01, 0.999))
def test_aim_in_float32_loses_no_more_than_ten_eps_over_the_gap(process, seed, share):
    x_t, x0_hat = points(seed, dtype=torch.float32)
    t = torch.full((5,), 0.9, dtype=torch.float64)
    s = share * t
    x0 = process.aim(x_t, process.jump(x_t, x0_hat, t, s), t, s)
    size = torch.maximum(x_t.abs().max(), x0_hat.abs().max())
    assert (x0 - x0_hat).abs().max() <= 10 * 2**-23 * size / (1 - share)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_jump_with_the_true_data_stays_on_the_trajectory(process, seed):
    x0, z = points(seed)
    t, s = times(process, seed)
    torch.testing.assert_close(
        process.jump(process.mix(x0, z, t), x0, t, s), process.mix(x0, z, s), rtol=1e-12, atol=1e-11
    )


def test_jump_nowhere_is_the_identity_whatever_the_network_says(process):
    x_t, _ = points(0)
    for x0_hat in (torch.full_like(x_t, float("nan")), torch.full_like(x_t, float("inf"))):
        for t in (torch.full((5,), 3.0), torch.zeros(5), 0.0):
            assert torch.equal(process.jump(x_t, x0_hat, t, t), x_t)


def test_jump_to_the_data_and_aim_from_it_are_identities(process):
    x_t, x0_hat = points(1)
    t, zero = times(process, 1)[0], torch.zeros(5)
    if (process.sigma(zero) == 0).all():
        assert torch.equal(process.jump(x_t, x0_hat, t, zero), x0_hat)
        assert torch.equal(process.aim(x_t, x0_hat, t, zero), x0_hat)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_velocity_is_the_rate_of_jump_at_equal_times(process, seed):
    x_t, x0_hat = points(seed)
    t, _ = times(process, seed)
    _, rate = torch.func.jvp(lambda s: process.jump(x_t, x0_hat, t, s), (t,), (torch.ones_like(t),))
    torch.testing.assert_close(process.velocity(x_t, x0_hat, t), rate, **follows_its_rates(process))


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_rates_are_the_derivatives_of_the_coefficients(process, seed):
    t, _ = times(process, seed)
    for name in ("alpha", "sigma"):
        function = getattr(process.schedule, name)
        _, rate = torch.func.jvp(lambda s, f=function: f(s) + 0 * s, (t,), (torch.ones_like(t),))
        torch.testing.assert_close(
            getattr(process.schedule, f"{name}_rate")(t), rate, **follows_its_rates(process)
        )


def test_the_level_rises_and_has_the_inverse_it_claims(process):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)[1:-1] * process.t_max
    level = process.level(t)
    assert (level.diff() > 0).all()
    torch.testing.assert_close(process.time_at(level), t, rtol=1e-9, atol=1e-12)


def test_a_denoiser_of_another_process_says_the_same_of_the_same_noise_level(process):
    """Gaussian data: the edm denoiser asked in this process's times is this process's denoiser."""
    x, _ = points(6)
    t, _ = times(process, 6)
    own = Gaussian(process=process)
    torch.testing.assert_close(
        across(Gaussian(), fs.process.edm(t_max=1e9), process)(x, t), own(x, t)
    )
    torch.testing.assert_close(across(own, process, fs.process.edm())(x, 0.7), Gaussian()(x, 0.7))
    assert across(own, process, process) is own


SCALINGS = {
    "edm": scalings.Edm(sigma_data=0.7),
    "vp": scalings.Vp(),
    "ve": scalings.Ve(),
    "eps": scalings.Eps(),
    "v": scalings.V(),
    "flow": scalings.Flow(),
    "x0": scalings.X0(),
}


@pytest.mark.parametrize("kind", SCALINGS.values(), ids=SCALINGS.keys())
@settings(max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_conversions_are_inverse_to_each_other(process, kind, seed):
    x_t, x0_hat = points(seed)
    t, _ = times(process, seed)
    raw = scalings.from_x0(kind, process, x_t, x0_hat, t)
    gap = 1e-12 * (1 + (process.level(t).max() + 1 / process.level(t).min()).item())
    torch.testing.assert_close(
        scalings.to_x0(kind, process, x_t, raw, t), x0_hat, rtol=gap, atol=gap
    )
    back = scalings.from_x0(kind, process, x_t, scalings.to_x0(kind, process, x_t, x0_hat, t), t)
    torch.testing.assert_close(back, x0_hat, rtol=gap, atol=gap)


def test_each_prediction_is_what_its_name_says(process):
    """For true x0 and z: eps is z, v is alpha z - sigma x0, the flow is alpha' x0 + sigma' z."""
    x0, z = points(7)
    t, _ = times(process, 7)
    x_t = process.mix(x0, z, t)
    alpha, sigma = expand(process.alpha(t), x0), expand(process.sigma(t), x0)
    alpha_rate = expand(process.schedule.alpha_rate(t), x0)
    sigma_rate = expand(process.schedule.sigma_rate(t), x0)
    outputs = {
        "eps": z,
        "v": alpha * z - sigma * x0,
        "flow": alpha_rate * x0 + sigma_rate * z,
        "x0": x0,
    }
    for name, truth in outputs.items():
        raw = scalings.from_x0(SCALINGS[name], process, x_t, x0, t)
        torch.testing.assert_close(raw, truth, rtol=1e-9, atol=1e-9)
    flow = scalings.from_x0(SCALINGS["flow"], process, x_t, x0, t)
    torch.testing.assert_close(process.velocity(x_t, x0, t), flow, rtol=1e-9, atol=1e-9)


def test_edm_scaling_sees_unit_variance_and_asks_for_it(process):
    """in^2 Var x_t = 1, and (x0 - skip x_t) / out has variance 1, on any process."""
    t, sd = times(process, 8)[0], 0.7
    c = scalings.Edm(sigma_data=sd)(process, t)
    alpha, sigma = process.alpha(t), process.sigma(t)
    torch.testing.assert_close(c.in_**2 * ((alpha * sd) ** 2 + sigma**2), torch.ones_like(t))
    ideal = ((1 - c.skip * alpha) * sd) ** 2 + (c.skip * sigma) ** 2
    torch.testing.assert_close(ideal / c.out**2, torch.ones_like(t), rtol=1e-8, atol=0)


def test_equal_times_and_the_data_end_have_finite_values_and_gradients(process):
    for t, s in ((0.0, 0.0), (1.0, 1.0), (1.0, 0.0)):
        x_t, x0_hat = (x.requires_grad_() for x in points(2))
        out = (
            process.jump(x_t, x0_hat, t, s)
            + process.aim(x_t, x0_hat, t, s)
            + process.velocity(x_t, x0_hat, t)
        )
        out.sum().backward()
        for value in (out, x_t.grad, x0_hat.grad):
            assert torch.isfinite(value).all()


@pytest.mark.parametrize("shape", [(1,), (7,), (1, 8, 8), (2, 3, 4, 5)])
def test_any_shape_and_dtype_goes_through(process, shape):
    for dtype in (torch.float32, torch.float64):
        x, y = points(3, shape=shape, dtype=dtype)
        t, s = times(process, 3)
        for out in (
            process.mix(x, y, t),
            process.jump(x, y, t, s),
            process.aim(x, y, t, s),
            process.velocity(x, y, t),
        ):
            assert out.shape == x.shape
            assert out.dtype == dtype


def test_a_time_for_all_rows_is_that_time_for_each(process):
    x, y = points(4)
    each = torch.full((5,), 2.5)
    assert torch.equal(process.jump(x, y, 2.5, 1.0), process.jump(x, y, each, torch.ones(5)))
    assert torch.equal(process.mix(x, y, 2.5), process.mix(x, y, each))
