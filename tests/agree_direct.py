"""Agreement with Direct CM's code: its table, guided teacher solutions, targets, losses, gradients and samplers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

import fewstep as fs
from fewstep import losses, solvers
from fewstep.denoiser import Preconditioned
from fewstep.noise import Schedule
from fewstep.process import Process
from fewstep.scalings import Coefficients, Eps
from tests.cases import Case


class Tanh(nn.Module):
    """eps = tanh(a x + b t), with numbers of its own where a row has no label."""

    def __init__(self, numbers: dict[str, float], unlabelled: dict[str, float] | None = None, late: float = 0.0) -> None:
        super().__init__()
        a, b = (torch.tensor(numbers[name], dtype=torch.float64) for name in ("a", "b"))
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)
        self.free, self.late = unlabelled, late

    def forward(self, x: Tensor, label: Tensor, cond: Tensor | None = None) -> Tensor:
        rows = [-1, *[1] * (x.ndim - 1)]
        a, b = self.a.expand(len(x)), self.b.expand(len(x))
        if self.free is not None:
            assert cond is not None
            a, b = torch.where(cond < 0, self.free["a"], a), torch.where(cond < 0, self.free["b"], b)
        return torch.tanh(a.reshape(rows) * x + b.reshape(rows) * (label - self.late).reshape(rows))


@dataclass(frozen=True)
class Boundary:
    """The consistency model of an eps-prediction, c_skip x + c_out x0_hat with the boundary in s = scale t."""

    scale: float
    sigma_data: float = 0.5

    def __call__(self, process: Process, t: Tensor) -> Coefficients:
        inner, s, power = Eps()(process, t), self.scale * t, self.sigma_data**2
        skip, out = power / (s**2 + power), s / (s**2 + power).sqrt()
        return Coefficients(skip + out * inner.skip, out * inner.out, inner.in_, inner.noise)


@dataclass(frozen=True)
class Held:
    """A table one step late, its time 0 like its time 1: where the reference's Heun takes its second slope at the data.

    Ours ends there with Euler's move, since the table's noise is 0 at 0.
    """

    table: Schedule

    def __getattr__(self, name: str):
        return lambda t: getattr(self.table, name)((t - 1).clamp_min(1))


def held(process: Process) -> Process:
    return Process(Held(process.schedule), t_min=1.0, t_max=process.t_max + 1)


def direct_cm_losses(case: Case) -> None:
    given = case.given
    n, x0, z, cond = given["num_discr_timesteps"], case["latents"], case["noise"], torch.zeros(4, dtype=torch.int64)
    cond = torch.zeros(len(x0), dtype=torch.int64)
    named = fs.process.named("discrete")
    every = torch.arange(1, len(case["betas"]) + 1)
    case.agree("alpha", named.alpha(every))
    case.agree("sigma", named.sigma(every))
    for goal, word in (("solution", "direct"), ("student", "cm")):
        for solver in ("ddim", "euler", "heun"):
            for c, distance in ((0.0, "l2"), (given["huber_c"], "huber")):
                method = fs.methods.direct_cm(
                    n=n, solver=solver, goal=goal, guidance=given["w"] - 1, c=c, process="discrete"
                )
                teacher = Tanh(given["teacher_cond"], given["teacher_uncond"])
                teacher = Preconditioned(teacher, Eps(), method.process)
                if solver == "heun":
                    method, teacher = with_held_heun(method, teacher)
                student = Preconditioned(
                    Tanh(given["student"]), Boundary(given["timestep_scaling"]), method.process
                )
                models = fs.Models(student, teacher=teacher)
                times = method.times.at(case["index"], 0.0)
                case.agree("t", times.t)
                x_t, x_r = method.coupling(models, method.process, x0, z, times, cond)
                case.agree(f"{word}_x_t", x_t)
                if goal == "student":
                    case.agree(f"cm_{solver}_x_prev", x_r)
                run = losses.dropout(student, len(x0), None, x0.device)
                with torch.no_grad():
                    case.agree(f"{word}_{solver}_target", method.goal(models, x_t, x_r, times, cond, run))
                case.agree(f"{word}_{solver}_pred", student(x_t, times.t, cond))
                loss = method.loss(models, x0, z, times, cond).mean()
                name = f"{word}_{solver}_{distance}"
                case.agree(f"{name}_loss", loss)
                loss.backward()
                for part in ("a", "b"):
                    case.agree(f"{name}_grad_{part}", getattr(student.network, part).grad)


TESTED = {"direct_cm_losses": direct_cm_losses}
