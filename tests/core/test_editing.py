"""Edits of laws whose posterior is a closed form; measurements obey the laws of a projection."""

from __future__ import annotations

import math

import pytest
import torch
from benchmarks.editing import Case, by_edit, by_replacement, cases, jump_of
from hypothesis import given, settings
from hypothesis import strategies as st

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.core import editing
from fewstep.core.editing import Population
from fewstep.core.measurements import Measurement, colourise, inpaint, matrix, superres


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed, "test editing"), dtype=torch.float64)


CASES = cases()
SHAPE = (3, 4, 6)
MISSING = torch.zeros(4, 6, dtype=torch.bool)
MISSING[:, 2:5] = True
MEASUREMENTS = {
    "inpaint": inpaint(MISSING),
    "colourise": colourise(),
    "superres": superres(2),
    "superres of one axis": superres((1, 1, 3)),
    "matrix": matrix(normals(5, 72)),
    "matrix of lower rank": matrix(torch.arange(2.0).outer(torch.arange(72.0)).repeat(2, 1)),
}
every_measurement = pytest.mark.parametrize("name", MEASUREMENTS)


@every_measurement
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_projection_is_the_nearest_sample_that_agrees(name, seed):
    one = MEASUREMENTS[name]
    one.check(SHAPE)
    x, other, u = normals(3, 2, *SHAPE, seed=seed)
    y = one.forward(other)
    nearest = one.project(x, y)
    assert torch.allclose(one.forward(nearest), y, atol=1e-9)
    assert torch.allclose(one.project(nearest, y), nearest, atol=1e-9)
    # What agrees as well lies at right angles to the way there.
    along = one.project(u, y) - nearest
    assert float(((nearest - x) * along).sum().abs()) < 1e-8
    square = (nearest - x).flatten(1).square().sum(1)
    assert torch.allclose(one.distance(x, y), square)


def test_superres_means_blocks_and_colourise_is_pillows_grey():
    x = torch.arange(24.0).reshape(1, 1, 4, 6)
    assert superres(2).forward(x).tolist() == [[[[3.5, 5.5, 7.5], [15.5, 17.5, 19.5]]]]
    assert superres(3).forward(torch.arange(6.0)[None]).tolist() == [[1.0, 4.0]]
    white = torch.ones(1, 3, 2, 2)
    assert torch.allclose(colourise().forward(white), torch.ones(1, 1, 2, 2))


def test_what_is_kept_has_the_same_bits():
    one = inpaint(MISSING)
    y = normals(1, *SHAPE)
    y[..., MISSING] = torch.nan
    x = one.project(normals(5, *SHAPE, seed=1), y)
    assert torch.equal(x[..., ~MISSING], y[..., ~MISSING].expand(5, -1, -1))
    assert bool(x.isfinite().all())
    assert torch.equal(one.distance(x, y), torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: inpaint(torch.zeros(3, dtype=torch.bool)), "nothing is missing"),
        (lambda: inpaint(torch.ones(3, dtype=torch.bool)), "everything is missing"),
        (lambda: inpaint(torch.ones(3)), "booleans"),
        (lambda: superres(5).check(SHAPE), "divide the axes"),
        (lambda: superres(1).check(SHAPE), "above 1"),
        (lambda: superres((2, 2)).check(SHAPE), "one for each axis"),
        (lambda: colourise().check((1, 4, 6)), "3 channels"),
        (lambda: matrix(torch.ones(2, 5)).check(SHAPE), "5 numbers"),
        (lambda: matrix(torch.zeros(2, 72)), "not all 0"),
        (lambda: Measurement(lambda x: x[:, :1], lambda y: 2 * y).check((1, 4)), "A A^+ A"),
        (lambda: editing.levels_of(0, 0.5), "at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(act, words):
    with pytest.raises(UserError, match=words.replace("+", r"\+").replace("^", r"\^")):
        act()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), offset=st.floats(0, 0.999))
def test_a_draw_takes_each_sample_as_often_as_its_weight_says(seed, offset):
    log_weights = 2 * normals(7, seed=seed)
    population = Population(torch.arange(7.0)[:, None], torch.arange(7), log_weights)
    few = population.draw(50, offset)
    counts = torch.bincount(few.x[:, 0].long(), minlength=7)
    assert bool(((counts - 50 * log_weights.softmax(0)).abs() < 1).all())
    assert torch.equal(few.cond, few.x[:, 0].long())  # a condition stays with its sample
    assert few.count == pytest.approx(50)


def test_levels_fall_evenly_from_two_to_a_twentyfifth_of_a_deviation():
    levels = torch.tensor(editing.levels_of(16, 0.5), dtype=torch.float64)
    assert [float(levels[0]), float(levels[-1])] == pytest.approx([1.0, 0.02])
    ratios = levels[1:] / levels[:-1]
    assert torch.allclose(ratios, ratios[:1].expand(15))
    assert editing.levels_of(1, 0.5) == pytest.approx([0.02])


