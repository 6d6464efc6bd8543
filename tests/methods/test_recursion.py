"""Methods on Gaussian data against closed recursions: a linear student, fitted level by level."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import fewstep as fs
from fewstep.core import solvers
from fewstep.core.times import karras
from fewstep.exact import recursions

STD, ROWS, SHAPE = 0.5, 4000, (8,)
EDM, COSINE = fs.process.edm(), fs.process.cosine()
GRID = karras(0.002, 80.0, 10).flip(0)


Fit = list[tuple[float, float]]  # a slope and its standard error, level by level


TRUTH = fs.exact.Gaussian(0.0, STD)
IDEAL = lambda x, t, cond=None: TRUTH.solve(x, t, 0.0)  # noqa: E731


@pytest.mark.parametrize("number", [1, 2, 4])
def test_multistep_models_tend_to_the_ode_like_one_over_n(number):
    """Halving the steps halves what is missing of the standard deviation, by data and by DDIM."""
    missing = []
    for inside in (64, 128, 256):
        ends = recursions.mcm(COSINE, number, inside, STD)[:, -1].prod()
        missing.append(STD - (COSINE.sigma(1.0) * ends).item())
        by_ddim = recursions.mcm(COSINE, number, inside, STD, solvers.ddim)[:, -1].prod()
        torch.testing.assert_close(by_ddim, ends, rtol=1e-9, atol=0)
    assert missing[0] / missing[1] == pytest.approx(2, abs=0.1)
    assert missing[1] / missing[2] == pytest.approx(2, abs=0.05)
    assert all(a > b > 0 for a, b in pairwise(missing))
