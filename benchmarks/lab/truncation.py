"""TCM's second stage against more of its first, from the same weights, at equal updates, ratio and learning rate.

The second stage also looks at other times than the first. So one arm goes on with the first stage under a law that
is half its own and half the second stage's: what that gains comes from the times and not from the truncation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import fewstep as fs
from fewstep.times import Law
from lab.arms import Arm

STAGES = 5
ECT: dict[str, Any] = {"p_mean": -0.4, "p_std": 1.8, "stages": STAGES}
HELD: dict[str, Any] = {**ECT, "q": 2.0**STAGES, "stages": 1}  # the ratio that the first stage ends with
FIRST, SECOND = 1500, 1000
NETS = {"width 48": {"width": 48, "depth": 2}, "width 256": {"width": 256, "depth": 3}}


@dataclass(frozen=True)
class Half:
    """Half of the draws from one law, half from another."""

    one: Law
    other: Law

    def quantile(self, u: Tensor) -> Tensor:
        return torch.where(u < 0.5, self.one.quantile(2 * u), self.other.quantile((2 * u - 1).clamp(0, 1)))


def both_laws(*, sigma_data: float = 0.5) -> fs.Method:
    """The first stage, held at its last ratio, under half its law and half that of the second."""
    method = fs.methods.ect(**HELD, sigma_data=sigma_data)
    law = Half(method.times.law, fs.times.LogStudentT())  # type: ignore[attr-defined]
    return replace(method, times=replace(method.times, law=law))  # type: ignore[type-var]


def arms_of(net: dict[str, int]) -> dict[str, Arm]:
    first = Arm(method="ect", options=ECT, fields={"network_options": net, "iterations": FIRST})
    more = {"network_options": net, "iterations": SECOND, "lr": 1e-3, "age": FIRST}
    tcm = {"base": {"method": "ect", **ECT}}
    return {
        "stage 1": first,
        "stage 1 goes on": Arm(method="ect", options=HELD, fields=more, init=first),
        "stage 1 goes on, both laws": Arm(method="ect", own=both_laws, fields=more, init=first),
        "stage 2, w_b 0.1": Arm(method="tcm", options=tcm, fields=more, init=first),
        "stage 2, w_b 1": Arm(method="tcm", options={**tcm, "w_b": 1.0}, fields=more, init=first),
    }


ARMS = {f"{name}: {arm}": made for name, net in NETS.items() for arm, made in arms_of(net).items()}
