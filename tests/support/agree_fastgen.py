"""Agreement with FastGen's consistency models and TCM: times, losses, routing, samplers.

There r is at least min_r, and the boundary of TCM is 1e-8 above the time that routes; here r ends
at 0 and both are one time, so the tests hand on their r and their boundary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import fewstep as fs
from fewstep.core import solvers
from fewstep.core.denoiser import Preconditioned, Truncated
from fewstep.core.process import Process
from fewstep.core.scalings import Edm
from fewstep.core.weights import Weight
from tests.support.cases import Case
from tests.support.toys import Analytic

EDM = fs.process.edm()


def denoiser(case: Case, who: str | None = None) -> Preconditioned:
    numbers = case.settings[who] if who else case.settings
    network = Analytic(numbers["a"], numbers["b"], torch.float64)
    return Preconditioned(network, Edm(sigma_data=case.settings["sigma_data"]))


def weight_of(name: str, sigma_data: float) -> Weight:
    """Its weights by name: `sqrt` and `c_out` are not ours, but written as users write theirs."""

    def root_of(weight: Weight) -> Weight:
        return lambda process, times: weight(process, times).sqrt()

    edm = fs.weights.Edm(sigma_data)
    return {
        "default": fs.weights.inverse_gap,
        "sqrt": root_of(fs.weights.inverse_gap),
        "sigma_sq": fs.weights.snr,
        "c_out": root_of(edm),
        "c_out_sq": edm,
        "one": fs.weights.one,
    }[name]


def base_of(case: Case, config: dict[str, Any], ratio: float) -> fs.Method:
    """ECT with the distance and weight of a configuration at a fixed r / t, or Euler's move."""
    data = case.settings["sigma_data"]
    base = fs.methods.ect(
        c=config["huber_const"], pairs="euler" if config["use_cd"] else "data", sigma_data=data
    )
    return replace(
        base,
        distance=fs.distances.sse if config["use_squared_l2"] else base.distance,
        weight=weight_of(config["weighting_ct_loss"], data),
        times=replace(base.times, fixed_ratio=ratio),
    )


def clamp_r(times: fs.Times, case: Case) -> fs.Times:
    return times._replace(r=times.r.clamp_min(case.settings["min_r"]))


def fastgen_cm_loss(case: Case) -> None:
    y, eps = case["y"], case["eps"]
    for name, config in case.settings["configurations"].items():
        student = denoiser(case, "student")
        teacher = denoiser(case, "teacher") if config["use_cd"] else None
        method, models = base_of(case, config, config["ratio"]), fs.Models(student, teacher=teacher)
        times = clamp_r(method.times.at(case["t"], 0.0), case)
        case.agree("D_yt", student(method.process.mix(y, eps, times.t), times.t))
        case.agree(
            f"{name}_unweighted", replace(method, weight=fs.weights.one).loss(models, y, eps, times)
        )
        loss = method.loss(models, y, eps, times)
        case.agree(f"{name}_loss", loss)
        loss.mean().backward()
        for part in ("a", "b"):
            case.agree(f"{name}_grad_{part}", getattr(student.network, part).grad)


