"""Consistency models without a network, on the line: against recursions, the flow and draws."""

from __future__ import annotations

import math

import pytest
import torch

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.core import solvers
from fewstep.core.times import karras
from fewstep.exact import oracle, recursions

EDM = fs.process.edm()
TWO = fs.exact.Mixture(weights=[1, 1], means=[[-0.5], [0.5]], std=0.05)
LOPSIDED = {"weights": [1, 2, 0.5], "means": [[-0.7], [0.1], [0.6]], "std": [0.02, 0.1, 0.05]}
X = torch.linspace(-500, 500, 101, dtype=torch.float64)


def grid(n: int) -> torch.Tensor:
    return karras(0.002, 80.0, n).flip(0)


COARSE = 300  # nodes, which move an error by under a thousandth


def test_the_table_is_fine_enough():
    """Half as many nodes and points move the errors by under a thousandth, twice by still less."""
    law, steps = fs.exact.Mixture(**LOPSIDED), grid(30)
    half, whole, double = (
        oracle.trained(law, steps, nodes=nodes, points=points)
        for nodes, points in ((300, 4), (600, 8), (1200, 16))
    )
    assert whole.error() == pytest.approx(double.error(), rel=1e-4)
    assert whole.w2() == pytest.approx(double.w2(), rel=1e-4)
    assert half.error() == pytest.approx(double.error(), rel=1e-3)


@pytest.mark.parametrize(
    "process",
    [
        pytest.param(fs.process.linear(), id="linear"),
        pytest.param(fs.process.trig(sigma_data=0.5), id="trig", marks=pytest.mark.long),
        pytest.param(fs.process.cosine(), id="vp"),
    ],
)
def test_other_processes(process):
    """The recursion of one Gaussian; for a mixture a finer grid is nearer, by either method."""
    times = torch.linspace(0, process.t_max, 21, dtype=torch.float64)
    law = fs.exact.Gaussian(torch.zeros(1), 0.5, process)
    x = X / 100
    gain = recursions.ct(process, times, 0.5)[-1]
    torch.testing.assert_close(oracle.trained(law, times)(x), gain * x, rtol=0, atol=1e-10)
    mixture = fs.exact.Mixture(**LOPSIDED, process=process)
    for end_on in (oracle.trained, oracle.distilled):
        errors = [
            end_on(mixture, torch.linspace(0, process.t_max, n + 1).double(), nodes=COARSE).error()
            for n in (10, 40)
        ]
        assert errors[1] < errors[0] / 1.4


def test_one_level_is_a_mean_over_draws():
    """E[x_r | x_t in a thin slice], and for two levels that of the first one's table, by draws."""
    law, steps = fs.exact.Mixture(**LOPSIDED), [0.05, 0.1, 0.2]
    below = oracle.trained(law, steps[:2])
    result = oracle.trained(law, steps)
    n = 400_000
    x0 = law.sample(n).double()[:, 0]
    z = torch.randn(n, generator=generator(0, "test oracle"), dtype=torch.float64)
    for at in (-0.35, 0.0, 0.35):
        near = (x0 + 0.2 * z - at).abs() < 0.005
        draws = below((x0 + 0.1 * z)[near])
        target = result(torch.tensor([at])).item()
        assert (
            abs(draws.mean().item() - target)
            < 4.5 * draws.std().item() / near.sum().item() ** 0.5 + 1e-3
        )


def test_statistics_are_those_of_draws():
    """Of one-step samples, and their distance to the data by sorting."""
    law, n = fs.exact.Mixture(**LOPSIDED), 6_000
    z = torch.randn(n, generator=generator(1, "test oracle"), dtype=torch.float64)
    for result in (oracle.trained(law, grid(12)), oracle.distilled(law, grid(6), solvers.heun)):
        samples = result(80 * z)
        assert samples.std().item() == pytest.approx(result.std, rel=0.03)
        assert abs(samples.mean().item() - result.mean) < 4.5 * samples.std().item() / n**0.5
        even = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        data = result.line.quantile(torch.special.ndtri(even), 0.0)
        by_sorting = (samples.sort().values - data).square().mean().sqrt().item()
        assert by_sorting == pytest.approx(result.w2(), abs=0.02)
        x = law.process.mix(law.sample(n).double(), z[:, None], 80.0)[:, 0]
        away = (result(x) - result.truth(x)).square()
        assert away.mean().item() == pytest.approx(
            result.error() ** 2, abs=4.5 * away.std().item() / n**0.5
        )


def test_the_truth_is_the_flow():
    law = fs.exact.Mixture(**LOPSIDED)
    result = oracle.distilled(law, grid(4))
    x = torch.linspace(-150, 150, 21, dtype=torch.float64)
    torch.testing.assert_close(
        result.truth(x), law.solve(x[:, None], 80.0, 0.002)[:, 0], rtol=0, atol=1e-8
    )


def test_an_error_is_to_the_map_that_ends_where_the_grid_does():
    """A thousandth of a step from t = 1 is nearly the flow's own, far as both are from the data."""
    assert oracle.distilled(TWO, [1.0, 1.001]).error() < 1e-6
    assert oracle.distilled(TWO, [1.0, 1.001]).w2() > 0.5


def test_distillation_tends_to_the_truth_with_its_solvers_order():
    """Euler's error is like 1 / N, Heun's falls faster; training's is like N^(-1/4)."""
    law, n = fs.exact.Mixture(weights=[1, 2], means=[[-0.3], [0.3]], std=0.2), (40, 80)
    for solver, low, high in ((solvers.euler, 1.8, 2.3), (solvers.heun, 3.4, 9.0)):
        first, second = (oracle.distilled(law, grid(k), solver, nodes=COARSE).error() for k in n)
        assert low < first / second < high
    first, second = (oracle.trained(TWO, grid(k), nodes=COARSE).w2() for k in (100, 200))
    assert math.log2(first / second) == pytest.approx(0.27, abs=0.04)


def test_mistakes_are_one_line():
    for message, wrong in {
        "expected one number a sample": lambda: oracle.trained(fs.exact.ring8(), grid(3)),
        "two or more, increasing": lambda: oracle.trained(TWO, grid(3).flip(0)),
        "none below 0": lambda: oracle.trained(TWO, [-1.0, 1.0]),
        "a one-dimensional law of fewstep.exact": lambda: oracle.trained("two-modes", grid(3)),
        "at least 16": lambda: oracle.distilled(TWO, grid(3), nodes=4),
    }.items():
        with pytest.raises(UserError) as error:
            wrong()
        assert message in str(error.value)
        assert "\n" not in str(error.value)
