"""Solvers show their order on an ODE whose solution is known, and agree where theory says so."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.core import solvers
from tests.support.toys import GAUSSIAN, Gaussian

EDM = fs.process.edm()
PROCESSES = {
    "edm": EDM,
    "trig": fs.process.trig(),  # at sigma_data = std every solver would be of a higher order
    "linear": fs.process.linear(),
    "cosine": fs.process.cosine(shift=(-1.0, 0.5)),
}
ORDERS = {
    "ddim": (solvers.ddim, 1),
    "euler": (solvers.euler, 1),
    "heun": (solvers.heun, 2),
    "alpha 0.8": (partial(solvers.heun, alpha=0.8), 2),
    "ralston": (partial(solvers.heun, alpha=2 / 3), 2),
}


def some(rows: int = 4, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(rows, 3, generator=generator(0, "solvers"), dtype=torch.float64)


def test_ddim_is_euler_on_edm():
    x, t, s = some(), torch.tensor([80.0, 3.0, 0.7, 0.01]), torch.tensor([5.0, 3.0, 0.0, 0.002])
    torch.testing.assert_close(
        solvers.ddim(EDM, GAUSSIAN, x, t, s),
        solvers.euler(EDM, GAUSSIAN, x, t, s),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize(("solver", "order"), ORDERS.values(), ids=ORDERS.keys())
def test_rows_may_start_and_end_anywhere(solver, order):
    """A batch of different times is its rows one by one; rows that do not move stay."""
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
        torch.testing.assert_close(
            solver(EDM, lambda x, t, cond=None: point, x, 3.0, 1.0), point + (x - point) / 3
        )


def test_churn_keeps_the_marginal():
    """With fresh noise on the way the samples keep the data's mean and std, within 4 errors."""
    truth, n = GAUSSIAN, 20_000
    source = generator(1, "churn")
    step = solvers.Churn(steps=200, s_churn=20.0, s_min=0.05, s_max=50.0)
    grid = [*fs.times.karras(0.002, 80.0, 199).tolist(), 0.0]
    start = EDM.prior(torch.randn(n, 1, generator=source, dtype=torch.float64))
    fresh = [torch.randn(n, 1, generator=source, dtype=torch.float64) for _ in grid]
    x = fs.sampling.sample(EDM, truth, start, grid, step, noise=lambda i: fresh[i])
    assert x.mean().item() == pytest.approx(0.3, abs=4 * 0.5 / n**0.5)
    assert x.std().item() == pytest.approx(0.5, abs=4 * 0.5 / (2 * n) ** 0.5)
    quiet = solvers.Churn(steps=40)
    assert torch.equal(
        quiet(EDM, truth, start, 80.0, 60.0, noise=lambda: fresh[0]),
        solvers.heun(EDM, truth, start, 80.0, 60.0),
    )


def test_along_a_grid_is_the_walk_and_rows_may_enter_and_leave_it_anywhere():
    truth, grid = Gaussian(), (80.0, 10.0, 3.0, 1.0, 0.2, 0.0)
    step = solvers.along(solvers.heun, grid)
    x = some()
    torch.testing.assert_close(
        step(EDM, truth, x, 80.0, 0.0), fs.sampling.sample(EDM, truth, x, grid, solvers.heun)
    )
    t, s = (
        torch.tensor(row, dtype=torch.float64)
        for row in ([80.0, 5.0, 1.0, 0.7], [0.5, 0.0, 1.0, 0.3])
    )
    ways = ([80, 10, 3, 1, 0.5], [5, 3, 1, 0.2, 0.0], [1.0], [0.7, 0.3])
    together = step(EDM, truth, x, t, s)
    for i, way in enumerate(ways):
        alone = fs.sampling.sample(EDM, truth, x[i : i + 1], way, solvers.heun)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-12)


def test_along_asks_the_network_only_where_some_row_moves():
    calls = []

    def counting(x, t, cond=None):
        calls.append(t)
        return Gaussian()(x, t)

    step = solvers.along(solvers.ddim, [80.0, 10.0, 3.0, 1.0])
    step(
        EDM,
        counting,
        some(),
        torch.tensor([2.0, 1.0, 0.5, 2.0]),
        torch.tensor([1.0, 1.0, 0.5, 0.0]),
    )
    assert len(calls) == 2  # 2 -> 1, then 1 -> 0
    with pytest.raises(UserError, match="expected decreasing times"):
        solvers.along(solvers.ddim, [1.0, 2.0])


