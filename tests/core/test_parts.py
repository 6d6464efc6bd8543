"""Couplings, targets, spaces, balances and curricula: identities and limits of each part."""

from __future__ import annotations

import pytest
import torch

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.core import solvers
from fewstep.core.denoiser import across
from fewstep.core.times.curricula import (
    Doubling,
    Fixed,
    FixedRate,
    Progressive,
)
from tests.support.toys import Gaussian

PROCESSES = {
    "edm": fs.process.edm(),
    "trig": fs.process.trig(sigma_data=0.5),
    "linear": fs.process.linear(),
    "cosine": fs.process.cosine(),
}
on_every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


def draw(rows: int = 6, shape: tuple[int, ...] = (2, 3), which: int = 0) -> torch.Tensor:
    return torch.randn(rows, *shape, generator=generator(which, "parts"), dtype=torch.float64)


def times_on(process, rows: int = 6, r: float = 0.5) -> fs.Times:
    t = process.t_max * torch.linspace(0.2, 0.9, rows, dtype=torch.float64)
    return fs.Times(t, r * t, torch.zeros_like(t), torch.ones_like(t))


@on_every_process
def test_a_teacher_that_knows_the_data_is_the_independent_coupling(process):
    """CT is CD whose teacher is the data point.

    With ddim on any process, with euler and heun where paths are straight in t.
    """
    x0, z, times = draw(), draw(which=1), times_on(process)
    models = fs.Models(student=None, teacher=lambda x, t, cond=None: x0)
    truth = fs.couplings.Data()(models, process, x0, z, times, None)
    straight = process in (PROCESSES["edm"], PROCESSES["linear"])
    for solver in (solvers.ddim, solvers.euler, solvers.heun) if straight else (solvers.ddim,):
        pair = fs.couplings.Teacher(solver)(models, process, x0, z, times, None)
        for ours, other in zip(pair, truth, strict=True):
            torch.testing.assert_close(ours, other, rtol=1e-11, atol=1e-11)


@on_every_process
def test_an_exact_student_of_an_exact_teacher_has_no_loss(process):
    """The loss is 0 for the teacher's exact map and the consistency function as both networks."""
    truth, x0, z = Gaussian(process=process), draw(), draw(which=1)

    def solve(process, denoiser, x, t, s, cond=None):
        return truth.solve(x, t, s)

    def perfect(x, t, cond=None):
        zero = torch.zeros_like(t)
        return process.aim(x, truth.solve(x, t, zero), t, zero)

    times = times_on(process)
    method = fs.Method(
        process=process,
        times=fs.times.Adjacent(steps=Fixed(4)),
        coupling=fs.couplings.Teacher(solve),
        target=fs.targets.Ema(FixedRate(0.9)),
    )
    loss = method.loss(fs.Models(perfect, ema=perfect, teacher=truth), x0, z, times)
    assert loss.max() < 1e-20


def test_multiscale_errors_are_the_mean_over_the_scales():
    process, times = PROCESSES["edm"], times_on(PROCESSES["edm"])
    guess, goal = draw(6, (3, 8, 8)), draw(6, (3, 8, 8), 1)
    space = fs.spaces.Multiscale(pools=2)
    error = fs.distances.mse(*(space(process, guess, x0, times) for x0 in (guess, goal)))
    scales = [guess - goal]
    for _ in range(2):
        scales.append(torch.nn.functional.avg_pool2d(scales[-1], 2))
    torch.testing.assert_close(error, sum(p.square().flatten(1).mean(1) for p in scales) / 3)
    with pytest.raises(UserError, match=r"multiscale space: shape = \(3, 6, 6\): .*divisible by 4"):
        space(process, guess, guess[..., :6, :6], times)


