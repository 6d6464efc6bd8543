"""Costs of pairs of data and noise: closed forms, draws, the ideal generator's pairs."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from scipy.integrate import quad

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import SAMPLING_BLOCK, generator, normal
from fewstep.exact import recursions, transport

EDM = fs.process.edm()
PROCESSES = {
    "edm": EDM,
    "linear": fs.process.linear(),
    "trig": fs.process.trig(sigma_data=0.5, level_max=80.0),
}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
TWO = {"weights": [1, 2], "means": [[-0.5], [0.6]], "std": [0.05, 0.2]}


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed, "test transport"), dtype=torch.float64)


@every_process
def test_a_gaussians_costs_are_closed(process):
    """c = m^2 + s^2 + 1 - 2 s sigma / sqrt(..): of solved rows, from independent to optimal."""
    mean, std, n = 0.3, 0.5, 20_000
    law = fs.exact.Gaussian(torch.full((1,), mean), std, process)
    x0, z = law.sample(n).double(), normals(n, 1)
    times = process.time_at(torch.tensor([1e-4, 0.1, 0.5, 2.0, 20.0]))
    formula = transport.gaussian(process, times, std, mean)
    for t, target in zip(times, formula, strict=True):
        result = transport.mean(transport.cost(transport.ends(law, x0, z, t), z))
        assert abs(result.value - target) < 4.5 * result.error
    assert transport.independent(law) == pytest.approx(mean**2 + std**2 + 1, rel=1e-7)
    assert formula[0].item() == pytest.approx(transport.independent(law), rel=1e-3)
    assert transport.gaussian(process, process.t_max, std, mean).item() == pytest.approx(
        transport.optimal(law), rel=1e-4
    )
    assert all(a > b for a, b in pairwise(formula.tolist()))


@pytest.mark.parametrize("name", ["ring8", "grid25", "digits-mixture"])
def test_the_cost_of_a_generators_pairs_falls_with_the_level(name):
    """GC's claim for the ideal model: the cost falls to below minibatch transport's.

    Differences of neighbouring levels are of the same rows.
    """
    law = fs.exact.named(name)
    digits = name == "digits-mixture"
    n, levels = (
        (64, (0.1, 0.5, 2.0, 80.0))
        if digits
        else (256, (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0, 80.0))
    )
    result = transport.curve(law, levels, n=n, batch=n, moves=12 if digits else None)
    assert result.alone.value > result.costs[0] > 0.9 * result.alone.value
    assert all(a > b for a, b in pairwise(result.costs.tolist()))
    assert result.minibatch is not None
    assert result.costs[-1] < result.minibatch.value < result.alone.value
    assert abs(result.alone.value - result.independent) < 4.5 * result.alone.error


def test_a_counted_number_of_moves_is_nearly_the_solution():
    law = fs.exact.named("ring8", fs.process.linear())
    x0, z = law.sample(64).double(), normals(64, 2)
    exact, near, nearer = (transport.ends(law, x0, z, 0.8, moves) for moves in (None, 16, 64))
    assert (nearer - exact).square().mean().sqrt() < 0.02
    assert (nearer - exact).norm() < (near - exact).norm()


def test_costs_that_are_known_of_any_law():
    """The independent one against draws, and on full covariances, points and mixtures alike."""
    root = normals(2, 3, 3, seed=1)
    for law in (
        fs.exact.Mixture(weights=[1, 3], means=normals(2, 3), covs=root @ root.mT),
        fs.exact.Mixture(weights=[1, 3], means=normals(2, 3), std=[0.1, 2.0]),
        fs.exact.Empirical(normals(5, 3)),
        fs.exact.Gaussian(normals(3), normals(3, seed=2).abs()),
    ):
        x0 = law.sample(40_000).double()
        result = transport.mean(transport.cost(x0, normals(*x0.shape, seed=3)))
        assert abs(result.value - transport.independent(law)) < 4.5 * result.error
        assert law.variance == pytest.approx(x0.var(0).mean().item(), rel=0.05)


def test_the_optimal_cost_of_one_gaussian_is_bures():
    root = normals(3, 3, seed=1)
    cov, mean = root @ root.T, normals(1, 3)
    law = fs.exact.Mixture(weights=[1], means=mean, covs=cov[None])
    matrix_root = torch.linalg.eigh(cov)
    half = matrix_root[1] @ matrix_root[0].sqrt().diag() @ matrix_root[1].T
    target = (mean.square().sum() + cov.trace() + 3 - 2 * half.trace()) / 3
    assert transport.optimal(law) == pytest.approx(target.item(), rel=1e-12)
    assert transport.optimal(fs.exact.Gaussian(mean[0], 0.5)) == pytest.approx(
        mean.square().mean().item() + 0.25
    )


def test_the_optimal_cost_on_the_line_pairs_quantiles():
    law = fs.exact.Mixture(**TWO)
    line = fs.exact.line(law)

    x = torch.linspace(-1.5, 2.5, 8001, dtype=torch.float64)
    density = law.log_density(x[:, None], 0.0).exp()
    target = ((x - line.score(x, 0.0)).square() * density).sum().item() / 2000
    assert transport.optimal(law) == pytest.approx(target, rel=1e-9)
    # Two components that are one Gaussian.
    one = fs.exact.Mixture(weights=[1, 1], means=[[0.3], [0.3]], std=0.5)
    assert transport.optimal(one) == pytest.approx(0.09 + 0.25, abs=1e-9)
    curve = transport.curve(law, [80.0], n=2000, batch=None)
    assert curve.minibatch is None
    assert curve.costs[0].item() == pytest.approx(
        transport.optimal(law), abs=4.5 * curve.errors[0].item()
    )


@every_process
def test_the_map_on_the_line_is_the_flow(process):
    law = fs.exact.Mixture(**TWO, process=process)
    line = fs.exact.line(law)
    t = 0.7 * process.t_max
    x = process.mix(law.sample(50).double(), normals(50, 1), t)
    torch.testing.assert_close(
        line.flow(x[:, 0], t, 0.0), law.solve(x, t, 0.0)[:, 0], rtol=0, atol=2e-9
    )
    q = torch.tensor([-30.0, -8.0, -1.0, 0.0, 0.4, 5.0, 30.0]).double()
    torch.testing.assert_close(line.score(line.quantile(q, t), t), q, rtol=1e-10, atol=1e-13)


def test_minibatch_transport_deals_every_noise_once_at_no_greater_cost():
    x0, z = fs.exact.ring8().sample(64), normals(64, 2).float()
    whole, parts = transport.reassign(x0, z), transport.reassign(x0, z, 16)
    for again, rows in ((whole, 64), (parts, 16)):
        for a, b in zip(again.split(rows), z.split(rows), strict=True):
            torch.testing.assert_close(a.sort(0).values, b.sort(0).values, rtol=0, atol=1e-6)
    costs = [transport.cost(x0, noise).mean() for noise in (whole, parts, z)]
    assert costs[0] < costs[1] < costs[2]


def test_rows_that_fill_no_batch_are_not_dealt():
    """Of 100 rows in batches of 64 the cost is the first batch's: fewer rows pair worse."""
    law = fs.exact.ring8()
    result = transport.curve(law, [1.0], n=100, batch=64, moves=4)
    x0, z = law.sample(64).double(), normal(0, "transport", 0, 64, (2,), SAMPLING_BLOCK).double()
    assert result.minibatch.value == pytest.approx(
        transport.cost(x0, transport.reassign(x0, z)).mean().item(), rel=1e-12
    )
    assert math.isnan(result.minibatch.error)


