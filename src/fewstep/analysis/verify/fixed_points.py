"""Where methods end on Gaussian data: a linear student, level by level, against closed recursions.

The goals are linear in (x0, z), so a product of two quadratures of three nodes has their least
squares exactly, without sampling error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fewstep import methods
from fewstep.analysis.verify.check import Check, Table, apart, column, over, worst
from fewstep.analysis.verify.fixtures import SD, gaussian
from fewstep.core import process as processes
from fewstep.core import solvers
from fewstep.core.denoiser import Denoiser, Models
from fewstep.core.method import Method, Passes
from fewstep.core.times import Times, karras
from fewstep.exact import recursions

EDM, COSINE = processes.edm(), processes.cosine()
GRID = karras(0.002, 80.0, 10).flip(0)
NODES, MASS = (-(3**0.5), 0.0, 3**0.5), (1 / 6, 2 / 3, 1 / 6)  # Gauss-Hermite, of unit variance
SHARES = (0.25, 0.75)  # the rows' second uniforms: GC at share 1/2 generates one half of the mass
LIMIT = Table("exact.recursions", 1e-4, "the recursion is not its closed form")


class Linear:
    """D(x, t) = g(t) x, with the slopes fitted so far; the nearest level's."""

    def __init__(self, slopes: dict[float, float]) -> None:
        self.slopes = slopes

    def __call__(self, x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
        gains = []
        for at in t.tolist():
            nearest = min(self.slopes, key=lambda level, at=at: abs(level - at))  # type: ignore[misc]
            gains.append(self.slopes[nearest])
        return over(column(*gains), x_t) * x_t


def nodes() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x0, z `[18, 1]`, uniforms `[18, 2]` and the mass of each row."""
    rows = [
        (SD * a, b, u, p * q / 2)
        for a, p in zip(NODES, MASS, strict=True)
        for b, q in zip(NODES, MASS, strict=True)
        for u in SHARES
    ]
    x0, z, u, mass = torch.tensor(rows, dtype=torch.float64).T
    return x0[:, None], z[:, None], torch.stack([u, u], 1), mass


# How a method calls its networks, without dropout.
direct_call = Passes(None, None, torch.device("cpu"))


def fit(method: Method, levels: Times, slopes: dict[float, float], **others: Denoiser) -> Tensor:
    """Least squares of each level's goals on its x_t, from the lowest level up.

    slopes: those of the levels below; the new ones are added.
    """
    student = Linear(slopes)
    models = Models(**{"student": student, "ema": student, **others})  # type: ignore[arg-type]
    x0, z, u, mass = nodes()
    fits = []
    for i in range(len(levels.t)):
        t, r, a, w = (part[i].expand(len(x0)) for part in levels[:4])
        times = Times(t, r, a, w, u)
        x_t, x_r = method.coupling(models, method.process, x0, z, times, None)
        goal = method.goal(models, x_t, x_r, times, None, direct_call)
        slope = ((goal * x_t)[:, 0] * mass).sum() / (x_t.square()[:, 0] * mass).sum()
        slopes[levels.t[i].item()] = slope.item()
        fits.append(slope)
    return torch.stack(fits)


def on_karras(method: Method, factors: Tensor, **others: Denoiser) -> float:
    """The slopes of ten Karras levels against the recursion's factors."""
    levels = method.times.at(torch.arange(10), 1.0)
    return apart(fit(method, levels, {0.002: 1.0}, **others), factors[1:])


def training(method: Callable[..., Method]) -> float:
    """CT and iCT: g_t = g_r (s^2 + r t) / (s^2 + t^2)."""
    factors = [1.0]
    for r, t in pairwise(GRID.tolist()):
        factors.append(factors[-1] * (SD**2 + r * t) / (SD**2 + t**2))
    return on_karras(method(s0=10, s1=10), column(*factors))


def distillation(solver: Any) -> float:
    """CD: g_t = g_r F, F the solver's factor of the exact teacher."""
    factors = recursions.cd(EDM, GRID, SD, solvers.by_name(solver))
    return on_karras(methods.cd(n=11, solver=solver), factors, teacher=gaussian(EDM))


def generated_pairs(share: float, predictor: Any) -> float:
    """GC, of all rows or of half of them; ideal: the exact map s x / sqrt(s^2 + t^2) predicts."""
    method = methods.gc(base=methods.ict(s0=10, s1=10), share=share, bound=1e9)
    factors = recursions.gc(EDM, GRID, SD, share=share, predictor=predictor)

    def ideal(x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
        return x_t * over(SD / (SD**2 + t**2).sqrt(), x_t)

    others: dict[str, Denoiser] = {"ema": ideal} if predictor == "ideal" else {}
    return on_karras(method, factors, **others)


def ladder() -> Tensor:
    """Times whose neighbours have the ratio 0.6: t' = 1 stands at place 12."""
    return torch.tensor([0.6**-i for i in range(-12, 9)], dtype=torch.float64)


def tuning() -> float:
    """ECT at a fixed ratio is CT on its ladder."""
    steps = ladder()
    method = methods.ect(k=0.0)
    times: Any = method.times
    method = replace(method, times=replace(times, fixed_ratio=0.6))
    slopes = fit(method, method.times.at(steps[1:], 0.0), {steps[0].item(): 1.0})
    return apart(slopes, recursions.ct(EDM, steps, SD)[1:])


def truncation() -> float:
    """TCM's second stage from an exact first goes on where that ended, for every w_b."""
    steps = ladder()
    factors = recursions.ct(EDM, steps, SD)
    below = dict(zip(steps[:12].tolist(), factors[:12].tolist(), strict=True))
    errors = []
    for w_b in (0.01, 1.0):
        method = methods.tcm(base=methods.ect(k=0.0), ratio=0.6, w_b=w_b)
        slopes = fit(method, method.times.at(steps[12:], 0.0), {}, frozen=Linear(below))
        errors.append(apart(slopes, factors[12:]))
    return worst(*errors)


def multistep(number: int, pairs: Any) -> float:
    """MCM: within each segment the factors from its times to its start."""
    method = methods.mcm(K=number, steps=12, steps_end=12, pairs=pairs)
    levels = method.times.at(torch.arange(12), 0.0)
    gains = fit(method, levels, {0.0: 1.0}, teacher=gaussian(COSINE))
    one = torch.ones(12, dtype=torch.float64)
    keep = COSINE.jump(one, 0 * one, levels.t, levels.a)
    make = COSINE.jump(0 * one, one, levels.t, levels.a)
    solver = None if pairs == "data" else solvers.ddim
    factors = recursions.mcm(COSINE, number, 12 // number, SD, solver)
    return apart(keep + make * gains, factors[:, 1:].flatten())


def rounds(method: Method, *counts: int) -> float:
    """PD and TRACT: the last student's one step is all DDIM steps of the first teacher.

    counts: the times that each stage is trained at.
    """
    others: dict[str, Denoiser] = {"teacher": gaussian(COSINE)}
    for stage, count in zip(method.chain, counts, strict=True):
        slopes = {0.0: 1.0}
        fit(stage, stage.times.at(torch.arange(count), 0.0), slopes, **others)
        others = {"frozen": Linear(slopes)}
    one = column(1.0)
    end = COSINE.jump(one, slopes[1.0] * one, one, 0 * one)
    factors = recursions.mcm(COSINE, 1, 2 * counts[0] if method.target is None else counts[0], SD)
    return apart(end, factors[0, -1:])


def direct(goal: Any, solver: Any) -> float:
    """Direct CM and the consistency model beside it: the product of the solver's factors."""
    method = methods.direct_cm(n=9, solver=solver, goal=goal)
    levels = method.times.at(torch.arange(8, -1, -1), 0.0)
    slopes = fit(method, levels, {0.0: 1.0}, teacher=gaussian(EDM))
    grid = torch.cat([torch.zeros(1, dtype=torch.float64), levels.t])
    return apart(slopes, recursions.cd(EDM, grid, SD, solvers.by_name(solver))[1:])


def denoising() -> float:
    """Diffusion: g_t = s^2 / (s^2 + t^2)."""
    method = methods.diffusion()
    t = column(0.1, 1.0, 10.0)
    slopes = fit(method, method.times.at(t, 0.0), {0.0: 1.0})
    return apart(slopes, SD**2 / (SD**2 + t**2))


def one_step_std(factors: Callable[[Tensor], Tensor], n: int) -> float:
    """The standard deviation of one-step samples from t = 80, with n Karras steps."""
    return 80 * factors(karras(0.002, 80.0, n).flip(0))[-1].item()


@LIMIT(
    "CT's one-step std .3764 (N = 10) .. .49889 (1280)",
    "closed form",
    "ct",
    "ct ict",
    tolerance=6e-5,
)
def std_of_training() -> float:
    """To the four digits of another computation; Euler's distillation is the same recursion."""
    figures = {10: 0.3764, 20: 0.4338, 40: 0.4657, 160: 0.4912, 640: 0.4978, 1280: 0.49889}
    errors = []
    for n, figure in figures.items():
        errors.append(abs(one_step_std(lambda grid: recursions.ct(EDM, grid, SD), n) - figure))
        grid = karras(0.002, 80.0, n).flip(0)
        ct = recursions.ct(EDM, grid, SD)
        errors.append(apart(recursions.cd(EDM, grid, SD, solvers.euler), ct))
    return worst(*errors)


def std_of_generated_pairs(predictor: Any, at_1280: float, limit: float) -> float:
    """The std over s at N = 1280, and 2 s(2560) - s(1280), its limit to 1/N^2."""

    def ratio(n: int) -> float:
        return one_step_std(lambda g: recursions.gc(EDM, g, SD, predictor=predictor), n) / SD

    coarse = ratio(1280)
    return worst(abs(coarse - at_1280), abs(2 * ratio(2560) - coarse - limit))


@LIMIT("GC of all rows: std -> 1.2488 s (ideal)", "closed form", "gc", "gc")
def limit_of_ideal() -> float:
    return std_of_generated_pairs("ideal", 1.2485, 1.2488)


@LIMIT("GC of all rows: std -> 1.1814 s (own)", "closed form", "gc", "gc")
def limit_of_own() -> float:
    return std_of_generated_pairs("own", 1.1809, 1.1814)


def ends() -> list[Check]:
    """A method and a setting in each row, by the end of its linear student."""
    step = "g_t = g_r (s^2+rt)/(s^2+t^2)"
    pd, tract = methods.pd(steps=4), methods.tract(steps=(12, 3, 1))
    rows: list[tuple[str, str, Callable[[], float], str]] = [
        ("diffusion", "g = s^2/(s^2+t^2)", denoising, "closed form"),
        ("ct", step, partial(training, methods.ct), "2303.01469, eq. 10"),
        ("ict", step, partial(training, methods.ict), "2303.01469, eq. 10"),
        ("ect", step, tuning, "2406.14548, sec. 3"),
        ("pd", "1 of 8 steps", partial(rounds, pd, 4, 2, 1), "2202.00512, alg. 2"),
        ("tract", "1 of 12 steps", partial(rounds, tract, 12, 3), "2303.04248, sec. 3"),
        ("tcm", "stage 2 goes on from t' for any w_b", truncation, "2410.14895, eq. 5"),
    ]
    for solver in ("euler", "heun"):
        measure = partial(distillation, solver)
        rows.append(("cd", f"g_t = g_r F by {solver}", measure, "2303.01469, eq. 6"))
    for share in (0.5, 1.0):
        for predictor in ("ideal", "own"):
            text = f"share {share:g}, predictor {predictor}"
            measure = partial(generated_pairs, share, predictor)
            rows.append(("gc", text, measure, "2406.09570, eq. 13-14"))
    for number in (1, 2, 4):
        for pairs in ("data", "ddim"):
            measure = partial(multistep, number, pairs)
            rows.append(("mcm", f"K = {number}, pairs {pairs}", measure, "2403.06807, alg. 1"))
    for goal in ("solution", "student"):
        for solver, name in (("euler", "Euler"), ("ddim", "DDIM"), ("heun", "Heun")):
            measure = partial(direct, goal, solver)
            rows.append(("direct_cm", f"goal {goal}, F of {name}", measure, "2411.08954"))
    look = "the linear student ends elsewhere: the pairs or the target; see fewstep.methods"
    return [
        Check(f"{name} on N(0,s^2): {text}", source, measure, 1e-9, f"{look}.{name}", (name,))
        for name, text, measure, source in rows
    ]


CHECKS = [*ends(), *LIMIT.rows]
