"""The loss against closed forms: floors, optima and the masks that both passes share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from tests.support.toys import GAUSSIAN, small_student

EDM = fs.process.edm()


def draws(n: int, std: float) -> list[torch.Tensor]:
    source = generator(7, "losses")
    return [s * torch.randn(n, 1, generator=source, dtype=torch.float64) for s in (std, 1.0)]


@pytest.mark.parametrize(("t", "r"), [(2.0, 1.5), (0.7, 0.2), (20.0, 19.0)])
def test_the_floor_of_consistency_training_on_gaussian_data(t, r):
    """The floor at g_t = A g_r is g_r^2 (s^2 + r^2 - A^2 (s^2 + t^2)), by Monte Carlo.

    The loss is E (g_t x_t - g_r x_r)^2.
    """
    s, n = 0.5, 200_000
    x0, z = draws(n, s)
    g_r = s / (s**2 + r**2) ** 0.5
    shrink = (s**2 + r * t) / (s**2 + t**2)
    slope = torch.tensor(shrink * g_r, dtype=torch.float64, requires_grad=True)

    def student(x_t, time, cond=None):
        return torch.where((time > (t + r) / 2)[:, None], slope * x_t, g_r * x_t)

    method = fs.Method(
        times=fs.methods.ect().times,
        target=fs.targets.Student(),
        distance=fs.distances.sse,
        weight=fs.weights.one,
    )
    both = torch.full((n,), t, dtype=torch.float64), torch.full((n,), r, dtype=torch.float64)
    times = fs.Times(*both, torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64))
    loss = method.loss(fs.Models(student), x0, z, times)
    floor = g_r**2 * (s**2 + r**2 - shrink**2 * (s**2 + t**2))
    error = loss.std() / n**0.5
    assert loss.mean().item() == pytest.approx(floor, abs=4 * error.item())
    (gradient,) = torch.autograd.grad(loss.mean(), slope)
    rows = 2 * (shrink * g_r * (x0 + t * z) - g_r * (x0 + r * z)) * (x0 + t * z)
    assert abs(gradient.item()) < 4 * rows.std().item() / n**0.5


@pytest.mark.parametrize("t", [0.1, 1.0, 10.0])
def test_the_floor_of_diffusion_training_is_the_posterior_variance(t):
    s, n = 0.5, 200_000
    x0, z = draws(n, s)
    method = fs.methods.diffusion(sigma_data=s)
    times = method.times.at(torch.full((n,), t, dtype=torch.float64), 0.0)
    loss = method.loss(fs.Models(fs.exact.Gaussian(mean=0.0, std=s)), x0, z, times)
    weight = (t**2 + s**2) / (t * s) ** 2
    floor = weight * (s * t) ** 2 / (s**2 + t**2)
    assert floor == pytest.approx(1.0)
    assert loss.mean().item() == pytest.approx(floor, abs=4 * loss.std().item() / n**0.5)


PROCESSES = {"edm": EDM, "trig": fs.process.trig(sigma_data=1.0)}


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
def test_an_anchor_above_0_is_reached_and_bounds_what_is_asked(process):
    """The exact map costs nothing at a = r / 2, and at r = a the target is not asked.

    Both fail with a taken as 0.
    """
    point = torch.full((3, 2), 0.7, dtype=torch.float64)
    z = torch.randn(3, 2, generator=generator(3, "z"), dtype=torch.float64)
    t = torch.tensor([0.3, 0.8, 1.5], dtype=torch.float64)
    one = torch.ones_like(t)
    method = fs.Method(process=process, times=fs.methods.ect().times, target=fs.targets.Student())

    def says_the_point(x_t, time, cond=None):
        return point

    loss = method.loss(fs.Models(says_the_point), point, z, fs.Times(t, 0.6 * t, 0.3 * t, one))
    torch.testing.assert_close(loss, torch.zeros_like(t), rtol=0, atol=1e-20)

    def wrong_off_t(x_t, time, cond=None):
        return torch.where((time == t)[:, None], point, torch.nan)

    loss = method.loss(fs.Models(wrong_off_t), point, z, fs.Times(t, 0.6 * t, 0.6 * t, one))
    torch.testing.assert_close(loss, torch.zeros_like(t), rtol=0, atol=1e-20)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
def test_the_goal_is_where_the_targets_jump_to_the_anchor_comes_from(process):
    """loss = ||D(x_t) - goal||^2, by hand: jump(x_t, goal, t -> a) = jump(x_r, D(x_r), r -> a)."""
    student = small_student((2,))
    x0, z = (torch.randn(3, 2, generator=generator(i, "x"), dtype=torch.float64) for i in range(2))
    t = torch.tensor([0.3, 0.8, 1.5], dtype=torch.float64)
    r, a = 0.6 * t, 0.3 * t
    method = fs.Method(
        process=process,
        times=fs.methods.ect().times,
        target=fs.targets.Student(),
        distance=fs.distances.sse,
    )
    loss = method.loss(fs.Models(student), x0, z, fs.Times(t, r, a, torch.ones_like(t)))
    x_t, x_r = process.mix(x0, z, t), process.mix(x0, z, r)
    y = process.jump(x_r, student(x_r, r), r, a)
    alpha_t, alpha_a, sigma_t, sigma_a = (
        c[:, None] for f in ("alpha", "sigma") for c in map(getattr(process, f), (t, a))
    )
    keep = sigma_a / sigma_t
    goal = (y - keep * x_t) / (alpha_a - keep * alpha_t)
    torch.testing.assert_close(loss, (student(x_t, t) - goal).square().sum(1))


def test_a_target_is_asked_for_where_r_is_above_the_anchor():
    with pytest.raises(UserError, match="expected a target, since RatioMap gives r > a"):
        replace(fs.methods.ect(), target=None)


def test_a_plain_function_may_be_the_target_of_a_student_with_dropout():
    student = small_student((4,), dropout=0.5)
    method = replace(fs.methods.ect(), target=Exact())
    x0, z = (torch.randn(4, 4, generator=generator(i, "x"), dtype=torch.float64) for i in range(2))
    times = method.times.at(torch.tensor([0.3, 1.0, 5.0, 9.0]), 0.5)
    assert torch.isfinite(method.loss(fs.Models(student), x0, z, times, seed=[1, 2])).all()
    with pytest.raises(UserError, match="as many as divide the 4 rows"):
        method.loss(fs.Models(student), x0, z, times, seed=[1, 2, 3])


class Exact:
    """A target that is no network."""

    needs = frozenset()

    def __call__(self, models):
        return GAUSSIAN


def test_a_method_prints_its_functions_by_name():
    text = repr(fs.methods.direct_cm(n=2))
    assert "solver=ddim" in text
    assert " at 0x" not in text + repr(replace(fs.methods.ect(), weight=lambda process, times: 1))


def test_a_method_says_which_models_it_needs():
    assert fs.methods.diffusion().needs == {"student"}
    assert fs.methods.ect().needs == {"student"}


def test_a_new_space_weight_and_balance_need_nothing_but_a_function():
    """Any plain function fits: the noise as the space, t as the weight, the root as the balance."""
    base = fs.methods.diffusion()
    method = fs.Method(
        times=base.times,
        space=lambda process, x_t, x0_hat, times: (x_t - x0_hat) / times.t[:, None],
        weight=lambda process, times: times.t**2,
        balance=lambda loss_b, t, models: loss_b.sqrt(),
    )
    plain = fs.Method(times=base.times)
    student = small_student((4,))
    x0, z = (torch.randn(3, 4, generator=generator(i, "x"), dtype=torch.float64) for i in range(2))
    times = base.times.at(torch.tensor([0.3, 1.0, 5.0]), 0.5)
    w = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
    truth = w * plain.loss(fs.Models(student), x0, z, times).sqrt()
    torch.testing.assert_close(method.loss(fs.Models(student), x0, z, times._replace(w=w)), truth)
