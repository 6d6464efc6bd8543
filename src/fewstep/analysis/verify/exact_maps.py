"""The exact consistency map of Gaussian data in the student's place: no loss on exact pairs, no
tangent left.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fewstep import methods
from fewstep.analysis.verify.check import Check, apart, column, worst
from fewstep.analysis.verify.fixtures import SD, batch
from fewstep.analysis.verify.linear import nodes
from fewstep.analysis.verify.solver_checks import denoiser
from fewstep.core import couplings
from fewstep.core import process as processes
from fewstep.core.denoiser import Models
from fewstep.core.method import Method
from fewstep.core.process import Process
from fewstep.core.times import Times
from fewstep.exact import Gaussian

EDM = processes.edm()


def exactly(process: Process, x: Tensor, t: Any, s: Any) -> Tensor:
    """The ODE's solution from t to s on N(0, s^2): x sqrt(v_s / v_t)."""
    v = [process.alpha(at).square() * SD**2 + process.sigma(at).square() for at in (t, s)]
    return x * (v[1] / v[0]).sqrt().reshape(-1, *[1] * (x.ndim - 1))


def perfect(name: str, **options: Any) -> float:
    """The loss of the exact map where pairs lie on the exact trajectories."""
    method: Method = getattr(methods, name)(**options)
    pairs = couplings.Teacher(
        lambda process, teacher, x, t, s, cond=None: exactly(process, x, t, s)
    )
    method = replace(method, coupling=pairs)
    x0, z, times = batch(method)

    def student(x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
        start = column(
            *[max((a.item() for a in times.a if a < at - 1e-9), default=0.0) for at in t]
        )
        end = exactly(method.process, x_t, t, start)
        return method.process.aim(x_t, end, t, start)

    models = Models(student, student, student, student)
    return method.loss(models, x0, z, times).abs().max().item()


def still(name: str) -> float:
    """sCM's tangent at the exact map of Gaussian data: 0 along the teacher, of mean 0 against x_t
    along the data.
    """
    std = 0.8  # on data of the process's own sigma_data the map would be the identity
    method: Method = getattr(methods, name)(norm="none", balance="none")
    process = method.process

    def student(x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
        return x_t * (std / ((std * t.cos()) ** 2 + (SD * t.sin()) ** 2).sqrt()).reshape(-1, 1)

    x0, z, _, mass = nodes()
    models = Models(student, student, denoiser(process, std), student)
    errors = []
    for at in (0.3, 1.0, 1.5):
        t = torch.full((len(x0),), at, dtype=torch.float64)
        times = Times(t, t, 0 * t, 0 * t + 1, None, 1.0)
        x_t, v = method.coupling(models, process, x0 * std / SD, z, times, None)
        goal = method.goal(models, x_t, v, times, None, lambda who, x, t, cond: who(x, t, cond))
        off = (goal - student(x_t, t)) / torch.sin(t)[:, None]
        projected = ((off * x_t)[:, 0] * mass).sum().abs() / (x_t.square()[:, 0] * mass).sum()
        errors.append(projected.item() if name == "sct" else apart(off, 0 * off))
    return worst(*errors)


def agrees() -> float:
    """exact.Gaussian's denoiser and ODE against the formulas that are used here."""
    t, s = column(0.1, 1.0, 50.0), column(0.01, 0.2, 3.0)
    law, x = Gaussian(0.0, SD), column(1.0, -2.0, 30.0).reshape(3, 1)
    return worst(
        apart(law(x, t), denoiser(EDM)(x, t)), apart(law.solve(x, t, s), exactly(EDM, x, t, s))
    )


def checks() -> list[Check]:
    closed = "closed form"
    look = "a pair on an exact trajectory and the exact map have a loss: the target, jump or aim of"
    pairs: dict[str, dict[str, Any]] = {
        "cd": {},
        "ect": {"pairs": "heun"},
        "mcm": {"pairs": "ddim", "steps": 16, "steps_end": 16},
        "direct_cm": {"n": 8},
    }
    zero = [
        Check(
            f"{name}: the exact map's loss is 0 on exact pairs",
            closed,
            partial(perfect, name, **options),
            1e-7,
            f"{look} {name}",
            (name,),
        )
        for name, options in pairs.items()
    ]
    tangent = "the tangent of the exact map of N(0, s^2) is not 0: see fewstep.tangents"
    return [
        *zero,
        Check(
            "sct on N(0,s^2): E g x_t = 0 at the exact map",
            "2410.11081, sec. 3",
            partial(still, "sct"),
            1e-9,
            tangent,
            ("sct",),
        ),
        Check(
            "scd on N(0,s^2): g = 0 at the exact map",
            "2410.11081, sec. 3",
            partial(still, "scd"),
            1e-9,
            tangent,
            ("scd",),
        ),
        Check(
            "exact.Gaussian: D and the ODE's solution",
            closed,
            agrees,
            1e-10,
            "see fewstep.exact.gaussian",
        ),
    ]
