"""Rounding of the difference between neighbours: of the shipped digits, by precision."""

from __future__ import annotations

import math

import pytest
import torch

import fewstep as fs
from fewstep.base.randomness import generator
from fewstep.core.process import edm
from fewstep.core.rounding import compares, rounding
from fewstep.core.times import Times
from tests.support.toys import GAUSSIAN

LEVELS = (0.1, 0.5, 2.0, 10.0, 60.0)


@pytest.fixture(scope="module")
def digits():
    """The shipped generator with 128 held-out rows and their noise."""
    model = fs.load("digits")
    rows = fs.data.load("digits").validation.rows(torch.arange(128))
    return model, rows.x0, torch.randn(rows.x0.shape, generator=generator(0, "z")), rows.cond


def ratios(digits, share: float, level: float) -> list[float]:
    model, x0, z, cond = digits
    t = torch.full((len(x0),), level, dtype=torch.float64)
    times = fs.times.Times(t, share * t, 0 * t, torch.ones_like(t))
    passes = (None, torch.bfloat16, torch.float16)
    process = model.method.process
    return rounding(model.denoiser, process, x0, z, times, cond, passes).ratios()


@pytest.mark.parametrize("level", LEVELS)
def test_between_close_neighbours_bf16_is_rounding_and_fp32_is_not(digits, level):
    fp32, bf16, fp16 = ratios(digits, 0.999, level)
    assert fp32 < 1e-2
    assert 1 < bf16 < 100
    assert fp32 < fp16 < bf16


def test_the_ratio_grows_as_neighbours_close_in(digits):
    """A tenfold smaller gap is a tenfold larger share of rounding."""
    for level in LEVELS:
        wide, middle, close = (ratios(digits, share, level) for share in (0.9, 0.99, 0.999))
        assert wide[1] < 0.7
        for i in range(3):
            assert 5 < close[i] / middle[i] < 20
            assert 5 < middle[i] / wide[i] < 20


def test_a_function_has_no_passes_to_round(digits):
    x0 = torch.randn(16, 3, generator=generator(0, "x"))
    t = torch.linspace(0.1, 10, 16, dtype=torch.float64)
    times = fs.times.Times(t, 0.5 * t, 0 * t, torch.ones_like(t))
    parts = rounding(GAUSSIAN, fs.process.edm(), x0, x0.flip(0), times, None, [torch.bfloat16])
    assert parts.ratios()[0] < 1e-5
    assert float(parts.gap.min()) > 0


def test_which_methods_learn_a_difference():
    names = ("ect", "ict", "cd", "gc", "tcm", "mcm")
    assert all(compares(getattr(fs.methods, name)()) for name in names)
    assert not any(compares(getattr(fs.methods, name)()) for name in ("diffusion", "sct"))


def test_what_cannot_be_measured_is_no_zero():
    """A denoiser that takes float32 alone has no truth beside its own answers."""

    def denoiser(x_t, t, cond=None):
        if x_t.dtype != torch.float32:
            raise TypeError("float32 alone")
        return x_t / 2

    x = torch.ones(4, 2)
    t = torch.full((4,), 1.0, dtype=torch.float64)
    times = Times(t, 0.9 * t, 0.9 * t, torch.ones_like(t))
    (ratio,) = rounding(denoiser, edm(), x, x, times, None, [None]).ratios()
    assert math.isnan(ratio)
