"""Closed recursions on Gaussian data tend to the ODE. Where methods end on it: fewstep verify."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import fewstep as fs
from fewstep.core import solvers
from fewstep.exact import recursions

STD = 0.5
COSINE = fs.process.cosine()


@pytest.mark.parametrize("number", [1, 2, 4])
def test_multistep_models_tend_to_the_ode_like_one_over_n(number):
    """Half the steps, twice the error of the standard deviation; DDIM's distillation agrees."""
    missing = []
    for inside in (64, 128, 256):
        ends = recursions.mcm(COSINE, number, inside, STD)[:, -1].prod()
        missing.append(STD - (COSINE.sigma(1.0) * ends).item())
        by_ddim = recursions.mcm(COSINE, number, inside, STD, solvers.ddim)[:, -1].prod()
        torch.testing.assert_close(by_ddim, ends, rtol=1e-9, atol=0)
    assert missing[0] / missing[1] == pytest.approx(2, abs=0.1)
    assert missing[1] / missing[2] == pytest.approx(2, abs=0.05)
    assert all(a > b > 0 for a, b in pairwise(missing))
