"""Methods on Gaussian data against closed recursions: a linear student, fitted level by level to
the real goals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

import fewstep as fs
from fewstep.base.randomness import generator
from fewstep.core import solvers
from fewstep.core.times import karras
from fewstep.exact import recursions

STD, ROWS, SHAPE = 0.5, 4000, (8,)
EDM, COSINE = fs.process.edm(), fs.process.cosine()
GRID = karras(0.002, 80.0, 10).flip(0)


class Linear:
    """D(x, t) = g(t) x, with the slopes fitted so far."""

    def __init__(self, slopes: dict[float, float]) -> None:
        self.slopes = slopes

    def __call__(self, x_t, t, cond=None):
        (level,) = set(t.tolist())
        return min((abs(known - level), gain) for known, gain in self.slopes.items())[1] * x_t


Fit = list[tuple[float, float]]  # a slope and its standard error, level by level


def fitted(method: fs.Method, levels: fs.Times, slopes: dict[float, float], **others) -> Fit:
    """Least squares of each level's goals on its x_t, from the lowest level up; `slopes` knows what
    lies below.

    All rows of a level weigh alike, so no weight and no even distance would change the fit.
    """
    found, student = [], Linear(slopes)
    models = fs.Models(student, **{"ema": student, **others})
    for i in range(len(levels.t)):
        source = generator(i, "recursion")
        x0, z = (
            s * torch.randn(ROWS, *SHAPE, generator=source, dtype=torch.float64) for s in (STD, 1.0)
        )
        u = torch.rand(ROWS, 2, generator=source, dtype=torch.float64)
        times = fs.Times(*(part[i].expand(ROWS) for part in levels[:4]), u)
        x_t, x_r = method.coupling(models, method.process, x0, z, times, None)
        goal = method.goal(
            models, x_t, x_r, times, None, lambda denoiser, x, t, cond: denoiser(x, t, cond)
        )
        slope = (goal * x_t).sum() / x_t.square().sum()
        error = ((goal - slope * x_t) * x_t).square().sum().sqrt() / x_t.square().sum()
        slopes[levels.t[i].item()] = slope.item()
        found.append((slope.item(), error.item()))
    return found


def agree(found: Fit, exact: Callable[[int, float], torch.Tensor], below: float = 1.0) -> None:
    """The last slope is the recursion's within 3 standard errors, and so is each step from the
    slope before it.

    exact(i, first): the recursion from the i-th level on, level 0 being the one below the first
    fitted, with the slope `below`. An error of level i reaches the last one times the recursion's
    derivative in its slope.
    """
    slopes, errors = [below, *(slope for slope, _ in found)], [0.0, *(error for _, error in found)]
    last = len(found)
    reach = [
        (exact(i, s * 1.001)[-1] - exact(i, s * 0.999)[-1]) / (0.002 * s)
        for i, s in enumerate(slopes[:last])
    ]
    error = math.hypot(
        errors[last], *(part.item() * e for part, e in zip(reach, errors[:last], strict=True))
    )
    whole = exact(0, below)[-1].item()
    assert abs(slopes[last] - whole) <= 3 * error + 1e-12
    assert error < 0.01 * whole  # methods differ by more than 3 of these
    steps = [
        (slopes[i + 1] - exact(i, slopes[i])[1].item()) / (errors[i + 1] + 1e-13)
        for i in range(last)
    ]
    assert max(map(abs, steps)) < 3.5
    assert sum(step**2 for step in steps) / last < 2.5


def adjacent(method: fs.Method) -> fs.Times:
    return method.times.at(torch.arange(10), 1.0)


TRUTH = fs.exact.Gaussian(0.0, STD)
IDEAL = lambda x, t, cond=None: TRUTH.solve(x, t, 0.0)  # noqa: E731


def test_consistency_training():
    for method in (fs.methods.ct(s0=10, s1=10), fs.methods.ict(s0=10, s1=10)):
        found = fitted(method, adjacent(method), {0.002: 1.0})
        agree(found, lambda i, first: recursions.ct(EDM, GRID[i:], STD, first))


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_consistency_distillation(solver):
    """The goal is a function of x_t, so there is no error at all."""
    method = fs.methods.cd(n=11, solver=solver)
    found = fitted(method, adjacent(method), {0.002: 1.0}, teacher=TRUTH)
    exact = recursions.cd(EDM, GRID, STD, solvers.by_name(solver))[1:]
    torch.testing.assert_close(
        torch.tensor([slope for slope, _ in found]).double(), exact, rtol=1e-6, atol=0
    )
    agree(found, lambda i, first: recursions.cd(EDM, GRID[i:], STD, solvers.by_name(solver), first))


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("predictor", ["ideal", "own"])
def test_generator_induced_coupling(predictor, share):
    method = fs.methods.gc(base=fs.methods.ict(s0=10, s1=10), share=share, bound=1e9)
    found = fitted(
        method, adjacent(method), {0.002: 1.0}, **({"ema": IDEAL} if predictor == "ideal" else {})
    )
    agree(
        found,
        lambda i, first: recursions.gc(
            EDM, GRID[i:], STD, share=share, predictor=predictor, first=first
        ),
    )
    plain = recursions.ct(EDM, GRID, STD)[-1].item()
    assert found[-1][0] > plain + 5 * found[-1][1]


@pytest.mark.parametrize("w_b", [0.01, 1.0])
def test_the_second_stage_of_tcm_is_the_whole_range_from_t_prime_on(w_b):
    """From an exact first stage, for every weight of the boundary: the student sees t' and above
    alone.
    """
    ratio, base = 0.6, fs.methods.ect(k=0.0)
    method = fs.methods.tcm(base=base, t_prime=1.0, ratio=ratio, w_b=w_b)
    ladder = torch.tensor([ratio**-i for i in range(-12, 9)], dtype=torch.float64)
    whole = recursions.ct(EDM, ladder, STD)
    below = {t.item(): gain.item() for t, gain in zip(ladder[:12], whole[:12], strict=True)}
    levels = method.times.at(ladder[12:], 0.0)
    found = fitted(method, levels, {}, frozen=Linear(below))
    agree(
        found,
        lambda i, first: recursions.ct(EDM, ladder[11 + i :], STD, first),
        below=whole[11].item(),
    )


@pytest.mark.parametrize("number", [1, 2, 4])
@pytest.mark.parametrize("pairs", ["data", "ddim"])
def test_multistep_consistency_models(number, pairs):
    """Segment by segment: x_a = factor x_t, whose D is fitted; the sampler's end is the product of
    the segments.
    """
    method = fs.methods.mcm(K=number, steps=12, steps_end=12, pairs=pairs)
    inside, solver = 12 // number, None if pairs == "data" else solvers.ddim
    teacher = fs.exact.Gaussian(0.0, STD, COSINE)
    levels = method.times.at(torch.arange(12), 0.0)
    found = fitted(method, levels, {0.0: 1.0}, teacher=teacher)
    one = torch.ones(12, dtype=torch.float64)
    keep = COSINE.jump(one, 0 * one, levels.t, levels.a)
    make = COSINE.jump(0 * one, one, levels.t, levels.a)
    factors = [
        ((k + m * g).item(), (m * e).item()) for k, m, (g, e) in zip(keep, make, found, strict=True)
    ]
    grid = torch.cat([torch.zeros(1, dtype=torch.float64), levels.t])
    for k in range(number):
        part = grid[k * inside : (k + 1) * inside + 1]

        def exact(i, first, part=part):
            return (
                recursions.ct(COSINE, part[i:], STD, first)
                if solver is None
                else recursions.cd(COSINE, part[i:], STD, solver, first)
            )

        agree(factors[k * inside : (k + 1) * inside], exact)
        torch.testing.assert_close(
            exact(0, 1.0), recursions.mcm(COSINE, number, inside, STD, solver)[k]
        )


@pytest.mark.parametrize("solver", ["ddim", "euler", "heun"])
@pytest.mark.parametrize("goal", ["solution", "student"])
def test_direct_consistency_models(goal, solver):
    """The product of the solver's factors, by either goal: a linear class is consistent exactly."""
    method = fs.methods.direct_cm(n=9, solver=solver, goal=goal)
    levels = method.times.at(torch.arange(8, -1, -1), 0.0)
    found = fitted(method, levels, {0.0: 1.0}, teacher=TRUTH)
    grid = torch.cat([torch.zeros(1, dtype=torch.float64), levels.t])
    exact = recursions.cd(EDM, grid, STD, solvers.by_name(solver))[1:]
    torch.testing.assert_close(
        torch.tensor([slope for slope, _ in found]).double(), exact, rtol=1e-6, atol=0
    )