def test_slerp_keeps_the_length_and_turns_evenly():
    a, b = normals(2, 1, 1000)
    b = b * a.norm() / b.norm()
    way = editing.slerp(a.expand(5, -1), b.expand(5, -1), torch.linspace(0, 1, 5))
    assert torch.equal(way[0], a[0])
    assert torch.allclose(way.norm(dim=1), a.norm().expand(5))
    turns = torch.nn.functional.cosine_similarity(way[1:], way[:-1]).acos()
    assert torch.allclose(turns, turns[:1].expand(4))
    same = editing.slerp(a, a, torch.tensor([0.3]))
    assert torch.allclose(same, a)


def errors(case: Case, population: Population) -> list[float]:
    first = len(case.y)
    assert torch.equal(population.x[:, :first], case.y.expand(len(population.x), -1))
    return list(case.posterior().errors(population.x[:, first:], population.log_weights.softmax(0)))


@pytest.mark.parametrize("name", ["Gaussian, correlation 0.9", "two modes", "three modes in 4"])
def test_an_edit_draws_from_the_posterior(name):
    """Mean to a tenth of a deviation, deviation to a tenth, a mode's weight to a tenth."""
    case = CASES[name]
    population = by_edit(case, 33, 1024, 0, jump_of(case.law, 19))
    assert max(errors(case, population)) < 0.1


def test_algorithm_4_gives_modes_the_weights_of_the_prior():
    case = CASES["two modes"]
    mean, _, weight = errors(case, by_replacement(case, 33, 256, 0, jump_of(case.law, 19)))
    assert mean > 0.2
    assert weight > 0.1


@pytest.mark.long
@pytest.mark.parametrize("name", ["two modes far apart", "three modes in 4"])
def test_an_edit_by_the_true_trajectories_draws_from_the_posterior(name):
    """The law's own `solve`, to 1e-8; in four populations, for less chance in the mean."""
    case = CASES[name]
    law = case.law
    truth = case.posterior()

    def jump(x_t, t, cond=None):
        return law.solve(x_t, t, 0.0)

    runs = [by_edit(case, 33, 512, seed, jump) for seed in range(4)]
    x = torch.cat([one.x for one in runs])[:, len(case.y) :]
    shares = torch.cat([one.log_weights.softmax(0) for one in runs]) / len(runs)
    assert max(truth.errors(x, shares)) < 0.1


PROCESSES = [fs.process.edm(), fs.process.linear(), fs.process.trig(sigma_data=0.5)]


@pytest.mark.parametrize("process", PROCESSES, ids=["edm", "linear", "trig"])
def test_a_gaussian_on_any_process_and_by_any_measurement(process):
    """N(m, diag v) given the sum of its numbers, by `solve`, a closed form."""
    mean = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    std = torch.tensor([0.6, 0.4, 0.5], dtype=torch.float64)
    law = fs.exact.Gaussian(mean=mean, std=std, process=process)
    total, y = matrix(torch.ones(1, 3)), torch.tensor([[1.0]], dtype=torch.float64)
    population = editing.edit(
        process,
        lambda x, t, cond=None: law.solve(x, t, 0.0),
        total,
        y,
        editing.levels_of(16, 0.5),
        lambda i: normals(2000, 3, seed=i),
        lambda i: 0.5,
    )
    gain = std.square() / std.square().sum()
    truth = mean + gain * (1.0 - mean.sum())
    deviation = (std.square() * (1 - gain)).sqrt()
    shares = population.log_weights.softmax(0)
    own = shares @ population.x
    spread = (shares @ (population.x - own).square()).sqrt()
    assert float(((own - truth) / deviation).abs().max()) < 0.1
    assert float((spread / deviation - 1).abs().max()) < 0.1
    assert torch.allclose(total.forward(population.x), y, atol=1e-12)


def test_labels_compete():
    """P(label | y) where each class is one Gaussian, and the labels were in turn."""
    law = fs.exact.Mixture(
        weights=[1, 1], means=[[-0.3, -0.5], [0.3, 0.5]], std=0.3, labels=torch.arange(2)
    )
    y = torch.tensor([[0.1, 0.0]], dtype=torch.float64)

    def jump(x_t, t, cond):
        centre = torch.tensor([[-0.3, -0.5], [0.3, 0.5]], dtype=torch.float64)[cond]
        return centre + (x_t - centre) * (0.3 / (0.09 + t[:, None] ** 2).sqrt())

    population = editing.edit(
        law.process,
        jump,
        inpaint(torch.tensor([False, True])),
        y,
        editing.levels_of(16, 0.5),
        lambda i: normals(2000, 2, seed=i),
        lambda i: 0.5,
        torch.arange(2000) % 2,
    )
    share = float(population.log_weights.softmax(0) @ population.cond.double())
    assert share == pytest.approx(1 / (1 + math.exp(-2 * 0.3 * 0.1 / 0.09)), abs=0.03)
    middle = population.x[population.cond == 1, 1].mean()
    assert float(middle) == pytest.approx(0.5, abs=0.03)


def test_a_jump_by_a_solver_is_the_trajectory():
    law = fs.exact.named("gaussian")
    heun = fs.sampling.SAMPLERS["heun"]
    grid = heun.times(law.process, 35)[:-1]
    jump = editing.by_solver(law.process, law, fs.solvers.along(heun.step, grid))
    x = normals(8, 1)
    t = torch.full((8,), 0.7, dtype=torch.float64)
    assert torch.allclose(jump(x, t), law.solve(x, t, 0.0), rtol=0.03)
