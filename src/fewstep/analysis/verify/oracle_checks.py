"""The exact optimum of consistency training and distillation on the line against figures that were
computed apart.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import torch

from fewstep.analysis.verify.check import Check, apart, column, worst
from fewstep.analysis.verify.exact_checks import expected, law
from fewstep.analysis.verify.fixtures import SD
from fewstep.core import process as processes
from fewstep.core.times import karras
from fewstep.exact import Mixture, oracle, recursions

N = (10, 20, 40, 80)
# Two modes at +-0.5 of standard deviation 0.05, Karras levels of 0.002 .. 80, by N: three digits
# each.
W2, ERROR, STD = (
    (0.254, 0.195, 0.157, 0.129),
    (0.254, 0.195, 0.157, 0.129),
    (0.321, 0.388, 0.428, 0.454),
)
EULER_W2 = (0.0491, 0.0227)  # smaller ones carry an error of 0.0023


def modes() -> Mixture:
    return Mixture(weights=column(0.5, 0.5), means=column(-0.5, 0.5)[:, None], std=0.05)


@lru_cache(maxsize=8)
def trained(n: int) -> oracle.Oracle:
    """Consistency training at N levels, solved once for all checks."""
    return oracle.trained(modes(), karras(0.002, 80.0, n).flip(0))


def off(found: Callable[[oracle.Oracle], float], told: tuple[float, ...]) -> float:
    """The largest relative difference from the figures."""
    return worst(*(abs(found(trained(n)) / value - 1) for n, value in zip(N, told, strict=True)))


def by_euler() -> float:
    """Distillation by Euler's moves at N = 10 and 20."""
    grids = [karras(0.002, 80.0, n).flip(0) for n in N[:2]]
    found = [oracle.distilled(modes(), grid).w2() for grid in grids]
    return worst(*(abs(a / b - 1) for a, b in zip(found, EULER_W2, strict=True)))


def one_step() -> float:
    """A single step of training is Euler's with the exact denoiser: E[x_r | x_t] = y + (r - t)(y -
    D(y, t)) / t.
    """
    process, (r, t), errors = processes.edm(), (0.1, 0.4), []
    f = oracle.trained(law(process), [r, t])
    for y in (-0.9, -0.1, 0.2, 0.8):
        errors.append(abs(f(column(y)).item() - (y + (r - t) * (y - expected(process, y, t)) / t)))
    return worst(*errors)


def on_a_line() -> float:
    """On one Gaussian both are the closed recursions."""
    one = Mixture(weights=column(1.0), means=torch.zeros(1, 1, dtype=torch.float64), std=SD)
    grid, x, process = karras(0.002, 80.0, 10).flip(0), column(-100.0, 3.0, 60.0), processes.edm()
    pairs = (
        (oracle.trained, recursions.ct(process, grid, SD)),
        (oracle.distilled, recursions.ct(process, grid, SD)),
    )
    return worst(*(apart(f(one, grid)(x), factors[-1] * x) for f, factors in pairs))


def slower() -> float:
    """How far the fall of CT's W2 from N = 320 to 640 is from N^-0.27: E f(x_r) is not f(E x_r)."""
    rate = torch.tensor(trained(320).w2() / trained(640).w2()).log2().item()
    return abs(rate - 0.27)


def checks() -> list[Check]:
    where, ct = (
        "an optimum of the grid is not what quadrature found apart: see fewstep.exact.oracle",
        ("ct", "ict"),
    )
    rows: list[tuple[str, Callable[[], float], float, bool, tuple[str, ...]]] = [
        ("oracle: one step of CT is Euler with the exact D", one_step, 1e-6, True, ct),
        ("oracle on N(0,s^2): the closed recursion", on_a_line, 1e-8, True, ct),
        (
            "oracle: CT's W2 .254 .195 .157 .129, N = 10 .. 80",
            partial(off, oracle.Oracle.w2, W2),
            0.02,
            False,
            ct,
        ),
        (
            "oracle: CT's error to the flow's map, N = 10 .. 80",
            partial(off, oracle.Oracle.error, ERROR),
            0.02,
            False,
            ct,
        ),
        (
            "oracle: CT's std .321 .388 .428 .454, N = 10 .. 80",
            partial(off, lambda one: one.std, STD),
            0.02,
            False,
            ct,
        ),
        ("oracle: CD by Euler, W2 .0491 .0227, N = 10, 20", by_euler, 0.02, False, ("cd",)),
        ("oracle: CT's W2 falls like N^-0.27 at N = 320", slower, 0.02, False, ct),
    ]
    return [
        Check(name, "2303.01469, eq. 10", measure, tolerance, where, users, quick)
        for name, measure, tolerance, quick, users in rows
    ]
