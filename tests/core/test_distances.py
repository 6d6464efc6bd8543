"""Distances are what their names say, per sample, with gradients that are finite at 0."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.base.randomness import generator
from fewstep.core.distances import Huber, huber, l2_norm, mse, sse

DISTANCES = {
    "sse": sse,
    "mse": mse,
    "l2_norm": l2_norm,
    "huber": Huber(0.06),
    "huber 0": huber(0.0),
}


def pair(seed: int = 0, scale: float = 1.0):
    source = generator(seed, "pair")
    x = torch.randn(4, 2, 3, generator=source, dtype=torch.float64)
    return x, x + scale * torch.randn(4, 2, 3, generator=source, dtype=torch.float64)


@pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES.keys())
def test_a_batch_is_its_items_and_equal_points_are_at_zero(distance):
    x, y = pair()
    together = distance(x, y)
    assert together.shape == (4,)
    torch.testing.assert_close(
        together, torch.cat([distance(x[i : i + 1], y[i : i + 1]) for i in range(4)])
    )
    same = x.clone().requires_grad_()
    at_zero = distance(same, x)
    at_zero.sum().backward()
    assert (at_zero == 0).all()
    assert (same.grad == 0).all()


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), c=st.floats(1e-4, 10), scale=st.floats(1e-6, 10))
def test_pseudo_huber_lies_between_its_limits(seed, c, scale):
    """||d|| - c <= huber <= min(||d||, ||d||^2 / 2c), and it is the stated formula."""
    x, y = pair(seed, scale)
    d, norm = Huber(c)(x, y), l2_norm(x, y)
    assert (d >= norm - c - 1e-12).all()
    assert (d <= torch.minimum(norm, norm**2 / (2 * c)) * (1 + 1e-12)).all()
    torch.testing.assert_close((d + c) ** 2, norm**2 + c**2)


def test_pseudo_huber_keeps_its_digits_in_float32():
    """At ||d||^2 = 1e-10 the textbook difference has lost a tenth of its value in float32."""
    x, y = torch.zeros(1, 1), torch.full((1, 1), 1e-5)
    exact = Huber(0.03)(x.double(), y.double())
    assert Huber(0.03)(x, y).item() == pytest.approx(exact.item(), rel=1e-6)
    assert abs((sse(x, y) + 0.03**2).sqrt() - 0.03 - exact).item() > 0.01 * exact.item()


def test_the_sum_the_mean_and_the_norm_agree():
    x, y = pair(5)
    torch.testing.assert_close(mse(x, y) * 6, sse(x, y))
    torch.testing.assert_close(l2_norm(x, y) ** 2, sse(x, y))
