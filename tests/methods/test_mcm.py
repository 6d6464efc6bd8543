"""Multistep consistency models by their equations: their two ends, aDDIM, and their sampler."""

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
    """Where sigma(0) = 0: distance of D(x_t, t) to sg D(x_r, r), in the first step to the data."""
    method = fs.methods.mcm(K=1, steps=8, steps_end=8, distance=distance, space="x0")
    method = replace(method, process=process, times=replace(method.times, end=process.t_max))
    student = small_student((3,), dropout=0.4)
    x0, z, times = batch(method)
    seeds = list(range(len(x0)))
    loss = method.loss(fs.Models(student), x0, z, times, seed=seeds)
    masks = student.masks(len(x0), seeds)
    guesses = [student(process.mix(x0, z, t), t, None, masks) for t in (times.t, times.r)]
    goal = torch.where((times.r == 0)[:, None], x0, guesses[1])
    assert 1 <= (times.r == 0).sum() < len(x0)
    torch.testing.assert_close(loss, method.distance(guesses[0], goal), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("number", [1, 8])
def test_a_step_per_segment_is_diffusion_weighted_in_v(number):
    """K = T, squared distance: E (SNR + 1) ||D(x_t) - x0||^2 / D of the same x0, z and t."""
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
    truth = diffusion.loss(fs.Models(student), x0, z, diffusion.times.at(times.t, 0.0))
    torch.testing.assert_close(loss, truth, rtol=1e-10, atol=1e-12)
    gradients = [
        torch.autograd.grad(part.mean(), list(student.parameters())) for part in (loss, truth)
    ]
    for ours, other in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("number", [1, 3, 4])
def test_sampling_is_the_product_of_the_segments_jumps(number):
    """x_(k-1)/K = jump(x_k/K, D(x_k/K)) for k = K .. 1 from sigma(1) z, one evaluation each."""
    student = Spy(small_student((3,)))
    sampler = fs.methods.mcm(K=number).sampler
    x = torch.randn(5, 3, generator=generator(0, "x"), dtype=torch.float64)
    grid = sampler.times(COSINE, number)
    out = fs.sampling.sample(COSINE, student, COSINE.prior(x), grid, sampler.step)
    assert len(student.calls) == number
    x = COSINE.sigma(1.0) * x
    for k in range(number, 0, -1):
        t, s = k / number, (k - 1) / number
        x = COSINE.jump(x, student(x, t), t, s)
    torch.testing.assert_close(out, x, rtol=1e-9, atol=1e-9)
    anchors = {0.0, *fs.methods.mcm(K=number).times.at(torch.arange(0, 10**6, 7), 0.0).a.tolist()}
    assert sorted([*anchors, 1.0]) == pytest.approx(grid[::-1])  # the grid that it was trained for


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_another_number_of_steps_is_refused(steps):
    sampler = fs.methods.mcm(K=4).sampler
    assert (sampler.default, len(sampler.times(COSINE, 4))) == (4, 5)
    with pytest.raises(UserError, match=f"^steps = {steps}: this model was trained for 4 steps"):
        sampler.times(COSINE, steps)


def test_a_run_samples_with_the_segments_it_was_trained_with():
    result = fs.train(
        tiny_run(method="mcm", method_options={"K": 2}, iterations=1), progress=False, device="cpu"
    )
    assert torch.equal(result.sample(4, seed=1), result.sample(4, seed=1, steps=2))
    with pytest.raises(UserError, match="was trained for 2 steps"):
        result.sample(4, steps=1)


def test_the_schedule_is_shifted_and_the_norm_has_its_constant():
    method = fs.methods.mcm(shift=(0.5, -2.0), c=0.3)
    assert method.process == fs.process.cosine(shift=(0.5, -2.0)) != fs.methods.mcm().process
    e = torch.tensor([[0.4, -0.2]], dtype=torch.float64)
    torch.testing.assert_close(
        method.distance(e, torch.zeros_like(e)), e.square().mean(1).add(0.09).sqrt() - 0.3
    )
