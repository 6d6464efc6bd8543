"""Exact flow maps as students: every goal is their own answer, exactly or to its stated order.

As in `fixed_points`, a product of two quadratures has the means over Gaussian data exactly.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fewstep import methods
from fewstep.analysis.verify.check import Check, Table, over, worst
from fewstep.analysis.verify.fixed_points import direct_call, nodes
from fewstep.analysis.verify.fixtures import SD, cast, data, gaussian, spread
from fewstep.base.options import names_of
from fewstep.core import abilities, balances, couplings, solvers
from fewstep.core import process as processes
from fewstep.core.denoiser import Models
from fewstep.core.method import Method
from fewstep.core.process import Process
from fewstep.core.times import Times
from fewstep.exact import Mixture

LIMIT = Table("core.tangents", 1e-5, "the tangent is not the limit of the discrete loss")
STD = 0.8  # on data of the process's own sigma_data the map would be trig's identity
PROCESSES = ("linear", "edm", "trig", "cosine")
NAMES = "meanflow imf psd shortcut lsd esd lmd emd ayf tvm"
# Noise levels of t and a; the last is a row of the diagonal.
FAR = ((2.0, 0.3), (0.5, 0.1), (0.3, 0.25), (4.0, 0.02))
POINTS = (*FAR, (1.0, 0.0), (5.0, 1e-3), (0.7, 0.7))


class GaussianMap:
    """D(x, t, to) of N(0, s^2), whose jump is x sqrt(v(to) / v(t)), v the variance of x_t."""

    ends = 1

    def __init__(self, process: Process) -> None:
        self.process = process

    def __call__(self, x_t: Tensor, t: Any, cond: Any = None, to: Any = 0.0) -> Tensor:
        p = self.process
        t, a = (torch.as_tensor(time, dtype=torch.float64).expand(len(x_t)) for time in (t, to))
        keep = p.sigma(a) / p.sigma(t)
        make = p.alpha(a) - keep * p.alpha(t)
        near = make.abs() < 1e-12
        gain = (spread(p, a, STD) / spread(p, t, STD) - keep) / torch.where(near, 1.0, make)
        on_diagonal = p.alpha(t) * STD**2 / spread(p, t, STD) ** 2
        return over(torch.where(near, on_diagonal, gain), x_t) * x_t


def times_at(process: Process, points: Any, near: float, rows: int) -> Times:
    """So many rows for each point, r = t - near (t - a); where t = a those of the diagonal."""
    t, a = torch.tensor(points, dtype=torch.float64).repeat_interleave(rows, 0).T
    t, to = process.time_at(t), torch.where(a > 0, process.time_at(a), a)
    a = torch.where(to < t, to, 0.0)
    r = torch.where(to < t, t - near * (t - a), 0.0)
    return Times(t, r, a, torch.ones_like(t), None, 1.0, to)


def errors(method: Method, models: Models, x0: Tensor, z: Tensor, times: Times) -> Any:
    """x_t, and guess minus goal in the method's space."""
    process = method.process
    x_t, goal = method.lesson(models, x0, z, times, None, direct_call)
    guess = abilities.guess(method.target)
    if guess is None:
        x0_hat = direct_call(models.student, x_t, times.t, None, times.to)
    else:
        x0_hat = guess(process, models, x_t, times, None, direct_call)
    return x_t, method.space(process, x_t, x0_hat, times) - method.space(process, x_t, goal, times)


def left(method: Method, points: Any = POINTS, near: float = 0.0) -> Tensor:
    """|E (guess - goal) x_t| at each of the points, with the exact map in every place."""
    x0, z, _, mass = nodes()
    law = GaussianMap(method.process)
    models = Models(law, law, gaussian(method.process, STD), law)
    times = times_at(method.process, points, near, len(x0))
    parts = (x0 * STD / SD).repeat(len(points), 1), z.repeat(len(points), 1)
    x_t, error = errors(method, models, *parts, times)
    return ((error * x_t)[:, 0].reshape(len(points), -1) * mass).sum(1).abs()


def at_rest(name: str, near: float, **options: Any) -> float:
    """What is left of a method on the processes that it knows."""
    make = names_of(methods)[name]
    if name == "shortcut":
        return left(make(**options), near=near).max().item()
    choices = [make(process=process, **options) for process in PROCESSES]
    return worst(*(left(method, near=near).max().item() for method in choices))


def second_order(make: Callable[[float], Method], nears: bool, size: float) -> float:
    """How far the error at `size` is from four times that at half of it."""
    whole, half = (left(make(h), FAR, h if nears else 0.0) for h in (size, size / 2))
    return (whole / half - 4).abs().max().item()


