"""Solvers and samplers on Gaussian data, whose ODE has a closed solution; aDDIM by its formula."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fewstep.analysis.verify.check import Check, apart, column, worst
from fewstep.analysis.verify.fixtures import SD, data, small_network
from fewstep.core import couplings, sampling, solvers
from fewstep.core import process as processes
from fewstep.core.denoiser import Denoiser, Models
from fewstep.core.process import Process
from fewstep.core.times import Times
from fewstep.run import averages


def denoiser(process: Process, std: float = SD) -> Denoiser:
    """D(x, t) = alpha s^2 x / (alpha^2 s^2 + sigma^2), written out."""

    def guess(x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64).expand(len(x_t))
        alpha, sigma = process.alpha(t), process.sigma(t)
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        return gain.reshape(-1, *[1] * (x_t.ndim - 1)) * x_t

    return guess


def order(solver: Callable[..., Tensor], kind: str) -> float:
    """The distance of the observed order, log2 of the errors of 64 and 128 steps, from 1 or 2, as
    an error does.
    """
    process = processes.edm() if kind == "edm" else processes.cosine()
    top, low = (3.0, 0.3) if kind == "edm" else (0.8, 0.3)
    x = column(1.0).reshape(1, 1)
    v = [(process.alpha(t) ** 2 * SD**2 + process.sigma(t) ** 2).item() for t in (top, low)]
    errors = []
    for n in (64, 128):
        grid = torch.linspace(top, low, n + 1, dtype=torch.float64).tolist()
        end = sampling.sample(process, denoiser(process), x, grid, solver)
        errors.append(abs(end.item() - math.sqrt(v[1] / v[0])))
    return math.log2(errors[0] / errors[1])


def off_order(solver: str, wanted: int) -> float:
    return worst(
        *(abs(order(getattr(solvers, solver), kind) - wanted) for kind in ("edm", "cosine"))
    )


def addim_moved(var: Tensor) -> tuple[Tensor, Tensor]:
    """x_s of `solvers.addim` on the cosine process, and by the formula sample by sample."""
    process, (x0, z, _) = processes.cosine(), data(4)
    t, s = column(0.9, 0.6, 0.5, 0.3), column(0.7, 0.5, 0.2, 0.29)
    x_t, guess = process.mix(x0, z, t), z.tanh() + x0
    found = solvers.addim(process, lambda x, t, cond=None: guess, x_t, t, s, x_var=var)
    rows = []
    for i in range(4):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (
            (process.alpha(u[i]), process.sigma(u[i])) for u in (t, s)
        )
        eps = (x_t[i] - alpha_t * guess[i]) / sigma_t
        z_var = (alpha_s - alpha_t * sigma_s / sigma_t) ** 2 * var[i]
        rows.append(
            alpha_s * guess[i]
            + (sigma_s**2 + eps.numel() / eps.square().sum() * z_var).sqrt() * eps
        )
    return found, torch.stack(rows)


def addim_letter() -> float:
    return apart(*addim_moved(column(0.3, 0.01, 0.1, 0.02)))


def addim_without() -> float:
    """At x_var = 0 aDDIM is DDIM."""
    process, (x0, z, _) = processes.cosine(), data(4)
    t, s = column(0.9, 0.6, 0.5, 0.3), column(0.7, 0.5, 0.2, 0.29)
    x_t, guess = process.mix(x0, z, t), lambda x, t, cond=None: z.tanh() + x0
    found = solvers.addim(process, guess, x_t, t, s, x_var=0.0)
    return apart(found, solvers.ddim(process, guess, x_t, t, s))


def addim_own() -> float:
    """The coupling's x_var of every sample is 0.75 of its own mean squared error."""
    process, (x0, z, _) = processes.cosine(), data(4)
    x0 = x0 * column(0.1, 1.0, 3.0, 0.5).reshape(-1, 1, 1)  # errors that differ from row to row
    t, s, zero = (
        column(0.9, 0.6, 0.5, 0.3),
        column(0.7, 0.5, 0.2, 0.29),
        torch.zeros(4, dtype=torch.float64),
    )
    teacher = lambda x, t, cond=None: x.tanh()  # noqa: E731
    times = Times(t, s, zero, zero + 1)
    pairs = couplings.Teacher(solvers.addim, 0.75)
    x_t, x_s = pairs(Models(teacher, teacher=teacher), process, x0, z, times, None)
    var = torch.stack([0.75 * (x0[i] - x_t[i].tanh()).square().mean() for i in range(4)])
    wanted = [
        solvers.addim(process, teacher, x_t[i : i + 1], t[i : i + 1], s[i : i + 1], x_var=var[i])
        for i in range(4)
    ]
    return apart(x_s, torch.cat(wanted))


