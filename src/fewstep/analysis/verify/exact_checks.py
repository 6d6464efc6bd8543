"""The exact laws, and the exact ends of training on them, by formulas of another origin."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from fewstep.analysis.verify.check import Table, apart, column, worst
from fewstep.analysis.verify.fixtures import SD
from fewstep.core import process as processes
from fewstep.core import solvers
from fewstep.core.process import Process
from fewstep.core.times import karras
from fewstep.exact import Gaussian, Mixture, oracle, recursions, transport

LAW = Table("exact", 1e-9, "the exact law contradicts its own formula")
COST = Table("exact.transport", 1e-10, "the transport cost contradicts its own formula")
OPTIMUM = Table("exact.oracle", 0.02, "an optimum of the grid is not what another quadrature gives")
WEIGHTS, MEANS, STDS = (0.3, 0.7), (-0.6, 0.4), (0.1, 0.05)
EDM = processes.edm()


def examples() -> tuple[Process, ...]:
    return EDM, processes.cosine(), processes.linear(), processes.trig(sigma_data=SD)


def law(process: Process) -> Mixture:
    """Two modes on the line."""
    means = torch.tensor(MEANS, dtype=torch.float64)[:, None]
    return Mixture(weights=column(*WEIGHTS), means=means, std=column(*STDS), process=process)


def modes(process: Process, t: float) -> list[tuple[float, float, float, float]]:
    """Weight, mean, standard deviation of x_t's two modes, and their gain alpha s^2 / v^2."""
    alpha = process.alpha(t).item()
    sigma = process.sigma(t).item()
    rows = []
    for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True):
        v = math.hypot(alpha * s, sigma)
        rows.append((w, alpha * m, v, alpha * s**2 / v**2))
    return rows


def posterior_mean(process: Process, x: float, t: float) -> float:
    """E[x0 | x_t = x] by Bayes' rule."""
    total = 0.0
    mass = 0.0
    for (w, m, v, gain), mean in zip(modes(process, t), MEANS, strict=True):
        p = w / v * math.exp(-(((x - m) / v) ** 2) / 2)
        mass += p
        total += p * (mean + gain * (x - m))
    return total / mass


@LAW("exact.Mixture: E[x0 | x_t] by Bayes' rule", "closed form", "mixture", tolerance=1e-10)
def bayes() -> float:
    errors = []
    xs = (-0.9, -0.1, 0.2, 0.8)
    for process in examples():
        for t in (0.1, 0.5, 0.9):
            truth = column(*(posterior_mean(process, x, t) for x in xs))
            errors.append(apart(law(process)(column(*xs)[:, None], t)[:, 0], truth))
    return worst(*errors)


def below(process: Process, x: float, t: float) -> float:
    """P(x_t <= x)."""
    return sum(w * math.erfc(-(x - m) / (v * math.sqrt(2))) / 2 for w, m, v, _ in modes(process, t))


def monotone(process: Process, x: float, t: float, s: float) -> float:
    """The flow on the line keeps the order, so it is F_s^-1(F_t(x)); by halving."""
    level = below(process, x, t)
    low = -20.0
    high = 20.0
    for _ in range(80):
        middle = (low + high) / 2
        if below(process, middle, s) < level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


@LAW("exact.Mixture: ODE = F_s^-1(F_t(x)) on the line", "closed form", "truth", tolerance=1e-7)
def solution() -> float:
    """From well inside the noise to nearly the data."""
    errors = []
    xs = (-1.2, -0.3, 0.1, 0.9)
    for process, t, s in ((EDM, 3.0, 0.05), (processes.cosine(), 0.9, 0.1)):
        truth = column(*(monotone(process, x, t, s) for x in xs))
        errors.append(apart(law(process).solve(column(*xs)[:, None], t, s)[:, 0], truth))
    return worst(*errors)


GC = "2406.09570, sec. 4"


@COST("GC: c(t) = m^2 + s^2 + 1 - 2st/sqrt(s^2+t^2)", GC, "gaussian", "gc")
def gaussian_cost() -> float:
    """Down to (s - 1)^2 + m^2; .542893 and .279857 at t = .5 and 2."""
    levels = column(0.0, 0.5, 2.0, 80.0)
    ours = transport.gaussian(EDM, levels, SD)
    truth = SD**2 + 1 - 2 * SD * levels / (SD**2 + levels**2).sqrt()
    off_digits = (ours[1:3] - column(0.542893, 0.279857)).abs().max().item()
    off_optimum = abs(transport.optimal(Gaussian(0.0, SD)) - (SD - 1) ** 2)
    return worst(apart(ours, truth), off_digits - 5e-7, off_optimum)