def test_a_learned_log_variance_finds_the_levels_mean_loss_and_evens_their_gradients():
    """Its optimum is u = log E[loss | t]: a balanced loss of 1 + u, of gradient 1 / E[loss]."""
    balance = fs.balances.LogVariance(channels=64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = balance.module().double()
    t = torch.tensor([0.05, 0.5, 5.0, 50.0], dtype=torch.float64)
    loss = torch.tensor([9.0, 1.0, 0.1, 0.01], dtype=torch.float64)
    models = fs.Models(None, balance=module)
    times = fs.Times(t, t / 2, 0 * t, torch.ones_like(t))
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=200, tolerance_grad=1e-10)

    def closure():
        optimizer.zero_grad()
        value = balance(loss, times, models).sum()
        value.backward()
        return value

    optimizer.step(closure)
    torch.testing.assert_close(module(t.log() / 4), loss.log(), rtol=1e-4, atol=1e-4)
    loss.requires_grad_()
    balance(loss, times, models).sum().backward()
    torch.testing.assert_close(loss.grad, 1 / loss.detach(), rtol=1e-3, atol=1e-3)


def test_a_method_says_which_model_it_lacks():
    method, x0 = fs.methods.cd(), draw()
    times = method.times.at(torch.zeros(6, dtype=torch.long), 0.0)
    with pytest.raises(UserError, match=r"models.ema = None: expected a denoiser"):
        method.loss(fs.Models(lambda x, t, cond=None: x, teacher=Gaussian()), x0, x0, times)
    assert method.needs == {"student", "ema", "teacher"}


@pytest.mark.parametrize(
    "make", [lambda: Fixed(0), lambda: Progressive(5, 2), lambda: Doubling(0, 8)]
)
def test_curricula_refuse_impossible_sizes(make):
    with pytest.raises(UserError, match=r"intervals = .*expected at least 1"):
        make()


def test_scalings_and_weights_depend_on_the_level_alone():
    edm = fs.process.edm()
    for process in PROCESSES.values():
        t = process.time_at(torch.tensor([0.002, 0.5, 9.0], dtype=torch.float64))
        level = process.level(t)
        here = fs.scalings.Edm(shift=0.002)(process, t)
        there = fs.scalings.Edm(shift=0.002)(edm, level)
        torch.testing.assert_close(here.out, there.out, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(here.skip * process.alpha(t), there.skip, rtol=1e-6, atol=1e-9)
        weights = [
            fs.weights.Edm()(on, fs.Times(at, at / 2, 0 * at, at))
            for on, at in ((process, t), (edm, level))
        ]
        torch.testing.assert_close(*weights, rtol=1e-6, atol=0)


def test_pure_noise_and_clean_data_have_finite_weights_and_predictions():
    table = fs.process.discrete(alphas_cumprod=[0.9, 0.3, 0.0])
    for process in (table, PROCESSES["linear"]):
        end = torch.tensor([process.t_max], dtype=torch.float64)
        weight = fs.weights.Edm(0.5)(process, fs.Times(end, end / 2, 0 * end, end))
        torch.testing.assert_close(weight, torch.tensor([4.0], dtype=torch.float64))
        x = draw(1)
        for t in (0.0, process.t_max):
            kinds = [fs.scalings.V(), fs.scalings.X0(), fs.scalings.Edm()]
            # A table's rates end at 0: the velocity says nothing there.
            if process is not table or t == 0:
                kinds.append(fs.scalings.Flow())
            for kind in kinds:
                raw = fs.scalings.from_x0(kind, process, x, 0.5 * x, t)
                assert torch.isfinite(raw).all()
                assert torch.isfinite(fs.scalings.to_x0(kind, process, x, raw, t)).all()


def test_a_denoiser_is_asked_for_its_last_level_beyond_it():
    times = []

    def spy(x, t, cond=None):
        times.append(t)
        return x

    on_linear = across(spy, fs.process.edm(), PROCESSES["linear"])
    assert torch.isfinite(on_linear(torch.ones(1, 2), 1.0)).all()
    assert times[0].item() == 80.0


def test_transport_refuses_rows_of_different_masks():
    x0, mask = draw(4), torch.tensor([[True, True], [True, False], [True, True], [True, True]])
    coupling, times = fs.couplings.MinibatchOT(), times_on(PROCESSES["edm"], 4)
    with pytest.raises(UserError, match="expected the same mask in every row"):
        coupling(fs.Models(None), PROCESSES["edm"], x0, x0, times, {"mask": mask[:, :, None]})
