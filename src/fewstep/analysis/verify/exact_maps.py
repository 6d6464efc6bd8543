"""The exact map of Gaussian data as the student: no loss on exact pairs, no tangent left."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fewstep import methods
from fewstep.analysis.verify.builtin import build
from fewstep.analysis.verify.check import Table, apart, column, over, worst
from fewstep.analysis.verify.fixed_points import direct_call, nodes
from fewstep.analysis.verify.fixtures import SD, batch, gaussian, spread
from fewstep.core import couplings
from fewstep.core import process as processes
from fewstep.core.denoiser import Denoiser, Models
from fewstep.core.method import Method
from fewstep.core.process import Process
from fewstep.core.times import Times
from fewstep.exact import Gaussian

PAIRS = Table("methods", 1e-7, "a pair on an exact trajectory and the exact map have a loss")
TANGENT = Table("core.tangents", 1e-9, "the tangent of the exact map of N(0, s^2) is not 0")
LAW = Table("exact", 1e-10)


def exact_move(
    process: Process, teacher: Denoiser, x: Tensor, t: Any, s: Any, cond: Any = None
) -> Tensor:
    """The ODE's solution from t to s on N(0, s^2): x sqrt(v_s / v_t)."""
    return x * over(spread(process, s) / spread(process, t), x)


def loss_of_exact(name: str, options: dict[str, Any]) -> float:
    """The loss of the exact map where pairs lie on the exact trajectories."""
    method = replace(build(name, options), coupling=couplings.Teacher(exact_move))
    x0, z, times = batch(method)
    process = method.process

    def student(x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
        anchors = []
        for at in t:
            below = [a.item() for a in times.a if a < at - 1e-9]
            anchors.append(max(below, default=0.0))
        start = column(*anchors)
        end = exact_move(process, student, x_t, t, start)
        return process.aim(x_t, end, t, start)

    models = Models(student, student, student, student)
    return method.loss(models, x0, z, times).abs().max().item()


EXACT_PAIRS: dict[str, dict[str, Any]] = {
    "cd": {},
    "ect": {"pairs": "heun"},
    "mcm": {"pairs": "ddim", "steps": 16, "steps_end": 16},
    "pd": {"steps": 8, "last": 4},
    "tract": {"steps": (64, 16, 4)},
    "direct_cm": {"n": 8},
}
for _name, _options in EXACT_PAIRS.items():
    PAIRS(f"{_name}: the exact map's loss is 0 on exact pairs", "closed form", _name, _name)(
        partial(loss_of_exact, _name, _options)
    )


def tangents(method: Method, std: float = 0.8) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(the tangent at the exact map, x_t, the rows' mass) at three times.

    On data of the process's own sigma_data the map would be the identity, hence another std.
    """
    process = method.process

    def student(x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
        return x_t * over(std / ((std * t.cos()) ** 2 + (SD * t.sin()) ** 2).sqrt(), x_t)

    x0, z, _, mass = nodes()
    models = Models(student, student, gaussian(process, std), student)
    rows = []
    for at in (0.3, 1.0, 1.5):
        t = torch.full((len(x0),), at, dtype=torch.float64)
        times = Times(t, t, 0 * t, 0 * t + 1, None, 1.0)
        x_t, v = method.coupling(models, process, x0 * std / SD, z, times, None)
        goal = method.goal(models, x_t, v, times, None, direct_call)
        rows.append(((goal - student(x_t, t)) / over(t.sin(), x_t), x_t, mass))
    return rows


@TANGENT("sct on N(0,s^2): E g x_t = 0 at the exact map", "2410.11081, sec. 3", "", "sct")
def rest_on_data() -> float:
    """Along the data, the tangent has mean 0 against x_t."""
    errors = []
    for g, x_t, mass in tangents(methods.sct(norm="none", balance="none")):
        projection = ((g * x_t)[:, 0] * mass).sum() / (x_t.square()[:, 0] * mass).sum()
        errors.append(abs(projection.item()))
    return worst(*errors)


@TANGENT("scd on N(0,s^2): g = 0 at the exact map", "2410.11081, sec. 3", "", "scd")
def rest_on_teacher() -> float:
    """Along the teacher, with its norm and without."""
    errors = []
    for norm in ("none", "sample"):
        method = methods.scd(norm=norm, balance="none")
        errors += [apart(g, 0 * g) for g, _, _ in tangents(method)]
    return worst(*errors)


@LAW("exact.Gaussian: D and the ODE's solution", "closed form", "gaussian")
def exact_gaussian() -> float:
    """Against the formulas that are used here."""
    process = processes.edm()
    t = column(0.1, 1.0, 50.0)
    s = column(0.01, 0.2, 3.0)
    law = Gaussian(0.0, SD)
    x = column(1.0, -2.0, 30.0)[:, None]
    denoise = gaussian(process)
    return worst(
        apart(law(x, t), denoise(x, t)),
        apart(law.solve(x, t, s), exact_move(process, denoise, x, t, s)),
    )


CHECKS = [*PAIRS.rows, *TANGENT.rows, *LAW.rows]