@COST("GC: the cost of its pairs falls with the level", GC, "curve", "gc", tolerance=0.0)
def costs_fall() -> float:
    """By how much the exact generator's costs rise anywhere with the level, on two modes."""
    curve = transport.curve(law(EDM), (0.01, 0.1, 0.5, 2.0, 20.0), n=256, batch=None)
    return curve.costs.diff().clamp_min(0).max().item() + float(curve.costs[-1] >= curve.costs[0])


# The optimum of training and distillation at N levels. The figures are of another quadrature: two
# modes at +-0.5 of standard deviation 0.05, Karras levels of 0.002 .. 80, three digits each.

N = (10, 20, 40, 80)
CT = "2303.01469, eq. 10"


def grid(n: int) -> Tensor:
    return karras(0.002, 80.0, n).flip(0)


def two_modes() -> Mixture:
    return Mixture(weights=column(0.5, 0.5), means=column(-0.5, 0.5)[:, None], std=0.05)


@lru_cache(maxsize=8)
def optimum(n: int) -> oracle.Oracle:
    """Consistency training at N levels, solved once for all checks.

    300 nodes and 4 points move an error by under a thousandth.
    """
    return oracle.trained(two_modes(), grid(n), nodes=300, points=4)


def off(ours: list[float], figures: tuple[float, ...]) -> float:
    """The largest relative difference from the figures."""
    return worst(*(abs(a / b - 1) for a, b in zip(ours, figures, strict=True)))


@OPTIMUM("oracle: one step of CT is Euler with the exact D", CT, "", "ct ict", tolerance=1e-6)
def one_step() -> float:
    """E[x_r | x_t] = y + (r - t)(y - D(y, t)) / t."""
    r, t = 0.1, 0.4
    f = oracle.trained(law(EDM), [r, t])
    errors = []
    for y in (-0.9, -0.1, 0.2, 0.8):
        truth = y + (r - t) * (y - posterior_mean(EDM, y, t)) / t
        errors.append(abs(f(column(y)).item() - truth))
    return worst(*errors)


@OPTIMUM("oracle on N(0,s^2): the closed recursion", CT, "", "ct ict", tolerance=1e-8)
def on_a_gaussian() -> float:
    """f(x) = m + g (x - m) for training and distillation, far outside the table too."""
    x = column(-500.0, -100.0, 3.0, 60.0)
    errors = []
    for mean in (0.0, 0.4):
        one = Gaussian(column(mean), SD)
        ends = [(oracle.trained(one, grid(10)), recursions.ct(EDM, grid(10), SD))]
        for solver in (solvers.euler, solvers.heun, solvers.ddim):
            gains = recursions.cd(EDM, grid(10), SD, solver)
            ends.append((oracle.distilled(one, grid(10), solver), gains))
        for end, gains in ends:
            errors.append(apart(end(x), mean + gains[-1] * (x - mean)))
            errors.append(abs(end.std / (80 * gains[-1].item()) - 1))
    return worst(*errors)


@OPTIMUM("oracle: CT's W2 .254 .195 .157 .129, N = 10 .. 80", CT, "", "ct ict", quick=False)
def w2_of_training() -> float:
    """The error to the flow's map is as large: on the line both maps are monotone."""
    ours = [f() for n in N for f in (optimum(n).w2, optimum(n).error)]
    return off(ours, (0.254, 0.254, 0.195, 0.195, 0.157, 0.157, 0.129, 0.129))


@OPTIMUM("oracle: CT's std .321 .388 .428 .454, N = 10 .. 80", CT, "", "ct ict", quick=False)
def std_of_training() -> float:
    return off([optimum(n).std for n in N], (0.321, 0.388, 0.428, 0.454))


@OPTIMUM("oracle: CD by Euler, W2 .0491 .0227, N = 10, 20", CT, "", "cd", quick=False)
def w2_of_euler() -> float:
    """And .0394 by Heun at N = 10. Smaller figures carry an error of 0.0023."""
    ours = [oracle.distilled(two_modes(), grid(n)).w2() for n in (10, 20)]
    ours.append(oracle.distilled(two_modes(), grid(10), solvers.heun).w2())
    return off(ours, (0.0491, 0.0227, 0.0394))


@OPTIMUM("oracle: CT's W2 falls like N^-0.28 at N = 80", CT, "", "ct ict", quick=False)
def slope_of_training() -> float:
    """From N = 80 to 160: E f(x_r) is not f(E x_r), and training blurs the modes' boundary."""
    return abs(math.log2(optimum(80).w2() / optimum(160).w2()) - 0.28)


CHECKS = [*LAW.rows, *COST.rows, *OPTIMUM.rows]
