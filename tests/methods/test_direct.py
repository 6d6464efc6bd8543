"""Direct consistency models by their equations: the solution from each row's time, its cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import fewstep as fs
from fewstep.base.randomness import generator
from tests.support.toys import Spy, small_student

PROCESSES = ["edm", "cosine", "discrete"]
SOLVERS = ["ddim", "euler", "heun"]


def batch(method: fs.Method, rows: int = 24):
    x0, z = (
        torch.randn(rows, 3, generator=generator(i, "x"), dtype=torch.float64) for i in range(2)
    )
    u = torch.rand(rows, 2, generator=generator(2, "u"), dtype=torch.float64)
    return x0, z, method.times(u, 0.3, torch.arange(rows))


def step_by_step(solver: str, process: fs.Process, teacher, x, t: float, grid) -> torch.Tensor:
    """The solver's moves of one row from t to the data, one call each."""
    below = [float(level) for level in grid if level < t]
    return fs.sampling.sample(process, teacher, x, [t, *below], fs.solvers.by_name(solver))


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_goal_is_the_solution_from_each_rows_own_time(solver, process):
    """With a student that says 0 the loss is the mean square of the goal, row by row."""
    method = fs.methods.direct_cm(n=7, solver=solver, process=process)
    teacher = fs.exact.Gaussian(mean=0.3, std=0.5, process=method.process)
    x0, z, times = batch(method)
    assert len(set(times.t.tolist())) == 7
    assert torch.equal(times.r, torch.zeros_like(times.t))
    nothing = lambda x, t, cond=None: torch.zeros_like(x)  # noqa: E731
    loss = method.loss(fs.Models(nothing, teacher=teacher), x0, z, times)
    x_t, grid = method.process.mix(x0, z, times.t), method.times.times.grid
    ends = [
        step_by_step(solver, method.process, teacher, x_t[i : i + 1], times.t[i].item(), grid)
        for i in range(len(x0))
    ]
    # It is the solution itself where sigma(0) = 0.
    goal = method.process.aim(x_t, torch.cat(ends), times.t, 0.0)
    torch.testing.assert_close(loss, goal.square().mean(1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("process", ["edm", "discrete"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_last_interval_is_that_of_the_consistency_model(solver, process):
    """There one move of the teacher is the whole solution, and a target at r = 0 is not asked.

    The losses have equal bits.
    """
    direct, step = (
        fs.methods.direct_cm(n=6, solver=solver, goal=goal, process=process)
        for goal in ("solution", "student")
    )
    student, teacher = small_student((3,)), fs.exact.Gaussian(process=direct.process)
    x0, z, _ = batch(direct)
    last = torch.full((len(x0),), 5)
    grid = direct.times.times.grid
    models = fs.Models(student, teacher=teacher)
    losses = [method.loss(models, x0, z, method.times.at(last, 0.0)) for method in (direct, step)]
    assert direct.times.at(last, 0.0).t[0] == grid[5]
    assert torch.equal(*losses)
    before = [
        method.loss(models, x0, z, method.times.at(last - 1, 0.0)) for method in (direct, step)
    ]
    assert not torch.allclose(*before)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_rows_cost_nothing_before_they_start(solver, process):
    """The teacher sees a row once per interval below it; by Heun twice, once in the last move."""
    method = fs.methods.direct_cm(n=7, solver=solver, process=process)
    teacher = Spy(fs.exact.Gaussian(process=method.process))
    x0, z, times = batch(method)
    method.loss(fs.Models(lambda x, t, cond=None: x, teacher=teacher), x0, z, times)
    left = sum(level < t for t in times.t.tolist() for level in method.times.times.grid)
    assert len(teacher.times) == (2 * left - len(x0) if solver == "heun" else left)
    assert left < 7 * len(x0)


def test_a_step_of_the_consistency_model_costs_one_move():
    method = fs.methods.direct_cm(n=7, goal="student")
    student, teacher = Spy(lambda x, t, cond=None: x), Spy(fs.exact.Gaussian())
    x0, z, times = batch(method)
    method.loss(fs.Models(student, teacher=teacher), x0, z, times)
    assert torch.equal(teacher.times, times.t)
    assert torch.equal(student.times, torch.cat([times.r, times.t]))
    assert len(teacher.calls) == 1  # in one call, whatever the rows' intervals


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("goal", ["solution", "student"])
def test_the_solvers_own_map_costs_nothing(solver, process, goal):
    """The n-step solution as the student is the minimiser of both losses: 0."""
    method = fs.methods.direct_cm(n=6, solver=solver, process=process, goal=goal)
    teacher = fs.exact.Gaussian(mean=0.3, std=0.5, process=method.process)
    grid = method.times.grid if goal == "student" else method.times.times.grid
    solve = fs.solvers.along(fs.solvers.by_name(solver), grid)

    def student(x, t, cond=None):
        """The x0_hat whose jump to 0 is the solution; the solution itself where sigma(0) = 0."""
        return method.process.aim(x, solve(method.process, teacher, x, t, 0.0), t, 0.0)

    loss = method.loss(fs.Models(student, teacher=teacher), *batch(method))
    torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-18)


@pytest.mark.parametrize("process", PROCESSES)
def test_starts_at_the_highest_level_or_at_all_alike(process):
    highest, any_level = (
        fs.methods.direct_cm(n=5, process=process, starts=s) for s in ("highest", "uniform")
    )
    u = (torch.arange(500, dtype=torch.float64)[:, None] + 0.5) / 500
    assert (highest.times(u, 0.0).t == highest.process.t_max).all()
    levels, counts = torch.unique(any_level.times(u, 0.0).t, return_counts=True)
    assert counts.tolist() == [100] * 5
    assert levels.tolist() == sorted(any_level.times.times.grid)[1:]


def test_the_discrete_levels_are_even_steps_of_1000():
    grid = fs.methods.direct_cm(n=100, process="discrete").times.times.grid
    assert grid == pytest.approx([1000 - 10 * i for i in range(101)], abs=1e-9)


@pytest.mark.parametrize("goal", ["solution", "student"])
def test_guidance_is_the_teachers(goal):
    """D_c + g (D_c - D_u) at every evaluation of the teacher, and at none of the student."""
    method = fs.methods.direct_cm(n=5, guidance=1.5, goal=goal)
    teacher = small_student((3,), classes=2, seed=1)
    student = small_student((3,), classes=2)
    x0, z, times = batch(method)
    cond = torch.arange(len(x0)) % 2

    def by_hand(x, t, cond):
        with_label, without = teacher(x, t, cond), teacher(x, t, torch.full_like(cond, -1))
        return with_label + 1.5 * (with_label - without)

    plain = replace(method, coupling=replace(method.coupling, guidance=0.0))
    truth = plain.loss(fs.Models(student, teacher=by_hand), x0, z, times, cond)
    loss = method.loss(fs.Models(student, teacher=teacher), x0, z, times, cond)
    torch.testing.assert_close(loss, truth, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(
        loss, plain.loss(fs.Models(student, teacher=teacher), x0, z, times, cond)
    )


def test_the_solution_needs_no_target():
    assert fs.methods.direct_cm().needs == {"student", "teacher"}
    assert fs.methods.direct_cm().target is None


def test_guidance_leaves_out_the_label_and_nothing_else():
    """The unlabelled pass still gets the features and the mask of a condition with parts."""
    conditions = []

    def spy(x_t, t, cond):
        conditions.append(cond)
        return x_t

    cond = {
        "label": torch.tensor([1, 0]),
        "features": torch.ones(2, 3),
        "mask": torch.ones(2, 4, dtype=torch.bool),
    }
    fs.guidance.Guided(spy, 1.0)(torch.zeros(2, 4), 1.0, cond)
    with_label, without = conditions
    assert with_label is cond
    assert without["label"].tolist() == [-1, -1]
    assert without.keys() == cond.keys()
    assert without["features"] is cond["features"]
    assert without["mask"] is cond["mask"]
