"""Solvers show their order on an ODE whose solution is known, and agree where theory says so."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

import fewstep as fs
from fewstep import solvers
from fewstep.randomness import generator
from tests.toys import GAUSSIAN

EDM = fs.process.edm()
ORDERS = {
    "ddim": (solvers.ddim, 1),
    "euler": (solvers.euler, 1),
    "heun": (solvers.heun, 2),
    "alpha 0.8": (partial(solvers.heun, alpha=0.8), 2),
    "ralston": (partial(solvers.heun, alpha=2 / 3), 2),
}


def some(rows: int = 4, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(rows, 3, generator=generator(0, "solvers"), dtype=torch.float64)


@pytest.mark.parametrize(("solver", "order"), ORDERS.values(), ids=ORDERS.keys())
def test_the_empirical_order_is_the_claimed_one(solver, order):
    truth, x = GAUSSIAN, some()
    errors = []
    for n in (64, 128, 256):
        grid = torch.linspace(3.0, 0.4, n + 1, dtype=torch.float64).tolist()
        end = fs.sampling.walk(EDM, truth, x, grid, solver)
        errors.append((end - truth.solve(x, 3.0, 0.4)).abs().max().item())
    slopes = [math.log2(errors[i] / errors[i + 1]) for i in range(2)]
    assert slopes[-1] == pytest.approx(order, abs=0.05)


def test_ddim_is_euler_on_edm():
    x, t, s = some(), torch.tensor([80.0, 3.0, 0.7, 0.01]), torch.tensor([5.0, 3.0, 0.0, 0.002])
    torch.testing.assert_close(
        solvers.ddim(EDM, GAUSSIAN, x, t, s), solvers.euler(EDM, GAUSSIAN, x, t, s), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(("solver", "order"), ORDERS.values(), ids=ORDERS.keys())
def test_rows_may_start_and_end_anywhere(solver, order):
    """A batch of different times is its rows one by one; rows that do not move stay, at the data end too."""
    x = some(5)
    t, s = torch.tensor([80.0, 3.0, 0.7, 2.0, 0.0]), torch.tensor([5.0, 0.0, 0.7, 1.0, 0.0])
    together = solver(EDM, GAUSSIAN, x, t, s)
    for i in range(5):
        alone = solver(EDM, GAUSSIAN, x[i : i + 1], t[i].item(), s[i].item())
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(together[[2, 4]], x[[2, 4]], rtol=0, atol=0)


@pytest.mark.parametrize(("solver", "order"), ORDERS.values(), ids=ORDERS.keys())
def test_rows_that_do_not_move_do_not_ask_the_network(solver, order):
    def nan_at_rest(x, t, cond=None):
        return torch.where((t == 0)[:, None], torch.nan, GAUSSIAN(x, t))

    x, t, s = some(2), torch.tensor([0.0, 2.0]), torch.tensor([0.0, 0.0])
    out = solver(EDM, nan_at_rest, x, t, s)
    assert torch.equal(out[0], x[0])
    assert torch.isfinite(out).all()


def test_one_move_is_exact_where_the_data_is_one_point():
    point = some(1)
    x = EDM.mix(point, some(1), 3.0)
    for solver, _ in ORDERS.values():
        torch.testing.assert_close(solver(EDM, lambda x, t, cond=None: point, x, 3.0, 1.0), point + (x - point) / 3)


def test_churn_keeps_the_marginal():
    """With fresh noise on the way the samples still have the data's spread: mean and std within 4 errors."""
    truth, n = GAUSSIAN, 20_000
    source = generator(1, "churn")
    step = solvers.Churn(steps=200, s_churn=20.0, s_min=0.05, s_max=50.0)
    grid = [*fs.times.karras(0.002, 80.0, 199).tolist(), 0.0]
    start = EDM.prior(torch.randn(n, 1, generator=source, dtype=torch.float64))
    fresh = [torch.randn(n, 1, generator=source, dtype=torch.float64) for _ in grid]
    x = fs.sampling.walk(EDM, truth, start, grid, step, noise=lambda i: fresh[i])
    assert x.mean().item() == pytest.approx(0.3, abs=4 * 0.5 / n**0.5)
    assert x.std().item() == pytest.approx(0.5, abs=4 * 0.5 / (2 * n) ** 0.5)
    quiet = solvers.Churn(steps=40)
    assert torch.equal(
        quiet(EDM, truth, start, 80.0, 60.0, noise=lambda: fresh[0]), solvers.heun(EDM, truth, start, 80.0, 60.0)
    )


def test_one_step_of_a_consistency_model_is_its_denoiser():
    """With the exact map as the student, one step samples the data's law exactly."""
    truth = GAUSSIAN

    def perfect(x, t, cond=None):
        return truth.solve(x, t, 0.0)

    x = EDM.prior(some())
    out = fs.sampling.walk(EDM, perfect, x, [80.0, 0.0], solvers.renoise, noise=lambda i: some())
    assert torch.equal(out, perfect(x, 80.0))
    twice = fs.sampling.walk(EDM, perfect, x, [80.0, 0.8, 0.0], solvers.renoise, noise=lambda i: some())
    torch.testing.assert_close(twice, perfect(out + 0.8 * some(), 0.8))