@every_process
@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_the_discrepancy_is_the_spread_of_lines_about_the_flow(process, kind):
    """E ||alpha' x0 + sigma' z - v(x_t, t)||^2 / d by draws, and by the posterior variance."""
    gaussian = fs.exact.Gaussian(torch.zeros(2), 0.5, process)
    law = gaussian if kind == "gaussian" else fs.exact.named("ring8", process)
    n = 20_000
    x0, z = law.sample(n).double(), normals(n, 2)
    for level in (0.1, 0.5, 3.0):
        t = process.time_at(level)
        x_t = process.mix(x0, z, t)
        away = process.rate(x0, z, t) - process.velocity(x_t, law(x_t, t), t)
        gap = away.square().mean(1) - transport.discrepancy(law, x_t, t)
        assert abs(gap.mean()) < 4.5 * gap.std() / n**0.5 + 1e-12
        if kind == "gaussian":
            formula = transport.gaussian_discrepancy(process, t, 0.5).item()
            torch.testing.assert_close(
                transport.discrepancy(law, x_t, t), torch.full((n,), formula).double()
            )


@every_process
def test_a_generators_lines_are_nearer_to_a_flow(process):
    """Of (x0_hat, z), jointly Gaussian, the residual of the regression of the rate on the point."""
    std, n = 0.5, 40_000
    law = fs.exact.Gaussian(torch.zeros(1), std, process)
    x0, z = law.sample(n).double(), normals(n, 1)
    for level in (0.2, 1.0, 5.0):
        t = process.time_at(level)
        x0_hat = transport.ends(law, x0, z, t)
        point, rate = process.mix(x0_hat, z, t), process.rate(x0_hat, z, t)
        left = rate - (rate * point).sum() / point.square().sum() * point
        formula = transport.gaussian_discrepancy(process, t, std, generated=True).item()
        assert left.square().mean().item() == pytest.approx(formula, rel=4.5 * math.sqrt(2 / n))
        assert formula < transport.gaussian_discrepancy(process, t, std).item()