def multistep() -> float:
    """x = T z; x0 = D(x, T); x = x0 + tau z'; x0 = D(x, tau), with a linear D whose gains are
    written out.
    """
    process, (_, z, _) = processes.edm(), data(3)
    noise, tau = z.flip(0), 0.8

    def gain(t: float) -> float:
        return SD / math.sqrt(SD**2 + t**2)

    net = lambda x, t, cond=None: gain(float(t[0])) * x  # noqa: E731
    own = sampling.sampler("multistep")
    grid = own.times(process, 2, (tau,))
    found = sampling.sample(process, net, process.prior(z), grid, own.step, noise=lambda i: noise)
    return apart(found, gain(tau) * (gain(80.0) * 80.0 * z + tau * noise))


def one_step() -> float:
    """With the exact map one-step samples have std s sqrt(T^2 / (s^2 + T^2)) of unit noise."""
    process, (_, z, _) = processes.edm(), data(3)
    net = lambda x, t, cond=None: SD / math.sqrt(SD**2 + float(t[0]) ** 2) * x  # noqa: E731
    own = sampling.sampler("multistep")
    found = sampling.sample(
        process, net, process.prior(z), own.times(process, 1), own.step, noise=lambda i: z
    )
    return apart(found, SD * 80.0 / math.sqrt(SD**2 + 80.0**2) * z)


def segments() -> float:
    """K DDIM moves from segment to segment, each with the network at the segment's end."""
    process, (_, z, _) = processes.cosine(), data(3)
    net = lambda x, t, cond=None: (x * (1 + float(t[0]))).tanh()  # noqa: E731
    own = sampling.segments(4)
    found = sampling.sample(process, net, process.prior(z), own.times(process, 4), own.step)
    x = process.sigma(1.0) * z
    for t, s in ((1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)):
        guess = (x * (1 + t)).tanh()
        x = process.alpha(s) * guess + process.sigma(s) / process.sigma(t) * (
            x - process.alpha(t) * guess
        )
    return apart(found, x)


def averaged() -> float:
    """n moves towards weights that stand still leave beta^n of the difference."""
    model, rate, n = small_network(seed=1), 0.9, 7
    average = averages.average_of(small_network(seed=0))
    first = [p.clone() for p in average.parameters()]
    for _ in range(n):
        averages.update(average, model, rate)
    rows = zip(average.parameters(), first, model.parameters(), strict=True)
    return worst(*(apart(p, m.detach() + rate**n * (f - m.detach())) for p, f, m in rows))


def checks() -> list[Check]:
    users = {
        "euler": ("cd", "ict", "ect", "direct_cm"),
        "ddim": ("mcm", "direct_cm"),
        "heun": ("cd", "diffusion"),
    }
    found = [
        Check(
            f"{text}: error of a PF-ODE falls like n^-{wanted}",
            source,
            partial(off_order, name, wanted),
            0.15,
            f"the solver is not of order {wanted} on Gaussian data: see fewstep.solvers.{name}",
            users[name],
        )
        for name, text, wanted, source in (
            ("euler", "Euler", 1, "2206.00364, sec. 3"),
            ("ddim", "DDIM", 1, "2010.02502, eq. 12"),
            ("heun", "Heun", 2, "2206.00364, alg. 1"),
        )
    ]
    look, mcm = "aDDIM's move is not its formula: see fewstep.solvers.addim", "2403.06807, sec. 4"
    own = "x_var is not each sample's own squared error: see fewstep.couplings.Teacher"
    sampler = "the sampling loop does not do this: see fewstep.sampling and fewstep.solvers.renoise"
    return [
        *found,
        Check(
            "aDDIM: x_s = a_s x0 + sqrt(s_s^2 + d z_var/|e|^2) e",
            mcm,
            addim_letter,
            1e-10,
            look,
            ("mcm",),
        ),
        Check("aDDIM: x_var = 0 is DDIM", mcm, addim_without, 1e-10, look, ("mcm",)),
        Check(
            "aDDIM: x_var = eta |x0 - x0_hat|^2/d, each sample's",
            "2403.06807, alg. 1",
            addim_own,
            1e-10,
            own,
            ("mcm",),
        ),
        Check(
            "sampler: x = T z, x0 = D, x = x0 + tau z', x0 = D",
            "2303.01469, alg. 1",
            multistep,
            1e-10,
            sampler,
        ),
        Check(
            "sampler: one step of the exact map has std s T/sqrt(..)",
            "closed form",
            one_step,
            1e-10,
            sampler,
        ),
        Check(
            "sampler: K DDIM moves from segment to segment",
            "2403.06807, alg. 2",
            segments,
            1e-10,
            sampler,
            ("mcm",),
        ),
        Check(
            "EMA: n moves leave beta^n of the difference",
            "closed form",
            averaged,
            1e-10,
            "see fewstep.run.averages.update",
        ),
    ]
