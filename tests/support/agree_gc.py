"""Agreement with the training step of GC's code: points, losses and gradients of every mixture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

import fewstep as fs
from fewstep.core.denoiser import Preconditioned
from fewstep.core.process import expand
from fewstep.core.scalings import Edm
from tests.support.cases import Case
from tests.support.toys import Analytic


def denoiser(case: Case, who: str) -> Preconditioned:
    numbers, settings = case.settings[who], case.settings
    network = Analytic(numbers["a"], numbers["b"], torch.float64)
    return Preconditioned(
        network, Edm(sigma_data=settings["sigma_data"], shift=settings["sigma_min"])
    )


def method_of(settings: dict[str, Any], mode: dict[str, Any]) -> fs.Method:
    """Its mixing value is the share of rows that keep their data, ours that of generated rows.

    Its l2 is a sum.
    """
    base = fs.methods.ict(
        s0=settings["s0"],
        s1=settings["s1"],
        t_min=settings["sigma_min"],
        t_max=settings["sigma_max"],
        sigma_data=settings["sigma_data"],
    )
    distance = {"huber": base.distance, "l2": fs.distances.sse}[mode["loss_type"]]
    base = replace(base, distance=distance, times=replace(base.times, rho=settings["rho"]))
    if not mode["generator_induced_traj"]:
        return base
    last = mode["mix_gen_induced_traj_end"]
    return fs.methods.gc(
        base=base,
        share=1 - mode["mix_gen_induced_traj"],
        share_end=None if last is None else 1 - last,
        predictor="ema" if mode["generator_induced_traj_ema"] else "student",
        bound=float("inf"),
    )


def gc_training_loss(case: Case) -> None:
    settings, x0, z = case.settings, case["data"], case["z"]
    progress = settings["i_train"] / settings["n_train_steps"]
    # It generates above its value.
    u = torch.stack([torch.zeros_like(case["uniform"]), 1 - case["uniform"]], 1)
    for name, mode in settings["modes"].items():
        method = method_of(settings, mode)
        online, ema = denoiser(case, "online"), denoiser(case, "ema")
        models = fs.Models(online, ema=ema)
        assert method.times.steps(progress) + 1 == settings["grid_points"]
        times = method.times.at(case["steps"], progress)._replace(u=u)
        case.agree("sigma_high", times.t)
        case.agree("sigma_low", times.r)
        case.agree("weights", method.weight(method.process, times))
        x_t, x_r = method.coupling(models, method.process, x0, z, times, None)
        case.agree(f"{name}_x_high", x_t)
        case.agree(f"{name}_x_low", x_r)
        if mode["mixing_value"] is not None:
            data = x_r - expand(times.r, z) * z
            by_model = ~torch.isclose(data, x0, rtol=0, atol=1e-9).flatten(1).all(1)
            # At sigma_min D(x_r, r) = x_r.
            by_model |= case[f"{name}_gc_mask"] & (times.r == settings["sigma_min"])
            assert torch.equal(by_model, case[f"{name}_gc_mask"])
        loss = method.loss(models, x0, z, times)
        case.agree(f"{name}_loss_per_sample", loss / case["weights"])
        case.agree(f"{name}_loss", loss.mean())
        loss.mean().backward()
        for part in ("a", "b"):
            case.agree(f"{name}_grad_{part}", getattr(online.network, part).grad)
            assert getattr(ema.network, part).grad is None


TESTED = {"gc_training_loss": gc_training_loss}
