"""Where methods end on Gaussian data: a linear student fitted level by level against the closed
recursions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from fewstep import methods
from fewstep.analysis.verify.check import Check, apart, column, worst
from fewstep.analysis.verify.fixtures import SD
from fewstep.analysis.verify.linear import Linear, fitted
from fewstep.analysis.verify.solver_checks import denoiser
from fewstep.core import process as processes
from fewstep.core import solvers
from fewstep.core.denoiser import Denoiser
from fewstep.core.method import Method
from fewstep.core.times import karras
from fewstep.exact import recursions

EDM, COSINE = processes.edm(), processes.cosine()
GRID = karras(0.002, 80.0, 10).flip(0)


def ideal(x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
    """The exact map to the data of N(0, s^2): s x / sqrt(s^2 + t^2)."""
    return x_t * (SD / (SD**2 + t**2).sqrt()).reshape(-1, *[1] * (x_t.ndim - 1))


def ends(method: Callable[[], Method], wanted: Callable[[], Tensor], **others: Denoiser) -> float:
    """The factors of ten Karras levels."""
    made = method()
    levels = made.times.at(torch.arange(10), 1.0)
    return apart(fitted(made, levels, {0.002: 1.0}, **others), wanted()[1:])


def training(name: str) -> float:
    """CT and iCT: g_t = g_r (s^2 + r t) / (s^2 + t^2)."""

    def wanted() -> Tensor:
        factors = [1.0]
        for r, t in zip(GRID.tolist(), GRID.tolist()[1:], strict=False):
            factors.append(factors[-1] * (SD**2 + r * t) / (SD**2 + t**2))
        return column(*factors)

    return ends(lambda: getattr(methods, name)(s0=10, s1=10), wanted)


def distillation(solver: str) -> float:
    """CD: g_t = g_r F, F the solver's factor of the exact teacher."""
    move = solvers.by_name(solver)
    return ends(
        lambda: methods.cd(n=11, solver=solver),  # type: ignore[arg-type]
        lambda: recursions.cd(EDM, GRID, SD, move),
        teacher=denoiser(EDM),
    )


def generated(share: float, predictor: str) -> float:
    """GC: both predictors, of all rows or of half of them."""
    others: dict[str, Denoiser] = {"ema": ideal} if predictor == "ideal" else {}

    def method() -> Method:
        return methods.gc(base=methods.ict(s0=10, s1=10), share=share, bound=1e9)

    def wanted() -> Tensor:
        return recursions.gc(EDM, GRID, SD, share=share, predictor=predictor)  # type: ignore[arg-type]

    return ends(method, wanted, **others)


def ladder() -> Tensor:
    """Times whose neighbours have the ratio 0.6: t' = 1 stands at place 12."""
    return torch.tensor([0.6**-i for i in range(-12, 9)], dtype=torch.float64)


def tuned() -> float:
    """ECT at a fixed ratio is CT on its ladder."""
    steps = ladder()
    method = methods.ect(k=0.0)
    times: Any = method.times
    method = replace(method, times=replace(times, fixed_ratio=0.6))
    whole = recursions.ct(EDM, steps, SD)
    found = fitted(method, method.times.at(steps[1:], 0.0), {steps[0].item(): 1.0})
    return apart(found, whole[1:])


def truncated() -> float:
    """TCM's second stage from an exact first goes on where that ended, for every weight of the
    boundary.
    """
    steps, whole = ladder(), recursions.ct(EDM, ladder(), SD)
    below = {t.item(): gain.item() for t, gain in zip(steps[:12], whole[:12], strict=True)}
    errors = []
    for w_b in (0.01, 1.0):
        method = methods.tcm(base=methods.ect(k=0.0), ratio=0.6, w_b=w_b)
        found = fitted(method, method.times.at(steps[12:], 0.0), {}, frozen=Linear(below))
        errors.append(apart(found, whole[12:]))
    return worst(*errors)


