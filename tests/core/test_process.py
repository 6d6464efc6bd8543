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
@given(seed=st.integers(0, 2**31), share=st.floats(0.01, 0.999))
def test_aim_in_float32_loses_no_more_than_ten_eps_over_the_gap(process, seed, share):
    x_t, x0_hat = points(seed, dtype=torch.float32)
    t = torch.full((5,), 0.9, dtype=torch.float64)
    s = share * t
    x0 = process.aim(x_t, process.jump(x_t, x0_hat, t, s), t, s)
    size = torch.maximum(x_t.abs().max(), x0_hat.abs().max())
    assert (x0 - x0_hat).abs().max() <= 10 * 2**-23 * size / (1 - share)


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
