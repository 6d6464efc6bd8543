"""The feedback of generator-induced coupling: bounded endpoints, a loop with a fixed point."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

import fewstep as fs
from fewstep.core.denoiser import Models

X0, Z, R = torch.zeros(4, 2), torch.ones(4, 2), 0.5
U = torch.full((4, 2), 0.5, dtype=torch.float64)


def rebuild(method: fs.Method, endpoint: float) -> torch.Tensor:
    """The data that both points of a pair are built from when the model answers `endpoint`."""
    r = torch.full((4,), R, dtype=torch.float64)
    times = fs.times.Times(2 * r, r, 0 * r, 1 + 0 * r, U)
    lead = lambda x, t, cond=None: torch.full_like(x, endpoint)  # noqa: E731
    _, x_r = method.coupling(Models(student=lead, ema=lead), method.process, X0, Z, times, None)
    return x_r - R * Z


@pytest.mark.parametrize(("sigma_data", "limit"), [(0.5, 1.5), (1.0, 3.0), (0.1, 1.0)])
def test_endpoints_stay_within_three_deviations_but_never_within_the_data(sigma_data, limit):
    method = fs.methods.gc(share=1.0, sigma_data=sigma_data)
    for far in (1e5, -1e5):
        torch.testing.assert_close(
            rebuild(method, far), torch.full((4, 2), math.copysign(limit, far))
        )
    near = 0.99 * limit
    torch.testing.assert_close(rebuild(method, near), torch.full((4, 2), near))


def test_no_bound_is_the_papers_coupling():
    method = fs.methods.gc(share=1.0, bound=math.inf)
    torch.testing.assert_close(rebuild(method, 1e5), torch.full((4, 2), 1e5))


def test_levels_that_share_no_weight_settle_where_least_squares_says():
    """A number for each level, fitted level by level to endpoints of the model's own."""
    std, grid = 0.5, fs.times.karras(0.002, 5.0, 20, 7.0).flip(0).tolist()
    source = torch.Generator().manual_seed(0)
    gain = 1.0
    target = 1.0  # the gain that least squares tends to
    for r, t in pairwise(grid):
        x0, z = (torch.randn(200_000, 1, generator=source, dtype=torch.float64) for _ in range(2))
        lead = lambda x, at, cond=None, g=gain: g * x  # noqa: E731
        rows = torch.full((len(x0),), r, dtype=torch.float64)
        times = fs.times.Times(
            rows + (t - r), rows, 0 * rows, 1 + 0 * rows, torch.zeros(len(x0), 2).double()
        )
        coupling = fs.couplings.GeneratorInduced(1.0, fs.targets.Student(), math.inf)
        x_t, x_r = coupling(Models(student=lead), fs.process.edm(), std * x0, z, times, None)
        old = target
        inner = old**2 * (std**2 + r * r)
        target *= (inner + (r + t) * old * r + r * t) / (inner + 2 * t * old * r + t * t)
        gain *= ((x_t * x_r).sum() / (x_t * x_t).sum()).item()
    assert gain * 5.0 == pytest.approx(target * 5.0, rel=5e-3)
    assert target * 5.0 == pytest.approx(0.5233, abs=1e-4)
