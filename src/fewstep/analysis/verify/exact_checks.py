"""The exact laws themselves: denoisers, ODE solutions and transport costs by formulas of their own."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fewstep.analysis.verify.check import Check, apart, column, worst
from fewstep.analysis.verify.fixtures import SD, data
from fewstep.core import process as processes
from fewstep.core.process import Process
from fewstep.exact import Gaussian, Mixture, transport

WEIGHTS, MEANS, STDS = (0.3, 0.7), (-0.6, 0.4), (0.1, 0.05)
PROCESSES: tuple[Callable[[], Process], ...] = (processes.edm, processes.cosine, processes.linear)


def law(process: Process) -> Mixture:
    """Two modes on the line."""
    means = torch.tensor(MEANS, dtype=torch.float64)[:, None]
    return Mixture(weights=column(*WEIGHTS), means=means, std=column(*STDS), process=process)


def parts(process: Process, t: float) -> list[tuple[float, float, float, float]]:
    """Weight, mean and standard deviation of x_t's two modes, and each mode's share of x0 by x_t:
    alpha s^2 / v.
    """
    alpha, sigma = process.alpha(t).item(), process.sigma(t).item()
    spreads = [math.hypot(alpha * s, sigma) for s in STDS]
    gains = [alpha * s**2 / v**2 for s, v in zip(STDS, spreads, strict=True)]
    return [(w, alpha * m, v, g) for w, m, v, g in zip(WEIGHTS, MEANS, spreads, gains, strict=True)]


def expected(process: Process, x: float, t: float) -> float:
    """E[x0 | x_t = x] by Bayes' rule."""
    found = [
        (w / v * math.exp(-(((x - m) / v) ** 2) / 2), m, g) for w, m, v, g in parts(process, t)
    ]
    whole = sum(mass for mass, _, _ in found)
    return (
        sum(p * (mean + g * (x - m)) for (p, m, g), mean in zip(found, MEANS, strict=True)) / whole
    )


def bayes() -> float:
    """Mixture's denoiser on three processes."""
    errors, xs = [], (-0.9, -0.1, 0.2, 0.8)
    for make in PROCESSES:
        process = make()
        for t in (0.1, 0.5, 0.9):
            found = law(process)(column(*xs)[:, None], t)[:, 0]
            errors.append(apart(found, column(*(expected(process, x, t) for x in xs))))
    return worst(*errors)


def below(process: Process, x: float, t: float) -> float:
    """P(x_t <= x)."""
    return sum(w * math.erfc(-(x - m) / (v * math.sqrt(2))) / 2 for w, m, v, _ in parts(process, t))


def monotone(process: Process, x: float, t: float, s: float) -> float:
    """The flow on the line keeps the order, so it is F_s^-1(F_t(x)); by halving."""
    level, low, high = below(process, x, t), -20.0, 20.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if below(process, middle, s) < level else (low, middle)
    return (low + high) / 2


def solved() -> float:
    """Mixture.solve against the monotone map, from well inside the noise to nearly the data."""
    errors, xs = [], (-1.2, -0.3, 0.1, 0.9)
    for make, t, s in ((processes.edm, 3.0, 0.05), (processes.cosine, 0.9, 0.1)):
        process = make()
        found = law(process).solve(column(*xs)[:, None], t, s)[:, 0]
        errors.append(apart(found, column(*(monotone(process, x, t, s) for x in xs))))
    return worst(*errors)


def tweedie() -> float:
    """alpha D = x + sigma^2 d/dx log p_t, and its derivative: alpha^2 Var[x0 | x_t] = sigma^2
    d(alpha D)/dx.
    """
    errors = []
    for make in PROCESSES:
        process = make()
        truth, t = law(process), column(0.3, 0.5, 0.7, 0.9)
        alpha, sigma = process.alpha(t), process.sigma(t)
        x = column(-0.9, -0.1, 0.2, 0.8)[:, None].requires_grad_()
        (score,) = torch.autograd.grad(truth.log_density(x, t).sum(), x)
        guess = truth(x, t)
        (rise,) = torch.autograd.grad(guess.sum(), x)
        errors.append(apart(alpha * guess[:, 0], (x[:, 0] + sigma**2 * score[:, 0]).detach()))
        variance = truth.posterior_variance(x.detach(), t)
        errors.append(apart(alpha * variance, sigma**2 * rise[:, 0]))
    return worst(*errors)