def spread(factors: torch.Tensor) -> float:
    """The standard deviation of one-step samples from t = 80."""
    return 80 * factors[-1].item()


@pytest.mark.parametrize(
    ("n", "expected"),
    [(10, 0.3764), (20, 0.4338), (40, 0.4657), (160, 0.4912), (640, 0.4978), (1280, 0.49889)],
)
def test_what_the_grid_costs_consistency_training(n, expected):
    """Less and less, like 1.4 / N of the standard deviation."""
    grid = karras(0.002, 80.0, n).flip(0)
    assert spread(recursions.ct(EDM, grid, STD)) == pytest.approx(expected, abs=6e-5)
    torch.testing.assert_close(
        recursions.cd(EDM, grid, STD, solvers.euler), recursions.ct(EDM, grid, STD)
    )


@pytest.mark.parametrize(
    ("predictor", "at_1280", "limit"), [("ideal", 1.2485, 1.2488), ("own", 1.1809, 1.1814)]
)
def test_generated_data_alone_spreads_too_far(predictor, at_1280, limit):
    """Not to the data's standard deviation: by 18 to 25 % more as N grows, whatever that is."""

    def ratio(n: int, std: float = STD) -> float:
        return (
            spread(recursions.gc(EDM, karras(0.002, 80.0, n).flip(0), std, predictor=predictor))
            / std
        )

    assert ratio(1280) == pytest.approx(at_1280, abs=6e-5)
    # ends of order 1/N: twice the finer one less the coarser is the limit to 1/N^2
    assert 2 * ratio(2560) - ratio(1280) == pytest.approx(limit, abs=1e-4)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_multistep_models_tend_to_the_ode_like_one_over_n(number):
    """Halving the steps halves what is missing of the standard deviation; training and DDIM's
    distillation agree.
    """
    missing = []
    for inside in (64, 128, 256):
        ends = recursions.mcm(COSINE, number, inside, STD)[:, -1].prod()
        missing.append(STD - (COSINE.sigma(1.0) * ends).item())
        by_ddim = recursions.mcm(COSINE, number, inside, STD, solvers.ddim)[:, -1].prod()
        torch.testing.assert_close(by_ddim, ends, rtol=1e-9, atol=0)
    assert missing[0] / missing[1] == pytest.approx(2, abs=0.1)
    assert missing[1] / missing[2] == pytest.approx(2, abs=0.05)
    assert all(a > b > 0 for a, b in pairwise(missing))
