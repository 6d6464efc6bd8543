"""Multistep consistency models by their equations: their two ends, aDDIM, and the sampler they were
made for.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from tests.support.toys import Spy, small_student, tiny_run

COSINE = fs.process.cosine()


def batch(method: fs.Method, rows: int = 24, progress: float = 0.3):
    x0, z = (
        torch.randn(rows, 3, generator=generator(i, "x"), dtype=torch.float64) for i in range(2)
    )
    u = torch.rand(rows, 2, generator=generator(2, "u"), dtype=torch.float64)
    return x0, z, method.times(u, progress, torch.arange(rows))


@pytest.mark.parametrize(
    "process", [fs.process.linear(), fs.process.trig()], ids=["linear", "trig"]
)
@pytest.mark.parametrize("distance", ["huber", "squared"])
def test_one_segment_is_a_consistency_model(process, distance):
    """Where sigma(0) = 0: distance of D(x_t, t) to sg D(x_r, r), and to the data in the first step."""
    method = fs.methods.mcm(K=1, steps=8, steps_end=8, distance=distance, space="x0")
    method = replace(method, process=process, times=replace(method.times, end=process.t_max))
    student = small_student((3,), dropout=0.4)
    x0, z, times = batch(method)
    seeds = list(range(len(x0)))
    loss = method.loss(fs.Models(student), x0, z, times, seed=seeds)
    masks = student.masks(len(x0), seeds)
    said = [student(process.mix(x0, z, t), t, None, masks) for t in (times.t, times.r)]
    goal = torch.where((times.r == 0)[:, None], x0, said[1])
    assert 1 <= (times.r == 0).sum() < len(x0)
    torch.testing.assert_close(loss, method.distance(said[0], goal), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("number", [1, 8])
def test_a_step_per_segment_is_diffusion_weighted_in_v(number):
    """K = T with the squared distance: E (SNR + 1) ||D(x_t) - x0||^2 / D for the same x0, z and t."""
    method = fs.methods.mcm(K=number, steps=number, steps_end=number, distance="squared")
    diffusion = fs.Method(
        process=COSINE,
        times=fs.methods.diffusion().times,
        weight=fs.weights.snr_plus_one,
        target=None,
    )
    student = small_student((3,))
    x0, z, times = batch(method)
    loss = method.loss(fs.Models(student), x0, z, times)
    expected = diffusion.loss(fs.Models(student), x0, z, diffusion.times.at(times.t, 0.0))
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    gradients = [
        torch.autograd.grad(part.mean(), list(student.parameters())) for part in (loss, expected)
    ]
    for ours, other in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-9, atol=1e-12)


def test_the_literal_weight_and_the_space_of_v_are_the_same_where_squared():
    options = {"distance": "squared", "steps": 16, "steps_end": 16}
    student = small_student((3,))
    in_v, literal = (
        fs.methods.mcm(**options),
        fs.methods.mcm(**options, space="x0", weight="snr_plus_one"),
    )
    losses = [method.loss(fs.Models(student), *batch(method)) for method in (in_v, literal)]
    torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_in_a_segments_first_step_the_goal_is_the_data(number):
    """n_rel = 1: whatever the network says at r; elsewhere what it says there decides."""
    method = fs.methods.mcm(K=number, steps=8, steps_end=8)
    x0, z, times = batch(method, rows=64)
    x_t, x_r = (COSINE.mix(x0, z, t) for t in (times.t, times.r))
    nan = lambda denoiser, x, t, cond: torch.full_like(x, torch.nan)  # noqa: E731
    goal = method.goal(fs.Models(lambda x, t, cond=None: x), x_t, x_r, times, None, nan)
    first = times.r == times.a
    assert first.sum() == ((times.t - times.a) < 1.5 / 8).sum()
    assert 0 < first.sum() < 64
    torch.testing.assert_close(goal[first], x0[first], rtol=1e-9, atol=1e-9)
    assert torch.isnan(goal[~first]).all()


def test_the_goal_leads_where_the_target_leads():
    """jump(x_t, goal, t -> a) = jump(x_r, D(x_r), r -> a), written out with the paper's
    coefficients.
    """
    method, student = fs.methods.mcm(K=4, steps=32, steps_end=32), small_student((3,))
    x0, z, times = batch(method)
    t, r, a = times[:3]
    x_t, x_r = COSINE.mix(x0, z, t), COSINE.mix(x0, z, r)
    goal = method.goal(
        fs.Models(student), x_t, x_r, times, None, lambda d, x, t, cond: d(x, t, cond)
    )
    (alpha_t, alpha_r, alpha_a), (sigma_t, sigma_r, sigma_a) = (
        [getattr(COSINE, name)(time)[:, None] for time in (t, r, a)] for name in ("alpha", "sigma")
    )
    said = student(x_r, r)
    x_a = alpha_a * said + sigma_a / sigma_r * (x_r - alpha_r * said)
    expected = (x_a - sigma_a / sigma_t * x_t) / (alpha_a - alpha_t * sigma_a / sigma_t)
    torch.testing.assert_close(goal, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_addims_variance_is_of_the_real_data_and_the_unguided_guess(guidance):
    """x_var = eta ||D_c - x0||^2 / d row by row, while the move itself goes along the guided guess."""
    method = fs.methods.mcm(pairs="addim", eta=0.6, guidance=guidance, steps=16, steps_end=16)
    teacher = small_student((3,), classes=2, seed=1)
    x0, z, times = batch(method)
    cond = torch.arange(len(x0)) % 2
    x_t, x_r = method.coupling(fs.Models(teacher, teacher=teacher), COSINE, x0, z, times, cond)
    plain, free = teacher(x_t, times.t, cond), teacher(x_t, times.t, torch.full_like(cond, -1))
    said = plain + guidance * (plain - free)
    alpha_t, alpha_s, sigma_t, sigma_s = (
        getattr(COSINE, name)(time)[:, None]
        for name in ("alpha", "sigma")
        for time in (times.t, times.r)
    )
    z_hat = (x_t - alpha_t * said) / sigma_t
    z_var = (
        (alpha_s - alpha_t * sigma_s / sigma_t) ** 2
        * 0.6
        * (plain - x0).square().mean(1, keepdim=True)
    )
    length = (sigma_s**2 + 3 * z_var / z_hat.square().sum(1, keepdim=True)).sqrt()
    torch.testing.assert_close(x_r, alpha_s * said + length * z_hat, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("number", [1, 3, 4])
def test_sampling_is_the_product_of_the_segments_jumps(number):
    """x_(k-1)/K = jump(x_k/K, D(x_k/K)) for k = K .. 1 from sigma(1) z, each segment in one
    evaluation.
    """
    student = Spy(small_student((3,)))
    sampler, x = (
        fs.methods.mcm(K=number).sampler,
        torch.randn(5, 3, generator=generator(0, "x"), dtype=torch.float64),
    )
    grid = sampler.times(COSINE, number)
    found = fs.sampling.sample(COSINE, student, COSINE.prior(x), grid, sampler.step)
    assert len(student.asked) == number
    x = COSINE.sigma(1.0) * x
    for k in range(number, 0, -1):
        t, s = k / number, (k - 1) / number
        x = COSINE.jump(x, student(x, t), t, s)
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)
    anchors = {0.0, *fs.methods.mcm(K=number).times.at(torch.arange(0, 10**6, 7), 0.0).a.tolist()}
    assert sorted([*anchors, 1.0]) == pytest.approx(grid[::-1])  # the grid that it was trained for


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_another_number_of_steps_is_refused(steps):
    sampler = fs.methods.mcm(K=4).sampler
    assert (sampler.default, len(sampler.times(COSINE, 4))) == (4, 5)
    with pytest.raises(UserError, match=f"^steps = {steps}: this model was trained for 4 steps"):
        sampler.times(COSINE, steps)


def test_a_run_samples_with_the_segments_it_was_trained_with():
    made = fs.train(
        tiny_run(method="mcm", method_options={"K": 2}, iterations=1), progress=False, device="cpu"
    )
    assert torch.equal(made.sample(4, seed=1), made.sample(4, seed=1, steps=2))
    with pytest.raises(UserError, match="was trained for 2 steps"):
        made.sample(4, steps=1)


def test_the_schedule_is_shifted_and_the_norm_has_its_constant():
    method = fs.methods.mcm(shift=(0.5, -2.0), c=0.3)
    assert method.process == fs.process.cosine(shift=(0.5, -2.0)) != fs.methods.mcm().process
    e = torch.tensor([[0.4, -0.2]], dtype=torch.float64)
    torch.testing.assert_close(
        method.distance(e, torch.zeros_like(e)), e.square().mean(1).add(0.09).sqrt() - 0.3
    )
