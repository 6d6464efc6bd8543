"""Agreement with Direct CM's code: table, teacher solutions, targets, losses, samplers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import fewstep as fs
from fewstep.core import solvers
from fewstep.core.denoiser import Preconditioned
from fewstep.core.method import dropout
from fewstep.core.noise import Table
from fewstep.core.process import Process
from fewstep.core.scalings import Coefficients, Eps
from tests.support.cases import Case


class Tanh(nn.Module):
    """eps = tanh(a x + b (t - late)), with other numbers in rows without a label."""

    def __init__(
        self, numbers: dict[str, float], free: dict[str, float] | None = None, late: float = 0.0
    ) -> None:
        super().__init__()
        self.a, self.b = (
            nn.Parameter(torch.tensor(numbers[name], dtype=torch.float64)) for name in ("a", "b")
        )
        self.free, self.late = free, late

    def forward(self, x: Tensor, label: Tensor, cond: Tensor | None = None) -> Tensor:
        a, b = self.a.expand(len(x)), self.b.expand(len(x))
        if self.free is not None:
            assert cond is not None
            a = torch.where(cond < 0, self.free["a"], a)
            b = torch.where(cond < 0, self.free["b"], b)
        a, b, time = (part.reshape(-1, *[1] * (x.ndim - 1)) for part in (a, b, label - self.late))
        return torch.tanh(a * x + b * time)


@dataclass(frozen=True)
class Boundary:
    """skip x + out x0_hat of an eps-prediction, with the boundary's skip and out at s = scale t."""

    scale: float
    sigma_data: float = 0.5

    def __call__(self, process: Process, t: Tensor) -> Coefficients:
        inner, s, power = Eps()(process, t), self.scale * t, self.sigma_data**2
        skip, out = power / (s**2 + power), s / (s**2 + power).sqrt()
        return Coefficients(skip + out * inner.skip, out * inner.out, inner.in_, inner.noise)


@dataclass(frozen=True)
class Late:
    """A table whose times are one higher; its noise and rates at 0 are those of the first step.

    So the reference's Heun reads its table at the data, for a second slope there; ours ends with
    Euler's move.
    """

    table: Table

    def alpha(self, t: Tensor) -> Tensor:
        return self.table.alpha((t - 1).clamp_min(1))

    def sigma(self, t: Tensor) -> Tensor:
        return self.table.sigma((t - 1).clamp_min(1))

    def alpha_rate(self, t: Tensor) -> Tensor:
        return self.table.alpha_rate((t - 1).clamp_min(1))

    def sigma_rate(self, t: Tensor) -> Tensor:
        return self.table.sigma_rate((t - 1).clamp_min(1))


def late(process: Process) -> Process:
    return Process(Late(process.schedule), t_min=1.0, t_max=process.t_max + 1)


def method_and_teacher(
    case: Case, goal: str, solver: str, c: float
) -> tuple[fs.Method, Preconditioned]:
    settings, process = case.settings, fs.process.discrete(betas=case["betas"])
    options: dict[str, Any] = {
        "n": settings["num_discr_timesteps"],
        "goal": goal,
        "c": c,
        "process": "discrete",
    }
    method = fs.methods.direct_cm(solver=solver, guidance=settings["w"] - 1, **options)
    method = replace(method, process=process)
    numbers = settings["teacher_cond"], settings["teacher_uncond"]
    if solver != "heun":
        return method, Preconditioned(Tanh(*numbers), Eps(), process)
    later = late(process)
    levels = method.times if goal == "student" else method.times.times
    move = solvers.along(solvers.heun, [t + 1 for t in levels.grid])

    def to_the_data(_: Process, denoiser, x, t, s, cond) -> Tensor:
        return move(later, denoiser, x, t + 1, s + 1, cond)

    coupling = replace(method.coupling, solver=to_the_data)
    teacher = Preconditioned(Tanh(*numbers, late=1.0), Eps(), later)
    return replace(method, coupling=coupling), teacher


