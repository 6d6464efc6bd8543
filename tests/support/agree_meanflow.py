"""Agreement with FastGen's MeanFlow loss: derivatives, tangents, losses and gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import fewstep as fs
from fewstep.core import derivatives
from fewstep.core.method import dropout
from fewstep.core.process import Time, expand
from tests.support.cases import Case

NAMES = ("a", "b", "c")


class Velocity(nn.Module):
    """u(x, t, r) = tanh(a x / sqrt(1 + t^2) + b ln(t + 0.1) + c ln(r + 0.1)), and x0_hat of it.

    On edm and linear x0_hat is x - t u.
    """

    ends = 1

    def __init__(self, numbers: dict[str, float]) -> None:
        super().__init__()
        for name in NAMES:
            value = torch.tensor(numbers[name], dtype=torch.float64)
            setattr(self, name, nn.Parameter(value))

    def velocity(self, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        shift = self.b * (t + 0.1).log() + self.c * (r + 0.1).log()
        return torch.tanh(self.a * x / expand((1 + t**2).sqrt(), x) + expand(shift, x))

    def forward(self, x: Tensor, t: Tensor, cond: Any, to: Time) -> Tensor:
        return x - expand(t, x) * self.velocity(x, t, torch.as_tensor(to))


def method_of(case: Case, process: str, config: dict[str, Any]) -> fs.Method:
    """The method of one configuration, whose loss is a sum over the numbers of a sample."""
    power, c = float(config["norm_method"].removeprefix("poly_")), config["norm_const"]
    engine = "difference" if config["use_jvp_finite_diff"] else "jvp"
    method = fs.methods.meanflow(p=power, c=c, process=process, derivative=engine)
    if config["loss_type"] == "l2":
        return method
    # The tangent itself is normalised there.
    steps, over_size = config["tangent_warmup_steps"], config["tangent_spatial_invariance"]
    target = replace(
        method.target,
        warmup=1.0 if steps else 0.0,
        c=c,
        norm="rms" if over_size else "sample",
        unit=case["y"][0].numel() ** -0.5 if over_size else 1.0,
    )
    return replace(method, target=target, balance=fs.balances.unbalanced)


def losses(case: Case) -> None:
    """All rows and configurations.

    There a row of the diagonal has a gap of at least min_t, and the network's end r all the same:
    so goals are asked for directly, not routed. Its differences are one-sided in those rows: their
    derivative is left out, and their loss is not.
    """
    for name, config in case.settings["configurations"].items():
        if name.endswith("schedule"):
            continue
        short = name.partition("_")[0]
        least = case.settings["configurations"][f"{short}_schedule"]["min_t"]
        method = method_of(case, {"edm": "edm", "rf": "linear"}[short], config)
        student = Velocity(case.settings["network"])
        models, on = fs.Models(student), method.process
        t, r = case[f"{short}_t"], case[f"{short}_r"]
        steps = config["tangent_warmup_steps"]
        progress = config["iteration"] / steps if steps else 1.0
        a = t - (t - r).clamp(min=least)
        times = fs.Times(t, t, a, torch.ones_like(t), None, progress, to=r)
        x_t, v = method.coupling(models, on, case["y"], case["eps"], times, None)
        run = dropout(student, len(x_t), None, x_t.device)
        with torch.no_grad():
            goal = method.goal(models, x_t, v, times, None, run)
        u, u_goal = (
            method.space(on, x_t, guess, times) for guess in (student(x_t, t, None, r), goal)
        )

        def curve(x: Tensor, t: Tensor, net: Velocity = student, r: Tensor = r) -> Tensor:
            return net.velocity(x, t, r)

        line = curve, x_t, t, v, torch.ones_like(t)
        step = config["jvp_finite_diff_eps"]
        if config["use_jvp_finite_diff"]:
            inside = t - step >= r
            slope = derivatives.difference(*line, step)[1]
            Case(case.about, {f"{name}_jvp": case[f"{name}_jvp"][inside]}).agree(
                f"{name}_jvp", slope[inside]
            )
        else:
            slope = derivatives.jvp(*line)[1]
            case.agree(f"{name}_jvp", slope)
        plain = v - expand(t - a, v) * progress * slope
        if config["loss_type"] == "l2":
            case.agree(f"{name}_tangent", u_goal)
        elif not config["use_jvp_finite_diff"]:
            g = (plain - u) * method.target.unit
            case.agree(f"{name}_tangent", g)
            size = torch.linalg.vector_norm(g.flatten(1), dim=1) + config["norm_const"]
            torch.testing.assert_close(u_goal, u + g / expand(size, g))
        loss = method.balance(method.distance(u, u_goal), times, models)
        case.agree(f"{name}_loss", loss)
        loss.mean().backward()
        for part in NAMES:
            case.agree(f"{name}_grad_{part}", getattr(student, part).grad)


TESTED = {"fastgen_mean_flow_loss": losses}
