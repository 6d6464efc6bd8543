"""Distillation of a pipeline whose teacher is an exact law: students against the exact solution."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from fewstep.base.randomness import normal
from fewstep.core import sampling
from fewstep.pipelines.distill import distill
from fewstep.pipelines.folder import Folder, open_folder
from fewstep.pipelines.roles import roles_of
from fewstep.pipelines.task import Task
from fewstep.run.config import Run
from tests.pipelines.exact_network import ExactNetwork, law_of
from tests.support import tiny_pipelines

PROMPTS = ("a cat", "the sea")
SHAPE = (4, 1, 1)
ROWS = 256
# Of each method: its options, and the learning rate.
METHODS = {
    "direct_cm": ({"n": 10, "process": "discrete", "solver": "heun"}, 1e-2),
    "cd": ({"n": 12, "mu": 0.0}, 1e-2),
    "mcm": ({"K": 2, "pairs": "ddim", "process": "discrete", "steps": 20, "steps_end": 20}, 1e-2),
    "tcm": (
        {
            "base": {"method": "ect", "pairs": "heun", "stages": 2, "p_mean": 0.5, "p_std": 1.5},
            "t_prime": 0.5,
        },
        1e-2,
    ),
    "scd": (
        {"p_mean": -0.4, "p_std": 1.6, "warmup": 0.8, "norm": "none", "balance": "none"},
        4e-3,
    ),
}


# Flow maps: their options.
MAPS = {
    "meanflow": {"process": "discrete", "velocity": "teacher"},
    "ayf": {"process": "discrete"},
    "shortcut": {"process": "discrete", "powers": 3, "share": 0.75, "mu": 0.9},
}
METHODS_AND_MAPS = METHODS | {method: (options, 1e-2) for method, options in MAPS.items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(method, updates) -> the generator of that distillation, and the exact law."""
    top = tmp_path_factory.mktemp("truth")
    folder = tiny_pipelines.build("sd-v", top / "pipeline", side=1)
    prompts = top / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    law, opened = law_of(SHAPE), open_folder(folder)
    with opened.encoders() as encoders:
        tokens = opened.family.encode(encoders, PROMPTS)["tokens"]
    load = Folder.load

    def load_exact(self, name, dtype=torch.float32, device="cpu"):
        if name != "unet":
            return load(self, name, dtype, device)
        torch.manual_seed(1)
        return ExactNetwork(law, tokens).to(device, dtype).eval()

    task = Task(
        folder=str(folder),
        prompts=str(prompts),
        rank=16,
        layers=ExactNetwork.layers,
        weights="fp32",
        size=2,
        teacher_steps=20,
        samples=500,
    )

    @cache
    def generator(method, updates):
        options, lr = METHODS_AND_MAPS[method]
        run = Run(
            recipe="lora",
            method=method,
            method_options=options,
            iterations=updates,
            batch=128,
            block=128,
            lr=lr,
            ema=0.9,
            picture_every=0,
        )
        out = top / f"{method}-{updates}"
        settings = {"out": out, "cache": top / "cache", "device": "cpu", "progress": False}
        return distill(run, task, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Folder, "load", load_exact)
        yield generator, law, opened, task


def distance(generator, law, denoiser=None, steps=None):
    """The root mean square of the student's samples minus the exact solutions of the ODE.

    From the same noise, without fresh noise between steps; and the deviation of the solutions.
    """
    method = generator.method
    label = torch.arange(ROWS) % len(PROMPTS)
    z = normal(5, "truth", 0, ROWS, SHAPE, 16)
    top = law.process.t_max
    exact = law.solve(law.process.prior(z), top, 0.0, label)
    by = sampling.sampler(method.sampler)
    noise = (lambda _: torch.zeros_like(z)) if by.noisy else None
    grid = by.times(method.process, steps or by.default, ())
    start = method.process.prior(z)
    with torch.no_grad():
        ask = denoiser or generator.denoiser
        x = sampling.sample(method.process, ask, start, grid, by.step, label, noise)
    return float((x - exact).square().mean().sqrt()), float(exact.std(0).mean())


def teacher_in(generator, opened, task):
    """The student before its first update: the teacher itself, asked in as few steps."""
    from fewstep.core.denoiser import Preconditioned

    prompts = generator.denoiser.network.base.prompts.value
    roles = roles_of(opened, task, prompts, 0)
    return Preconditioned(roles.teacher, opened.convention, generator.method.process)


@pytest.mark.parametrize("method", METHODS)
def test_two_hundred_updates_halve_the_distance_to_the_exact_solution(trained, method):
    generator, law, opened, task = trained
    student = generator(method, 200)
    before, _ = distance(student, law, teacher_in(student, opened, task))
    after, _ = distance(student, law)
    assert before > 0.3  # the teacher is no student
    assert after < before / 2


@pytest.mark.parametrize("method", MAPS)
def test_two_hundred_updates_of_a_flow_map_halve_it_in_two_steps(trained, method):
    """And bring one step nearer, by the same student."""
    generator, law, opened, task = trained
    student = generator(method, 200)
    teacher = teacher_in(student, opened, task)
    before, after = (
        [distance(student, law, one, steps)[0] for steps in (1, 2)] for one in (teacher, None)
    )
    assert before[1] > 0.3  # the teacher is no student
    assert after[1] < before[1] / 2
    assert after[0] < 0.8 * before[0]


def test_direct_regression_solves_the_ode_better_than_consistency_at_equal_updates(trained):
    """Direct CM, arXiv 2411.08954: the lower ODE error is the paper's first claim."""
    generator, law, *_ = trained
    direct, _ = distance(generator("direct_cm", 200), law)
    consistency, _ = distance(generator("cd", 200), law)
    assert direct < 0.6 * consistency


def test_a_student_reaches_the_exact_solution_within_the_errors_of_a_sample(trained):
    generator, law, *_ = trained
    error, deviation = distance(generator("direct_cm", 800), law)
    assert error < deviation / ROWS**0.5  # the standard error of the mean of as many samples