def one_loss(case: Case, word: str, goal: str, solver: str, c: float) -> None:
    method, teacher = method_and_teacher(case, goal, solver, c)
    student = Preconditioned(
        Tanh(case.settings["student"]), Boundary(case.settings["timestep_scaling"]), method.process
    )
    models, x0, z = fs.Models(student, teacher=teacher), case["latents"], case["noise"]
    cond, times = torch.zeros(len(x0), dtype=torch.int64), method.times.at(case["index"], 0.0)
    case.agree("t", times.t)
    x_t, x_r = method.coupling(models, method.process, x0, z, times, cond)
    case.agree(f"{word}_x_t", x_t)
    if goal == "student":
        case.agree(f"{word}_{solver}_x_prev", x_r)
    with torch.no_grad():
        run = dropout(student, len(x0), None, x0.device)
        case.agree(f"{word}_{solver}_target", method.goal(models, x_t, x_r, times, cond, run))
    case.agree(f"{word}_{solver}_pred", student(x_t, times.t, cond))
    loss = method.loss(models, x0, z, times, cond).mean()
    name = f"{word}_{solver}_{'huber' if c else 'l2'}"
    case.agree(f"{name}_loss", loss)
    loss.backward()
    for part in ("a", "b"):
        case.agree(f"{name}_grad_{part}", getattr(student.network, part).grad)


def direct_cm_losses(case: Case) -> None:
    process = fs.process.discrete(betas=case["betas"])
    every = torch.arange(1, len(case["betas"]) + 1)
    case.agree("alpha", process.alpha(every))
    case.agree("sigma", process.sigma(every))
    for word, goal in (("direct", "solution"), ("cm", "student")):
        for solver in ("ddim", "euler", "heun"):
            for c in (0.0, case.settings["huber_c"]):
                one_loss(case, word, goal, solver, c)


def direct_cm_schedulers(case: Case) -> None:
    """Stable Diffusion's table; of the states of its Heun each second one is a move's end."""
    process, x = fs.process.by_name("discrete"), case["sample"]
    plain = Preconditioned(Tanh(case.settings), Eps(), process)
    boundary = Preconditioned(Tanh(case.settings), Boundary(10.0), process)

    def states(on: Process, denoiser, step, times: list[float], noise=None) -> list[Tensor]:
        """The state after each move, the last of them to the data."""
        return [
            fs.sampling.sample(on, denoiser, x, times[: i + 1], step, noise=noise)
            for i in range(1, len(times))
        ]

    for name, denoiser, step in (
        ("ddim", plain, solvers.ddim),
        ("euler", plain, solvers.euler),
        ("lcm", boundary, solvers.renoise),
    ):
        times = [*case[f"{name}_timesteps"].tolist(), 0.0]
        noise = (lambda i: case["lcm_noise"][i]) if name == "lcm" else None
        case.agree(f"{name}_trajectory", torch.stack(states(process, denoiser, step, times, noise)))
    ends = case["heun_timesteps"][1::2] + 1.0
    later, times = late(process), [case["heun_timesteps"][0].item() + 1.0, *ends.tolist()]
    denoiser = Preconditioned(Tanh(case.settings, late=1.0), Eps(), later)
    corrections = states(later, denoiser, solvers.heun, times)
    before = [x, *corrections[:-1]]
    predictions = [
        solvers.euler(later, denoiser, *move)
        for move in zip(before, times[:-1], times[1:], strict=True)
    ]
    both = [state for pair in zip(predictions, corrections, strict=True) for state in pair]
    case.agree("heun_trajectory", torch.stack(both))
    inner = [t - 1 for t in times[:-1]]  # before the data Heun's moves are ours without any change
    for i, state in enumerate(states(process, plain, solvers.heun, inner)):
        case.agree_at("heun_trajectory", 2 * i + 1, state)


TESTED = {"direct_cm_losses": direct_cm_losses, "direct_cm_schedulers": direct_cm_schedulers}