def multistep(number: int, pairs: str) -> float:
    """MCM: within each segment the factors from its times to its start."""
    method = methods.mcm(K=number, steps=12, steps_end=12, pairs=pairs)  # type: ignore[arg-type]
    levels, one = method.times.at(torch.arange(12), 0.0), torch.ones(12, dtype=torch.float64)
    gains = fitted(method, levels, {0.0: 1.0}, teacher=denoiser(COSINE))
    keep, make = (
        COSINE.jump(one, 0 * one, levels.t, levels.a),
        COSINE.jump(0 * one, one, levels.t, levels.a),
    )
    solver = None if pairs == "data" else solvers.ddim
    return apart(
        keep + make * gains,
        recursions.mcm(COSINE, number, 12 // number, SD, solver)[:, 1:].flatten(),
    )


def direct(goal: str) -> float:
    """Direct CM and the consistency model beside it: the product of the solver's factors."""
    method = methods.direct_cm(n=9, solver="heun", goal=goal)  # type: ignore[arg-type]
    levels = method.times.at(torch.arange(8, -1, -1), 0.0)
    found = fitted(method, levels, {0.0: 1.0}, teacher=denoiser(EDM))
    grid = torch.cat([torch.zeros(1, dtype=torch.float64), levels.t])
    return apart(found, recursions.cd(EDM, grid, SD, solvers.heun)[1:])


def denoising() -> float:
    """Diffusion: g_t = s^2 / (s^2 + t^2)."""
    method = methods.diffusion()
    t = column(0.1, 1.0, 10.0)
    return apart(fitted(method, method.times.at(t, 0.0), {0.0: 1.0}), SD**2 / (SD**2 + t**2))


def sizes() -> float:
    """One-step standard deviations of CT from t = 80, N = 10 .. 1280, to the four digits that were
    computed apart.
    """
    told = {10: 0.3764, 20: 0.4338, 40: 0.4657, 160: 0.4912, 640: 0.4978, 1280: 0.49889}
    spread = [80 * recursions.ct(EDM, karras(0.002, 80.0, n).flip(0), 0.5)[-1].item() for n in told]
    return worst(*(abs(a - b) for a, b in zip(spread, told.values(), strict=True)))


def limit(predictor: str, told: float) -> float:
    """GC of all rows: 2 s(2560) - s(1280), the limit of its std over s to 1/N^2."""

    def ratio(n: int) -> float:
        grid = karras(0.002, 80.0, n).flip(0)
        return 80 * recursions.gc(EDM, grid, SD, predictor=predictor)[-1].item() / SD  # type: ignore[arg-type]

    return abs(2 * ratio(2560) - ratio(1280) - told)


def checks() -> list[Check]:
    pairs = "2403.06807, alg. 1"
    rows: list[tuple[str, str, Callable[[], float], str]] = [
        ("diffusion", "g = s^2/(s^2+t^2)", denoising, "closed form"),
        ("ct", "g_t = g_r (s^2+rt)/(s^2+t^2)", partial(training, "ct"), "2303.01469, eq. 10"),
        ("ict", "g_t = g_r (s^2+rt)/(s^2+t^2)", partial(training, "ict"), "2303.01469, eq. 10"),
        ("ect", "g_t = g_r (s^2+rt)/(s^2+t^2)", tuned, "2406.14548, sec. 3"),
        ("tcm", "stage 2 goes on from t' for any w_b", truncated, "2410.14895, eq. 5"),
    ]
    for name in ("euler", "heun"):
        rows.append(
            ("cd", f"g_t = g_r F by {name}", partial(distillation, name), "2303.01469, eq. 6")
        )
    for share, who in product((0.5, 1.0), ("ideal", "own")):
        told = f"share {share:g}, predictor {who}"
        rows.append(("gc", told, partial(generated, share, who), "2406.09570, eq. 13-14"))
    for number, source in product((1, 2, 4), ("data", "ddim")):
        rows.append(
            ("mcm", f"K = {number}, pairs {source}", partial(multistep, number, source), pairs)
        )
    for goal in ("solution", "student"):
        rows.append(("direct_cm", f"goal {goal}, F of Heun", partial(direct, goal), "2411.08954"))
    look = (
        "a linear student ends elsewhere than its closed recursion on N(0, s^2): the pairs or the"
        " target of"
    )
    found = [
        Check(f"{name} on N(0,s^2): {told}", source, measure, 1e-9, f"{look} {name}", (name,))
        for name, told, measure, source in rows
    ]
    where, closed = "see fewstep.exact.recursions", "closed form"
    std = "CT's one-step std .3764 (N = 10) .. .49889 (1280)"
    return [
        *found,
        Check(std, closed, sizes, 6e-5, where, ("ct", "ict")),
        Check(
            "GC of all rows: std -> 1.2488 s (ideal)",
            closed,
            partial(limit, "ideal", 1.2488),
            1e-4,
            where,
            ("gc",),
        ),
        Check(
            "GC of all rows: std -> 1.1814 s (own)",
            closed,
            partial(limit, "own", 1.1814),
            1e-4,
            where,
            ("gc",),
        ),
    ]
