"""Denoisers made of others: preconditioned, guided, truncated, of another process; and rows that
share a trajectory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fewstep import methods
from fewstep.analysis.verify.check import Check, apart, column, worst
from fewstep.analysis.verify.fixtures import SD, data
from fewstep.analysis.verify.paper_losses import cosine
from fewstep.analysis.verify.paper_times import direct_grid
from fewstep.core import couplings, denoiser, scalings, solvers
from fewstep.core import process as processes
from fewstep.core.denoiser import Models
from fewstep.core.times import Levels, Shared, Times


def net(x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
    """Any function of x, t and the label, -1 for none."""
    label = torch.zeros(len(x_t)) if cond is None else cond
    shift = (
        torch.as_tensor(t, dtype=torch.float64).expand(len(x_t)).log1p() + 0.3 * label
    ).reshape(-1, 1, 1)
    return (0.8 * x_t + shift).tanh()


def guided() -> float:
    """D_c + g (D_c - D_u), D_u at label -1; and aDDIM's variance is that of the unguided guess."""
    x0, z, _ = data(4)
    labels, t, s = (
        torch.tensor([0, 1, 2, 0]),
        column(0.9, 0.6, 0.5, 0.3),
        column(0.7, 0.5, 0.2, 0.29),
    )
    process = processes.cosine()
    x_t, g = process.mix(x0, z, t), 0.5
    plain, free = net(x_t, t, labels), net(x_t, t, torch.full((4,), -1))
    wanted = 1.5 * plain - 0.5 * free
    times = Times(t, s, 0 * t, 0 * t + 1)
    pairs = couplings.Teacher(solvers.addim, 0.75, guidance=g)
    _, x_s = pairs(Models(net, teacher=net), process, x0, z, times, labels)
    var = 0.75 * (plain - x0).square().flatten(1).mean(1)
    moved = solvers.addim(process, lambda x_t, t, cond=None: wanted, x_t, t, s, x_var=var)
    return worst(apart(denoiser.guided(net, g)(x_t, t, labels), wanted), apart(x_s, moved))


def truncated() -> float:
    """Rows below t' by the lower network, those at t' and above by the upper one, whatever their
    order.
    """
    x, _, _ = data(4)
    t = column(0.3, 1.0, 0.999, 40.0)
    both = denoiser.Truncated(lambda x_t, t, cond=None: -x_t, net, 1.0)
    wanted = torch.where((t < 1.0).reshape(-1, 1, 1), -x, net(x, t))
    return apart(both(x, t), wanted)


def across() -> float:
    """A denoiser of edm in cosine's times: D(x / alpha, sigma / alpha)."""
    x, _, _ = data(4)
    t = column(0.1, 0.4, 0.6, 0.9)
    rows = [cosine(at) for at in t.tolist()]
    found = denoiser.across(net, processes.edm(t_max=1e6), processes.cosine())(x, t)
    wanted = [
        net(x[i : i + 1] / alpha, column(sigma / alpha)) for i, (alpha, sigma) in enumerate(rows)
    ]
    return apart(found, torch.cat(wanted))


class Noted(nn.Module):
    """F(x, label) = tanh(x + label)."""

    def forward(self, x: Tensor, noise_label: Tensor, cond: Any = None) -> Tensor:
        return torch.tanh(x + noise_label.to(x).reshape(-1, 1, 1))


def preconditioned() -> float:
    """c_skip x + c_out F(c_in x, ln(t) / 4), row by row, on edm."""
    x, _, _ = data(4)
    t, rows = (0.002, 0.5, 3.0, 80.0), []
    for i, at in enumerate(t):
        root = math.sqrt(at**2 + SD**2)
        rows.append(
            SD**2 / root**2 * x[i] + at * SD / root * torch.tanh(x[i] / root + math.log(at) / 4)
        )
    found = denoiser.Preconditioned(Noted(), scalings.Edm(sigma_data=SD)).double()(x, column(*t))
    return apart(found, torch.stack(rows)) if found.dtype == x.dtype else math.inf


def reused() -> float:
    """Rows that share a trajectory see its points: those that each row's own start would reach
    alone.
    """
    x0, z, u = data(8)
    method = methods.direct_cm(n=8, reuse=4)
    times = method.times(u, 0.5, torch.arange(8))
    models = Models(net, teacher=net)
    x_t, x_r = method.coupling(models, method.process, x0, z, times, None)
    levels, errors = direct_grid(8), []
    for i in range(8):
        run = slice(i // 4 * 4, i // 4 * 4 + 4)
        here = times.t[run].max().item()
        x = x0[run][:1] + here * z[run][:1]
        points = {here: x}
        for there in (level for level in levels if level < here - 1e-9):
            x = net(x, column(here)) + there / here * (x - net(x, column(here)))
            here = there
            points[here] = x
        for time, found in ((times.t[i].item(), x_t[i]), (0.0, x_r[i])):
            errors.append(apart(found, points[min(points, key=lambda at: abs(at - time))][0]))
    return worst(*errors)


def reweighed() -> float:
    """Over every start, mean(w loss) of rows that share trajectories is that of uniform levels, for
    any loss of t.
    """
    levels, size = Levels(grid=tuple(direct_grid(7))), 3
    starts = (torch.arange(7, dtype=torch.float64) + 0.5) / 7
    u = starts.repeat_interleave(size)[:, None].expand(-1, 2)
    times = Shared(levels=levels, size=size)(u, 0.0)
    wanted = sum(math.sqrt(t) for t in direct_grid(7)[:-1]) / 7
    return abs((times.w * times.t.sqrt()).mean().item() - wanted) / wanted


def checks() -> list[Check]:
    direct, with_teacher = ("direct_cm",), ("mcm", "direct_cm", "scd")
    rows: list[tuple[str, str, Callable[[], float], str, tuple[str, ...]]] = [
        (
            "D = c_skip x + c_out F(c_in x, ln(t)/4)",
            "2206.00364, eq. 7",
            preconditioned,
            "Preconditioned",
            (),
        ),
        (
            "guidance: D_c + g (D_c - D_u), x_var unguided",
            "2403.06807, app. A",
            guided,
            "Guided",
            with_teacher,
        ),
        (
            "f_trunc = frozen where t < t', student from t' on",
            "2410.14895, eq. 5",
            truncated,
            "Truncated",
            ("tcm",),
        ),
        (
            "teacher of another process: D(x/alpha, sigma/alpha)",
            "definition",
            across,
            "Across",
            with_teacher,
        ),
    ]
    look = "a denoiser made of another is not this: see fewstep.denoiser."
    shared = (
        "rows that share a trajectory: see fewstep.couplings.Trajectory and fewstep.times.Shared"
    )
    return [
        *(
            Check(name, source, measure, 1e-6, look + where, users)
            for name, source, measure, where, users in rows
        ),
        Check(
            "direct_cm: shared trajectories have each row's points",
            "definition",
            reused,
            1e-9,
            shared,
            direct,
        ),
        Check(
            "direct_cm: w of shared rows makes levels uniform",
            "definition",
            reweighed,
            1e-9,
            shared,
            direct,
        ),
    ]