def test_addim_differs_from_ddim_at_second_order_where_noise_is_left():
    process, x, gaps = fs.process.cosine(), some(), (0.1, 0.05, 0.025, 0.0125)
    truth = Gaussian(process=process)
    apart = [
        (
            solvers.addim(process, truth, x, 0.6, 0.6 - gap)
            - solvers.ddim(process, truth, x, 0.6, 0.6 - gap)
        ).norm()
        for gap in gaps
    ]
    assert math.log2(apart[-2] / apart[-1]) == pytest.approx(2, abs=0.1)


def test_addim_keeps_the_second_moment_that_ddim_loses():
    """E||x_s||^2 with x0 drawn from the posterior, whose variance is added (MCM, section 4)."""
    process = fs.process.cosine()
    truth, t, s = Gaussian(mean=0.0, process=process), 0.8, 0.5
    d, n = 4000, 50
    x0, z = (
        torch.randn(n, d, generator=generator(i, "moment"), dtype=torch.float64) for i in range(2)
    )
    x_t = process.mix(0.5 * x0, z, t)
    alpha, sigma = process.alpha(t).item(), process.sigma(t).item()
    posterior = 0.25 * sigma**2 / (alpha**2 * 0.25 + sigma**2)
    true = process.mix(0.5 * x0, z, s).square().mean().item()
    by_addim = solvers.addim(process, truth, x_t, t, s, x_var=posterior).square().mean().item()
    plain = solvers.ddim(process, truth, x_t, t, s).square().mean().item()
    assert by_addim == pytest.approx(true, rel=0.02)
    assert plain < 0.95 * true


def test_variances_by_table_and_by_prior():
    process, t = fs.process.cosine(), torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    table = solvers.TableVariance((0.0, 0.5), (0.1, 0.3))
    torch.testing.assert_close(
        table(some(), t), torch.tensor([0.1, 0.2, 0.3, 0.3], dtype=torch.float64)
    )
    snr = process.level(t) ** -2
    torch.testing.assert_close(solvers.PriorVariance(process=process)(some(), t), 0.1 / (2 + snr))
    share = solvers.PriorVariance(process=process, share=1.0, prior=0.25)(some(), t)
    variance, noise = 0.25 * process.alpha(t) ** 2, process.sigma(t) ** 2
    torch.testing.assert_close(share, 0.25 * noise / (variance + noise))


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
def test_ancestral_moves_keep_the_law_and_without_noise_are_ddim(process):
    """With x0 known, a move of any eta from q(x_t | x0) gives q(x_s | x0).

    Its mean is alpha_s x0, its standard deviation sigma_s.
    """
    x0, z, fresh = (
        torch.randn(20_000, 1, generator=generator(i, "law"), dtype=torch.float64) for i in range(3)
    )
    t, s = process.time_at(3.0).item(), process.time_at(0.8).item()
    for eta in (0.0, 0.5, 1.0):
        point = lambda x, t, cond=None: x0  # noqa: E731
        x_s = solvers.ancestral(
            process, point, process.mix(x0, z, t), t, s, eta=eta, noise=lambda: fresh
        )
        noise = (x_s - process.alpha(s) * x0) / process.sigma(s)
        assert noise.std().item() == pytest.approx(1, abs=4 / (2 * len(x0)) ** 0.5)
        assert noise.mean().item() == pytest.approx(0, abs=4 / len(x0) ** 0.5)
    truth, x = Gaussian(process=process), some()
    still = solvers.ancestral(process, truth, x, t, s, eta=0.0, noise=lambda: x)
    torch.testing.assert_close(still, solvers.ddim(process, truth, x, t, s))


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
def test_strategic_moves_keep_the_law_between_ddim_and_renoising(process):
    """With x0 known, z keeps its part at s', brought up to s; fresh noise adds the rest."""
    # So that the parts of x_s can be read off.
    x0, z, fresh = torch.eye(3, dtype=torch.float64)[:, None]
    t, s = (process.time_at(level).item() for level in (3.0, 0.8))
    for gamma in (0.0, 0.3, 1.0):
        point = lambda x, t, cond=None: x0  # noqa: E731
        x_s = solvers.strategic(
            process, point, process.mix(x0, z, t), t, s, noise=lambda: fresh, gamma=gamma
        )[0]
        low = (1 - gamma) * s
        assert x_s[0].item() == pytest.approx(process.alpha(s).item(), abs=1e-12)
        assert x_s[1].item() == pytest.approx(
            (process.alpha(s) * process.level(low)).item(), abs=1e-12
        )
        assert x_s[1:].norm().item() == pytest.approx(process.sigma(s).item(), abs=1e-12)
    truth, x, noise = Gaussian(process=process), some(), some(scale=2.0)
    calm = solvers.strategic(process, truth, x, t, s, noise=lambda: noise, gamma=0.0)
    torch.testing.assert_close(calm, truth.solve(x, t, s))  # a flow map's jump
    one_time = lambda x, t, cond=None: truth(x, t)  # noqa: E731
    calm = solvers.strategic(process, one_time, x, t, s, noise=lambda: noise, gamma=0.0)
    torch.testing.assert_close(calm, solvers.ddim(process, truth, x, t, s))
    if process.sigma(0.0) == 0:
        wild = solvers.strategic(process, truth, x, t, s, noise=lambda: noise, gamma=1.0)
        torch.testing.assert_close(
            wild, solvers.renoise(process, truth, x, t, s, noise=lambda: noise)
        )
    with pytest.raises(UserError, match="gamma"):
        solvers.strategic(process, truth, x, t, s, noise=lambda: noise, gamma=1.5)