def rows() -> list[Check]:
    """A method in each row: exact ones, and those whose error is O(step^2) or O((t - r)^2)."""
    exact: dict[str, tuple[float, dict[str, Any]]] = {
        "meanflow": (0.0, {"derivative": "jvp"}),
        "imf": (0.0, {"derivative": "jvp"}),
        "alphaflow": (0.0, {"derivative": "jvp", "bound": 1e9}),
        "psd": (0.3, {}),
        "shortcut": (0.5, {"bound": 1e9}),
        "esd": (0.0, {"derivative": "jvp"}),
        "emd": (0.0, {"derivative": "jvp"}),
        "ayf": (0.0, {"derivative": "jvp"}),
    }
    rows_left: list[tuple[str, str, Callable[[], float], float]] = [
        (name, "the exact map is the goal", partial(at_rest, name, near, **options), 1e-9)
        for name, (near, options) in exact.items()
    ]
    for name in ("lsd", "lmd"):
        rows_left.append((name, "the exact map, to 1e-4", partial(at_rest, name, 0.0), 1e-4))
    for name in ("lsd", "lmd", "tvm"):
        make = partial(lambda name, step: names_of(methods)[name](step=step), name)
        rows_left.append((name, "O(step^2)", partial(second_order, make, False, 4e-3), 0.1))
    for name in ("soflow", "alphaflow"):
        by = partial(lambda name, near: names_of(methods)[name](), name)
        rows_left.append(
            (name, "E goal - D = O((t-r)^2)", partial(second_order, by, True, 1e-3), 0.1)
        )
    look = "a flow map's goal is not where the ODE leads; see fewstep.methods"
    return [
        Check(f"{name} on N(0,s^2): {text}", "closed form", run, limit, f"{look}.{name}", (name,))
        for name, text, run, limit in rows_left
    ]


@LIMIT("meanflow: gradient of the discrete loss over alpha, alpha -> 0", "limit", "Tangent")
def discrete_limit() -> float:
    """grad E ||u - sg(alpha v + (1 - alpha) u_r)||^2 / alpha, of small alphas extrapolated."""
    plain = {"balance": balances.unbalanced, "weight": lambda process, times: 1 + 0 * times.t}
    near = replace(methods.alphaflow(bound=1e9), **plain)  # type: ignore[arg-type]
    limit = replace(methods.meanflow(derivative="jvp"), **plain)  # type: ignore[arg-type]

    def gradient(method: Method, share: float) -> Tensor:
        nets = cast()
        x0, z, _ = data(4)
        times = times_at(method.process, FAR, share, 1)
        method.loss(nets.models(), x0, z, times).sum().backward()
        return nets.gradients() / (share or 1.0)

    fine, coarse = (gradient(near, share) for share in (1e-4, 2e-4))
    truth = gradient(limit, 0.0)
    return ((2 * fine - coarse - truth).norm() / truth.norm()).item()


@LIMIT("exact maps: X_(r->a) o X_(t->r) = X_(t->a), D on the diagonal", "closed form", "")
def semigroup() -> float:
    """By `jump`, on every process."""
    rows_left = []
    for name in PROCESSES:
        process = processes.by_name(name, sigma_data=SD)
        law = GaussianMap(process)
        times = times_at(process, FAR, 0.4, 1)
        x = data(len(FAR))[1]

        def lead(x: Tensor, t: Tensor, a: Tensor, law: GaussianMap = law) -> Tensor:
            return law.process.jump(x, law(x, t, None, a), t, a)

        t, r, a = times[:3]
        rows_left.append((lead(lead(x, t, r), r, a) - lead(x, t, a)).abs().max().item())
        on_diagonal = law(x, t, None, t) - gaussian(process, STD)(x, t)
        rows_left.append(on_diagonal.abs().max().item())
    return worst(*rows_left)


def mixture_errors(method: Method, near: float) -> Tensor:
    """Guess minus goal at three points, with the exact map of two components in every place."""
    means: dict[str, Any] = {"means": [[-0.6, 0.0], [0.5, 0.4]]}
    law: Any = Mixture(weights=[1, 2], std=0.2, process=method.process, **means)
    x0, z, _ = data(3, (2,))
    times = times_at(method.process, FAR[:3], near, 1)
    return errors(method, Models(law, law, law, law), x0, z, times)[1]


@LIMIT("mixture in 2-D: each goal is the exact map's answer", "solution", "", NAMES, tolerance=1e-4)
def on_mixture() -> float:
    """Point by point, with the law's own velocity for the data's, by differences."""
    rows_left = []
    for number, name in enumerate(NAMES.split()):
        make, process = names_of(methods)[name], ("linear", "edm")[number % 2]
        options = {"derivative": "difference", "bound": 1e9, "process": process, "step": 1e-3}
        takes = inspect.signature(make).parameters
        method = make(**{key: value for key, value in options.items() if key in takes})
        if isinstance(method.coupling, couplings.Velocity):
            method = replace(method, coupling=couplings.Velocity("teacher"))
        error = mixture_errors(method, 0.5 if name in ("psd", "shortcut") else 0)
        rows_left.append(error.abs().max().item())
    return worst(*rows_left)


@LIMIT("mixture in 2-D: goal - D = O((t-r)^2)", "solution", "", "soflow alphaflow", tolerance=0.1)
def near_on_mixture() -> float:
    """Point by point, with a straight step along the law's own velocity for the data's."""
    rows_left = []
    for make in (methods.soflow, partial(methods.alphaflow, bound=1e9)):
        method = replace(make(), coupling=couplings.Teacher(solvers.euler))
        whole, half = (mixture_errors(method, near).norm(dim=1) for near in (0.02, 0.01))
        rows_left.append((whole / half - 4).abs().max().item())
    return worst(*rows_left)


CHECKS = [*rows(), *LIMIT.rows]
