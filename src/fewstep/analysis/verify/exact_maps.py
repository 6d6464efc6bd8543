"""The exact map of Gaussian data as the student: no tangent is left."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fewstep import methods
from fewstep.analysis.verify.check import Table, apart, column, over, worst
from fewstep.analysis.verify.fixed_points import direct_call, nodes
from fewstep.analysis.verify.fixtures import SD, gaussian, spread
from fewstep.core import process as processes
from fewstep.core.denoiser import Models
from fewstep.core.method import Method
from fewstep.core.times import Times
from fewstep.exact import Gaussian

TANGENT = Table("core.tangents", 1e-9, "the tangent of the exact map of N(0, s^2) is not 0")
LAW = Table("exact", 1e-10)


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
    end = x * over(spread(process, s) / spread(process, t), x)
    return worst(apart(law(x, t), gaussian(process)(x, t)), apart(law.solve(x, t, s), end))


CHECKS = [*TANGENT.rows, *LAW.rows]
