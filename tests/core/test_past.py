"""Solvers that remember: the numbers of diffusers, their orders, and where they may not look."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.core import solvers
from fewstep.core.process import Process
from fewstep.core.solvers.past import _dpm_weights, _unic_weights, _unip_weights
from tests.support.rows import long_if
from tests.support.toys import Gaussian

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
TABLE = fs.process.discrete(betas=BETAS)
PROCESSES = {
    "edm": fs.process.edm(),
    "trig": fs.process.trig(),
    "linear": fs.process.linear(),
    "cosine": fs.process.cosine(shift=(-1.0, 0.5)),
    "table": TABLE,
}
SOLVERS = {
    **{f"dpm-solver {k}": solvers.dpm_solver(k) for k in (1, 2, 3)},
    **{f"unipc {k} {b}": solvers.unipc(k, b) for k in (1, 2, 3) for b in ("bh1", "bh2")},
}
# To sigma = 0 their bh1 is NaN.
ENDS = [(name, end) for name in SOLVERS for end in ("zero", "sigma_min")]
ENDS = [(name, end) for name, end in ENDS if end == "sigma_min" or not name.endswith("bh1")]


def some(rows: int = 5) -> torch.Tensor:
    return torch.randn(rows, 3, generator=generator(0, "past"), dtype=torch.float64)


def curved(process: Process):
    """A denoiser whose guesses bend on the way."""
    truth = Gaussian(process=process)
    return lambda x_t, t, cond=None: truth(x_t, t) + 0.1 * x_t.tanh()


def theirs(name: str, moves: int, end: str):
    """The scheduler of diffusers and its times here."""
    diffusers = pytest.importorskip("diffusers")
    kind, order, *form = name.split()
    options = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "sample",
        "final_sigmas_type": end,
        "solver_order": int(order),
    }
    if kind == "unipc":
        scheduler = diffusers.UniPCMultistepScheduler(**options, solver_type=form[0])
    else:
        scheduler = diffusers.DPMSolverMultistepScheduler(**options)
    scheduler.set_timesteps(moves)
    grid = TABLE.time_at(scheduler.sigmas.double()).tolist()
    return scheduler, [*grid[:-1], 0.0] if end == "zero" else grid


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(("name", "end"), ENDS)
@pytest.mark.parametrize("moves", [1, 2, 3, 5, 14, 15])
def test_the_numbers_are_those_of_diffusers(name, end, moves):
    """Fewer than 15 moves and more, to sigma = 0 and above it: the rules for the last moves."""
    scheduler, grid = theirs(name, moves, end)
    denoiser = curved(TABLE)
    x = z = some()
    for place, timestep in enumerate(scheduler.timesteps):
        x = scheduler.step(denoiser(x, grid[place]), timestep, x, return_dict=False)[0]
    ours = fs.sampling.sample(TABLE, denoiser, z, grid, SOLVERS[name])
    torch.testing.assert_close(ours, x, rtol=0, atol=2e-6)  # their levels are float32


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
def test_first_order_is_ddim(process):
    grid = fs.sampling.sampler("ddim").times(process, 6)
    ours, ddim = (
        fs.sampling.sample(process, curved(process), process.prior(some()), grid, step)
        for step in (solvers.dpm_solver(1), solvers.ddim)
    )
    assert torch.equal(ours, ddim)
    one = (process, curved(process), some(), *grid[1:3])
    assert torch.equal(solvers.unipc(3)(*one), solvers.ddim(*one))  # without a past


def error(process: Process, solver: solvers.LinearMultistep, n: int) -> float:
    """Of n moves from level 3 to 0.4, even in the logarithm, on Gaussian data."""
    truth = Gaussian(process=process)
    levels = torch.linspace(math.log(3.0), math.log(0.4), n + 1, dtype=torch.float64).exp()
    grid = process.time_at(levels).tolist()
    x = some()
    end = truth.solve(x, grid[0], grid[-1])
    # A final order below the solver's own would show in the last moves.
    past = solvers.Past(10**9)
    for t, s in pairwise(grid):
        x = solver(process, truth, x, t, s, past=past)
    return (x - end).abs().max().item()


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(
    "process",
    [
        pytest.param(one, marks=long_if(name in ("linear", "trig", "cosine")), id=name)
        for name, one in PROCESSES.items()
    ],
)
def test_the_error_falls_with_the_order(process, name):
    """UniPC's corrector adds one; first moves of low orders leave 2 of 3M, 3 of UniPC's 4."""
    kind, order, *_ = name.split()
    claim = min(int(order) + 1, 3) if kind == "unipc" else min(int(order), 2)
    solver = SOLVERS[name]
    shown = math.log2(error(process, solver, 32) / error(process, solver, 64))
    assert shown > claim - 0.35


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_weights_are_shares_exact_for_polynomials_in_lambda(count, seed):
    """Sum 1; and of the true integral where the solver has all its coefficients."""
    gaps = 0.1 + torch.rand(count + 1, generator=generator(seed, "gaps"), dtype=torch.float64)
    levels = (-gaps.cumsum(0)).tolist()
    end = 0.0
    for weights in (
        _dpm_weights(levels[:count], end),
        _unip_weights(levels[:count], end, form="bh1"),
        _unip_weights(levels[:count], end, form="bh2"),
        _unic_weights([end, *levels[:count]], end, form="bh2"),
    ):
        assert sum(weights) == pytest.approx(1, abs=1e-12)
    if count == 3:
        for weights, points in (
            (_unip_weights(levels[:3], end, form="bh2"), levels[:3]),
            (_unic_weights([end, *levels[:2]], end, form="bh2"), [end, *levels[:2]]),
        ):
            for power in (1, 2):
                got = sum(w * p**power for w, p in zip(weights, points, strict=True))
                assert got == pytest.approx(_mean(levels[0], end, power), rel=1e-6)


def _mean(start: float, end: float, power: int) -> float:
    at = torch.linspace(start, end, 20_001, dtype=torch.float64)
    weight = (at - end).exp()
    return float(torch.trapezoid(weight * at**power, at) / torch.trapezoid(weight, at))


def test_pure_noise_is_no_point_of_later_moves():
    """There alpha = 0 and lambda = -inf; bh1 has no corrector for the first move."""
    process = fs.process.linear()
    for name, solver in SOLVERS.items():
        x = fs.sampling.sample(
            process, curved(process), process.prior(some()), [1.0, 0.8, 0.5, 0.2, 0.0], solver
        )
        assert torch.isfinite(x).all(), name
    assert _unic_weights([0.0, -math.inf], 0.0, form="bh2") == [0.5, 0.5]
    assert _unic_weights([0.0, -math.inf], 0.0, form="bh1") == [0.0, 1.0]


def test_a_past_belongs_to_one_solution():
    """The same again, from the same noise."""
    grid = fs.sampling.sampler("unipc").times(TABLE, 6)
    a, b = (
        fs.sampling.sample(TABLE, curved(TABLE), some(), grid, solvers.unipc()) for _ in range(2)
    )
    assert torch.equal(a, b)


def test_what_there_is_not_is_refused():
    for make in (solvers.dpm_solver, solvers.unipc):
        with pytest.raises(UserError, match="order = 4: expected 1, 2 or 3"):
            make(4)
    with pytest.raises(UserError, match="form = 'bh3': expected bh1 or bh2"):
        solvers.unipc(2, "bh3")
