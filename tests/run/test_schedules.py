"""Schedules are continuous, stay in their range, and end where they say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewstep.run.profiles import ema_rate
from fewstep.training.optimizers import lr_factor


@given(
    warmup=st.floats(0.001, 0.4),
    constant=st.floats(0.4, 0.99),
    final=st.floats(0, 1),
    progress=st.floats(0, 1),
)
def test_the_learning_rate_rises_stays_and_falls(warmup, constant, final, progress):
    factor = lr_factor(progress, warmup, constant, final)
    assert 0 <= factor <= 1 + 1e-12
    if warmup <= progress <= constant:
        assert factor == 1
    later = lr_factor(min(1.0, progress + 1e-7), warmup, constant, final)
    assert later == pytest.approx(factor, abs=1e-7 * (1 / warmup + 4 / (1 - constant)) + 1e-12)
    assert lr_factor(1.0, warmup, constant, final) == pytest.approx(final)


def test_a_constant_rate_and_no_warm_up_are_possible():
    assert [lr_factor(p, 0.0, 1.0, 0.0) for p in (0.0, 0.5, 1.0)] == [1, 1, 1]


@given(step=st.integers(0, 10**7), decay=st.floats(0, 0.99999))
def test_the_average_never_keeps_more_than_asked(step, decay):
    assert 0 <= ema_rate(step, decay) <= decay
    assert ema_rate(step, decay) <= ema_rate(step + 1, decay)
