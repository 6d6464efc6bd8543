"""Agreement with openai's consistency models and with the independent coupling of GC."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

import fewstep as fs
from fewstep.core import solvers
from fewstep.core.denoiser import Preconditioned
from fewstep.core.scalings import Edm
from fewstep.core.times.curricula import (
    Doubling,
    Fixed,
    FixedRate,
    Progressive,
    ProgressiveRate,
    Ramp,
)
from tests.support.cases import Case
from tests.support.toys import Analytic

EDM = fs.process.edm()
LABEL = 1000 / 4  # the reference's noise label is 250 ln(sigma)


def denoiser(case: Case, who: str | None, shift: float = 0.0) -> Preconditioned:
    """The network of the case under EDM's scalings, or the consistency model's."""
    numbers = case.settings if who is None else case.settings[who]
    scaling = Edm(sigma_data=case.settings["sigma_data"], shift=shift, noise_scale=LABEL)
    return Preconditioned(Analytic(numbers["a"], numbers["b"], torch.float64), scaling)


def scalings(case: Case) -> None:
    settings, sigma = case.settings, case["sigma"]
    times = fs.times.Times(*[sigma] * 4)
    for name, shift in (("bc", settings["sigma_min"]), ("edm", 0.0)):
        model = denoiser(case, None, shift)
        c = model.scaling(EDM, sigma)
        for key in ("skip", "out", "in"):
            case.agree(f"{name}_c_{key}", getattr(c, key.replace("in", "in_")))
        case.agree(
            {"bc": "D_boundary", "edm": "D_edm"}[name], model(case["x"], sigma[: len(case["x"])])
        )
    weights = {
        "karras": fs.weights.Edm(settings["sigma_data"]),
        "uniform": fs.weights.one,
        "snr": fs.weights.snr,
    }
    weights |= {"snr_plus_1": fs.weights.snr_plus_one, "truncated_snr": fs.weights.truncated_snr}
    for name, weight in weights.items():
        case.agree(f"w_{name}", weight(EDM, times))


def schedules(case: Case) -> None:
    for i, config in enumerate(case.settings["configurations"]):
        first, last, total = config["start_scales"], config["end_scales"], config["total_steps"]
        steps = (
            Progressive(first, last) if config["scale_mode"] == "progressive" else Fixed(first - 1)
        )
        rate = (
            ProgressiveRate(config["start_ema"], steps)
            if config["target_ema_mode"] == "adaptive"
            else FixedRate(config["start_ema"])
        )
        shares = [step / total for step in case[f"step_{i}"].tolist()]
        case.agree(f"scales_{i}", torch.tensor([steps(share) + 1 for share in shares]))
        case.agree(f"ema_{i}", torch.tensor([rate(share) for share in shares], dtype=torch.float64))


def consistency_losses(case: Case) -> None:
    settings = case.settings
    number = settings["num_scales"]
    for name in (n for n in case.tensors if n.startswith(("ct_", "cd_")) and "grad" not in n):
        *method, distance, weight = name.split("_")
        options = {"distance": distance, "weight": {"karras": "edm", "uniform": "one"}[weight]}
        options |= {"t_min": settings["sigma_min"], "t_max": settings["sigma_max"]}
        if method[0] == "cd":
            ours = fs.methods.cd(
                n=number, solver=method[1], sigma_data=settings["sigma_data"], **options
            )
        else:
            ours = fs.methods.ct(s0=2, s1=number - 1, sigma_data=settings["sigma_data"], **options)
        ours = replace(ours, times=replace(ours.times, rho=settings["rho"]))
        student, target = (
            denoiser(case, who, settings["sigma_min"]) for who in ("student", "target")
        )
        models = fs.Models(
            student, ema=target, teacher=denoiser(case, "teacher") if method[0] == "cd" else None
        )
        times = ours.times.at(number - 2 - case["indices"], 1.0)
        case.agree("t2", times.r)
        _, x_r = ours.coupling(models, ours.process, case["x_start"], case["noise"], times, None)
        case.agree(f"x_t2_{'_'.join(method)}", x_r)
        loss = ours.loss(models, case["x_start"], case["noise"], times)
        case.agree(name, loss)
        loss.mean().backward()
        for part in ("a", "b"):
            case.agree(f"{name}_grad_{part}", getattr(student.network, part).grad)
        assert target.network.a.grad is None


def progdist_losses(case: Case) -> None:
    """Progressive distillation: two Euler moves of the teacher lead to the anchor, here also r."""
    settings = case.settings
    number = settings["num_scales"]
    fine = fs.times.karras(
        settings["sigma_min"], settings["sigma_max"], 2 * number, settings["rho"]
    )
    t, a = fine[2 * case["indices"]], fine[2 * case["indices"] + 2]
    method = fs.Method(
        times=fs.times.AtAnchor(times=fs.times.Adjacent(steps=Fixed(number))),
        coupling=fs.couplings.Teacher(solvers.along(solvers.euler, fine)),
        weight=fs.weights.truncated_snr,
    )
    models = fs.Models(denoiser(case, "student"), teacher=denoiser(case, "teacher"))
    times = fs.Times(t, a, a, torch.ones_like(t))
    case.agree("loss", method.loss(models, case["x_start"], case["noise"], times))


def samplers(case: Case) -> None:
    settings, noise, start = case.settings, case["noise"], case["x_T"]
    levels = fs.times.karras(
        settings["t_min"], settings["t_max"], settings["steps"] - 1, settings["rho"]
    )
    student, teacher = denoiser(case, "student", settings["t_min"]), denoiser(case, "teacher")

    def multistep(ts: list[int], last: list[float]) -> Tensor:
        grid = [*levels[ts].tolist(), *last]

        def fresh(i: int) -> Tensor:  # the reference adds noise of variance s^2 - t_min^2, ours s^2
            return noise[i] * math.sqrt(1 - (settings["t_min"] / grid[i + 1]) ** 2)

        return fs.sampling.sample(EDM, student, start, grid, solvers.renoise, noise=fresh)

    case.agree("multistep", multistep(settings["ts"][:-1], [0.0]))
    case.agree("multistep_not_ending_at_last", multistep(settings["ts_without_last"], []))
    case.agree("onestep", student(start, settings["t_max"]))
    sigmas = fs.times.karras(
        settings["t_min"], settings["t_max"], settings["n_sigmas"] - 1, settings["rho"]
    ).tolist()
    case.agree("sigmas", torch.tensor([*sigmas, 0.0], dtype=torch.float64))

    def run(step, end: list[float], source=None) -> Tensor:
        return fs.sampling.sample(EDM, teacher, start, [*sigmas, *end], step, noise=source)

    case.agree("euler", run(solvers.euler, [0.0]))
    case.agree("heun", run(solvers.heun, [0.0]))
    case.agree("progdist", run(solvers.euler, []))
    case.agree("ancestral", run(solvers.ancestral, [0.0], lambda i: noise[i]))
    # "dpm", the midpoint in t^(1/3), is a solver that we do not have


def gc_precond(case: Case) -> None:
    settings = case.settings
    label = LABEL if settings["song_rescaling"] else 0.25
    scaling = Edm(sigma_data=settings["sigma_data"], shift=settings["sigma_min"], noise_scale=label)
    for name, value in zip(
        ("c_skip", "c_out", "c_in", "c_noise"), scaling(EDM, case["sigma"].double()), strict=True
    ):
        case.agree(name, value)


def gc_schedules_and_losses(case: Case) -> None:
    settings = case.settings
    low, high = settings["sigma_min"], settings["sigma_max"]
    for i, schedule in enumerate(settings["schedules"]):
        steps, total = Doubling(schedule["s0"], schedule["s1"]), schedule["total"]
        ours = [steps(step / total) + 1 for step in case[f"step_{i}"].tolist()]
        case.agree(f"n_{i}", torch.tensor(ours))
    law = fs.times.LogNormal(mean=-1.1, std=2.0, low=low, high=high)
    for name in (n for n in case.tensors if n.startswith("sigmas_")):
        points = int(name.split("_")[1])
        times = fs.times.Adjacent(
            steps=Fixed(points - 1), law=law, low=low, high=high, rho=settings["rho"]
        )
        grid = times.grid(0.0)
        case.agree(name, grid)
        every = times.at(torch.arange(points - 1), 0.0)
        case.agree(f"weights_{points}", fs.weights.inverse_gap(EDM, every))
        shares = law.cdf(grid).diff()
        truth = case[f"pdf_{points}"]
        torch.testing.assert_close(
            shares / shares.sum(), truth / truth.sum(), rtol=1e-9, atol=1e-12
        )
    case.agree("loss_huber", fs.methods.ict().distance(case["A"], case["Bt"]))
    case.agree("loss_l2", fs.distances.sse(case["A"], case["Bt"]))
    shares = [Ramp(0.9, 0.1)(step / 1000) for step in case["mix_step"].tolist()]
    case.agree("mix_value", torch.tensor(shares, dtype=torch.float64))


TESTED = {
    "cm_scalings": scalings,
    "cm_schedules": schedules,
    "cm_consistency_losses": consistency_losses,
    "cm_progdist_losses": progdist_losses,
    "cm_samplers": samplers,
    "gc_precond": gc_precond,
    "gc_precond_song": gc_precond,
    "gc_schedules_and_losses": gc_schedules_and_losses,
}
