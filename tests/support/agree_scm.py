"""Agreement with FastGen's continuous-time loss: network, derivatives, losses and gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import fewstep as fs
from fewstep.core import derivatives
from fewstep.core.denoiser import Preconditioned
from fewstep.core.scalings import Edm
from fewstep.core.tangents import Drift
from tests.support.cases import Case
from tests.support.toys import Analytic


def method_of(case: Case, config: dict[str, Any]) -> fs.Method:
    """The method of one configuration: the reference's mean square, times 1/level and 1/D."""
    sigma_data, size = case.settings["sigma_data"], case["y"][0].numel()
    function = fs.methods.scd if config["use_cd"] else fs.methods.sct
    method = function(
        warmup=1.0,
        c=config["tangent_warmup_const"],
        norm="rms" if config["g_norm_spatial_invariance"] else "sample",
        derivative="difference" if config["use_jvp_finite_diff"] else "jvp",
        sigma_data=sigma_data,
    )

    def weight(process: fs.process.Process, times: fs.Times) -> Tensor:
        if config["prior_weighting_enabled"]:
            return 1 / process.level(times.t)
        return torch.ones_like(times.t)

    def balance(loss_b: Tensor, t: Tensor, models: fs.Models) -> Tensor:
        u = case["logvar"][:, 0]
        return loss_b * (-u).exp() / (size if config["divide_x_0_spatial_dim"] else 1) + u

    target = replace(method.target, step=config["jvp_finite_diff_eps"])
    return replace(method, target=target, weight=weight, balance=balance)


def losses(case: Case) -> None:
    settings = case.settings
    sigma_data = settings["sigma_data"]
    on = fs.process.trig(sigma_data=sigma_data)

    def network(who: str) -> Preconditioned:
        inner = Analytic(settings[who]["a"], settings[who]["b"], torch.float64)
        return Preconditioned(inner, Edm(sigma_data=sigma_data), on)

    case.agree("trig_F", Drift(network("student"), on)(case["trig_x"], case["trig_t"]) / sigma_data)
    t = on.time_at(case["sigma"])
    case.agree("x0_pred", network("student")(on.mix(case["y"], case["eps"], t), t))
    for name, config in settings["configurations"].items():
        method, student = method_of(case, config), network("student")
        progress = min(1.0, config["iteration"] / config["tangent_warmup_steps"])
        times = method.times.at(t, progress)
        models = fs.Models(student, teacher=network("teacher"), balance=torch.nn.Identity())
        x_t, v = method.coupling(models, method.process, case["y"], case["eps"], times, None)
        both = t.cos() * t.sin()
        line = (Drift(student, on), x_t, t, fs.process.expand(both, x_t) * v, both)
        step = config["jvp_finite_diff_eps"]
        engine = (
            derivatives.difference(*line, step)
            if config["use_jvp_finite_diff"]
            else derivatives.jvp(*line)
        )
        case.agree(f"{name}_jvp", engine[1] / sigma_data)
        plain = replace(method, weight=fs.weights.one, balance=fs.balances.unbalanced)
        case.agree(f"{name}_unweighted", plain.loss(models, case["y"], case["eps"], times))
        loss = method.loss(models, case["y"], case["eps"], times)
        case.agree(f"{name}_loss", loss)
        loss.mean().backward()
        for part in ("a", "b"):
            case.agree(f"{name}_grad_{part}", getattr(student.network, part).grad)


TESTED = {"fastgen_scm_loss": losses}