NOISY = {
    "addim": solvers.addim,
    "ancestral": lambda *a: solvers.ancestral(*a, noise=lambda: torch.ones_like(a[2])),
    "strategic": lambda *a: solvers.strategic(*a, noise=lambda: torch.ones_like(a[2])),
}


@pytest.mark.parametrize("solver", NOISY.values(), ids=NOISY.keys())
def test_noisy_rows_that_do_not_move_do_not_ask_the_network(solver):
    def nan_at_rest(x, t, cond=None):
        return torch.where((t == 0)[:, None], torch.nan, GAUSSIAN(x, t))

    x, t, s = some(2), torch.tensor([0.0, 2.0]), torch.tensor([0.0, 0.0])
    out = solver(EDM, nan_at_rest, x, t, s)
    assert torch.equal(out[0], x[0])
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
def test_ancestral_is_finite_for_the_smallest_moves(process):
    t = torch.linspace(0.01, 0.99, 4001, dtype=torch.float64) * process.t_max
    x = torch.zeros(4001, 1, dtype=torch.float64)
    for s in (t, t * (1 - 2**-53)):
        out = solvers.ancestral(process, lambda x, t, cond=None: x, x, t, s, noise=lambda: x)
        assert torch.isfinite(out).all()


def test_addim_is_finite_where_the_guess_leaves_no_noise_and_tables_hold_their_ends():
    x = some()
    out = solvers.addim(EDM, lambda x, t, cond=None: x, x, 2.0, 1.0, x_var=0.5)
    assert torch.equal(out, x)
    table = solvers.TableVariance((0.2, 0.5), (0.1, 0.3))
    early = torch.tensor([0.0, 0.1], dtype=torch.float64)
    torch.testing.assert_close(table(x, early), torch.full((2,), 0.1, dtype=torch.float64))


def test_a_solvers_options_go_along_the_grid():
    x, step = some(), solvers.along(solvers.addim, (3.0, 1.0, 0.0))
    twice = solvers.addim(
        EDM, GAUSSIAN, solvers.addim(EDM, GAUSSIAN, x, 3.0, 1.0, x_var=0.2), 1.0, 0.0, x_var=0.2
    )
    torch.testing.assert_close(step(EDM, GAUSSIAN, x, 3.0, 0.0, x_var=0.2), twice)