def gaussian_cost() -> float:
    """c(t) = m^2 + s^2 + 1 - 2 s t / sqrt(s^2 + t^2), down to (s - 1)^2 + m^2; .5429 and .2799 at t
    = .5 and 2.
    """
    process, levels = processes.edm(), column(0.0, 0.5, 2.0, 80.0)
    found = transport.gaussian(process, levels, SD)
    wanted = SD**2 + 1 - 2 * SD * levels / (SD**2 + levels**2).sqrt()
    told = (found[1:3] - column(0.5429, 0.2799)).abs().max().item() - 5e-5  # they have four digits
    return worst(
        apart(found, wanted), told, abs(transport.optimal(Gaussian(0.0, SD)) - (SD - 1) ** 2)
    )


def falling() -> float:
    """By how much the exact generator's costs rise anywhere with the level, on two modes: they must
    fall.
    """
    found = transport.curve(
        law(processes.edm()), (0.01, 0.1, 0.5, 2.0, 20.0), n=256, batch=None
    ).costs
    return found.diff().clamp_min(0).max().item() + float(found[-1] >= found[0])


def mixes() -> float:
    """How many standard errors sample() is from the law's mean and variance; no row depends on how
    many there are.
    """
    truth = law(processes.edm())
    x = truth.sample(20_000, seed=3).double()
    mean = sum(w * m for w, m in zip(WEIGHTS, MEANS, strict=True))
    variance = (
        sum(w * (s**2 + m**2) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True)) - mean**2
    )
    off = abs(x.mean().item() - mean) / math.sqrt(variance / len(x))
    spread = abs(x.var().item() / variance - 1) / math.sqrt(2 / len(x))
    return worst(off, spread) + 10 * float(
        not torch.equal(truth.sample(8, seed=3), truth.sample(20_000, seed=3)[:8])
    )


def straight(x: Tensor) -> float:
    """A cost by its definition, mean over the elements of (x0 - z)^2."""
    return sum(float(v) ** 2 for v in x.flatten()) / x.numel()


def costs() -> float:
    x0, z, _ = data(4)
    return apart(
        transport.cost(x0, z), column(*(straight(a - b) for a, b in zip(x0, z, strict=True)))
    )


def checks() -> list[Check]:
    gc = ("gc",)
    rows: list[tuple[str, Callable[[], float], float, str, tuple[str, ...]]] = [
        ("exact.Mixture: E[x0 | x_t] by Bayes' rule", bayes, 1e-10, "exact.mixture", ()),
        ("exact.Mixture: ODE = F_s^-1(F_t(x)) on the line", solved, 1e-7, "exact.truth", ()),
        ("alpha D = x + sigma^2 score, Var = sigma^2 D'/alpha", tweedie, 1e-9, "exact.truth", ()),
        ("exact.Mixture: samples have its mean and variance", mixes, 4.0, "exact.truth", ()),
        ("transport cost: mean square of x0 - z", costs, 1e-12, "exact.transport", gc),
        (
            "GC: c(t) = m^2 + s^2 + 1 - 2st/sqrt(s^2+t^2)",
            gaussian_cost,
            1e-10,
            "exact.transport",
            gc,
        ),
        ("GC: the cost of its pairs falls with the level", falling, 0.0, "exact.transport", gc),
    ]
    look = "the exact law contradicts its own formula: see fewstep."
    return [
        Check(
            name,
            "2406.09570, sec. 4" if users else "closed form",
            measure,
            tolerance,
            look + where,
            users,
        )
        for name, measure, tolerance, where, users in rows
    ]