def fastgen_tcm_loss(case: Case) -> None:
    """Rows below t', which are never drawn, count with the first stage's answer, here as there."""
    settings, y, eps = case.settings, case["y"], case["eps"]
    route = Truncated(denoiser(case, "stage1"), denoiser(case, "student"), settings["transition_t"])
    case.agree("route_out", route(case["route_x"], case["route_t"]))
    case.agree("route_student", route.high(case["route_x"], case["route_t"]))
    case.agree("route_teacher", route.low(case["route_x"], case["route_t"]))
    boundary = settings["transition_t"] + 1e-8
    for name, config in settings["configurations"].items():
        frozen, student = denoiser(case, "stage1"), denoiser(case, "student")
        method = fs.methods.tcm(
            base=base_of(case, config, settings["ratio"]),
            t_prime=boundary,
            rho=config["boundary_prob"],
            w_b=config["w_boundary"],
            realised=True,
        )
        at_atom = torch.zeros(len(y), dtype=torch.bool)
        at_atom[case["permutation"][: config["n_boundary"]]] = True
        times = clamp_r(method.times.at(torch.where(at_atom, boundary, case["t"]), 1.0), case)

        def losses(of: fs.Method, times=times, frozen=frozen, student=student) -> Tensor:
            loss = of.loss(fs.Models(student, frozen=frozen), y, eps, times)
            first = of.loss(fs.Models(frozen, frozen=frozen), y, eps, times).detach()
            return torch.where(times.t < of.trained_from, first, loss)

        loss = losses(method)
        apart = loss.detach() / times.w
        case.agree(f"{name}_cm_loss", apart[~at_atom].mean())
        case.agree(f"{name}_loss_boundary", apart[at_atom].mean())
        bare = losses(replace(method, weight=fs.weights.one)).detach() / times.w
        case.agree(f"{name}_unweighted_cm_loss", bare[~at_atom].mean())
        case.agree(f"{name}_total_loss", loss.mean())
        loss.mean().backward()
        for part in ("a", "b"):
            case.agree(f"{name}_grad_{part}", getattr(student.network, part).grad)
            assert getattr(frozen.network, part).grad is None


def fastgen_time(case: Case) -> None:
    settings, schedule = case.settings, case.settings["schedule"]
    law = fs.times.LogNormal(mean=0.0, std=1.0)
    maps = [fs.times.RatioMap(law=law, fixed_ratio=ratio) for ratio in case["ratio"].tolist()]
    case.agree("r", torch.stack([clamp_r(sampler.at(case["t"], 0.0), case).r for sampler in maps]))
    iterations = case["sched_iteration"]
    per_stage = schedule["kimg_per_stage"] * 1000 // schedule["batch_size"]
    stages = int(iterations.max()) // per_stage + 1
    for i, (q, limit) in enumerate(schedule["pairs"]):
        sampler = fs.times.RatioMap(law=law, q=q, ratio_max=limit, stages=stages)
        # Within the iteration, off its edges.
        shares = [(k + 0.5) / (stages * per_stage) for k in iterations.tolist()]
        ratios = torch.tensor([sampler.ratio(share) for share in shares], dtype=torch.float64)
        case.agree_at("sched_ratio", i, ratios)
    for name, numbers in settings["distributions"].items():
        shape = {
            "mean": numbers["mean"],
            "std": numbers["std"],
            "low": numbers["min_t"],
            "high": numbers["max_t"],
        }
        if numbers["time_dist_type"] == "log_t":
            ours = fs.times.LogStudentT(nu=numbers["df"], **shape)
        else:
            ours = fs.times.LogNormal(**shape)
        case.agree(name, ours.quantile(case["probabilities"]))


def fastgen_samplers(case: Case) -> None:
    settings, student = case.settings, denoiser(case)

    def run(times: list[float], step: Callable[..., Tensor], **source: Any) -> Tensor:
        process = Process(EDM.schedule, t_min=EDM.t_min, t_max=times[0], rho=EDM.rho)
        return fs.sampling.sample(
            process, student, process.prior(case["latents"]), times, step, **source
        )

    fresh = {"noise": lambda i: case["noise"][i]}
    case.agree("two_step", run(settings["two_step_t"], solvers.renoise, **fresh))
    case.agree("three_step_ode", run(settings["ode_t"], solvers.ddim))
    case.agree("one_step", run([EDM.t_max, 0.0], solvers.renoise, **fresh))
    case.agree(
        "four_step_default", run(case["default_t_list_4"].tolist(), solvers.renoise, **fresh)
    )


TESTED = {
    "fastgen_cm_loss": fastgen_cm_loss,
    "fastgen_samplers": fastgen_samplers,
    "fastgen_tcm_loss": fastgen_tcm_loss,
    "fastgen_time": fastgen_time,
}