def test_discrepancies_on_edm_by_hand():
    """s^2 / (s^2 + t^2), and s^4 / [(s^2 + t^2) (s^2 + t^2 + 2 a t^2)]."""
    t, s = torch.tensor([0.5, 1.0, 5.0]).double(), 0.5
    a = s / (s**2 + t**2).sqrt()
    plain, own = (transport.gaussian_discrepancy(EDM, t, s, generated=g) for g in (False, True))
    torch.testing.assert_close(plain, s**2 / (s**2 + t**2), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        own, s**4 / ((s**2 + t**2) * (s**2 + t**2 + 2 * a * t**2)), rtol=1e-12, atol=0
    )


def test_training_pays_more_than_distillation_by_the_lines_discrepancy():
    """Theorem 1 on an even grid: N^2 (ct - cd) tends to T int f'^2 R dt, and N^2 cd to 0."""
    std, top = 0.5, 5.0
    limit = recursions.losses_limit(std, top)

    def integrand(t):
        power = std**2 + t**2
        return std**2 / power * transport.gaussian_discrepancy(EDM, max(t, 1e-9), std).item()

    assert limit == pytest.approx(top * quad(integrand, 0, top)[0], rel=1e-8)
    missing = []
    for n in (10, 100, 1000):
        ct, cd = recursions.losses(EDM, torch.linspace(0, top, n + 1, dtype=torch.float64), std)
        missing.append(limit - n**2 * (ct - cd))
        assert n**2 * cd < 10 / n
    assert missing[0] == pytest.approx(limit - 1.5759, abs=1e-4)
    assert missing[1] / missing[2] == pytest.approx(100, rel=0.05)


@every_process
def test_losses_of_an_exact_model_are_those_of_draws(process):
    """Every interval of a grid, from draws of the pair and the truth's own solution."""
    std, n = 0.5, 40_000
    law = fs.exact.Gaussian(torch.zeros(1), std, process)
    grid = process.time_at(torch.tensor([0.05, 0.3, 2.0]))
    x0, z = law.sample(n).double(), normals(n, 1)
    points = [process.mix(x0, z, t) for t in grid]
    exact = [law.solve(x, t, 0.0) for x, t in zip(points, grid, strict=True)]
    by_euler = [fs.solvers.euler(process, law, points[i + 1], grid[i + 1], grid[i]) for i in (0, 1)]
    by_solver = [law.solve(x, t, 0.0) for x, t in zip(by_euler, grid[:2], strict=True)]
    result = recursions.losses(process, grid, std)
    losses = torch.stack([(exact[i + 1] - exact[i]).square() for i in (0, 1)]).mean(0)
    assert result.ct == pytest.approx(losses.mean().item(), abs=4.5 * losses.std().item() / n**0.5)
    losses = torch.stack([(exact[i + 1] - by_solver[i]).square() for i in (0, 1)]).mean(0)
    assert result.cd == pytest.approx(
        losses.mean().item(), abs=4.5 * losses.std().item() / n**0.5 + 1e-20
    )


def test_mistakes_are_one_line():
    ring, one = fs.exact.ring8(), torch.zeros(2, 2)
    for message, wrong in {
        "expected one Gaussian or a law on the line": lambda: transport.optimal(ring),
        "expected one number a sample": lambda: fs.exact.line(ring),
        "above 0: where there is no noise": lambda: transport.discrepancy(ring, one, 0.0),
        "one for all rows": lambda: transport.ends(ring, one, one, torch.tensor([1.0, 2.0]), 4),
        "a time whose noise level": lambda: transport.ends(ring, one, one, 0.0, 4),
        "std = 0.0": lambda: recursions.losses(EDM, [0.0, 1.0], 0.0),
        "std, t_max": lambda: recursions.losses_limit(0.5, 0.0),
    }.items():
        with pytest.raises(UserError) as error:
            wrong()
        assert message in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("levels", [[], [-1.0], [1.0, 0.0], [float("nan")], 1.0])
def test_levels_of_a_curve_are_above_0(levels):
    with pytest.raises(UserError, match="levels"):
        fs.exact.transport.curve(fs.exact.two_modes(), levels, n=8)
