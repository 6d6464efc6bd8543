"""The papers' losses of the continuous limit r -> t, on TrigFlow x_t = cos t x0 + sd sin t z."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fewstep.analysis.verify.paper_losses import Net, Nets, norm, of_paper
from fewstep.analysis.verify.paper_times import HIGH, SD, Row


def mix(x0: Tensor, z: Tensor, t: float) -> Tensor:
    return math.cos(t) * x0 + SD * math.sin(t) * z


def velocity(net: Net, x: Tensor, t: float) -> Tensor:
    """dx/dt where the network's guess is the data, without gradient."""
    return (math.cos(t) * x - net(x, t)).detach() / math.sin(t)


def tangent(f: Nets, x_t: Tensor, v: Tensor, row: Row) -> Tensor:
    """sCM, algorithm 1: e^-u ||F - sg(F + g)||^2 / D + u, with g / (||g|| + 0.1) for g.

    F = (cos t x_t - D) / (sd sin t); g = -cos^2 t (sd F - v) - w (cos t sin t x_t + sd dF), dF by
    central differences along cos t sin t (v, 1); w rises from 0 to 1 over 2.5 % of the run.
    """
    t = row.t
    cos = math.cos(t)
    sin = math.sin(t)

    def output(x: Tensor, at: float) -> Tensor:
        return (math.cos(at) * x - f.student(x, at)) / (SD * math.sin(at))

    step = 1e-5
    above, below = (output(x_t + h * cos * sin * v, t + h * cos * sin) for h in (step, -step))
    d_output = ((above - below) / (2 * step)).detach()
    warm = min(1.0, row.progress / 0.025)
    g = -(cos**2) * (SD * output(x_t, t).detach() - v) - warm * (cos * sin * x_t + SD * d_output)
    g = g / (norm(g) + 0.1)
    loss = (output(x_t, t) - (output(x_t, t) + g).detach()).square().mean()
    u = f.balance(math.log(t) / 4)
    return loss * torch.exp(-u) + u


@of_paper(
    "sct", "e^-u ||F - sg(F + g/(||g||+c))||^2 / D + u", "2410.11081, alg. 1", progress=(0.01, 0.7)
)
def sct(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """sCT: along the velocity of the data."""
    v = SD * math.cos(row.t) * z - math.sin(row.t) * x0
    return tangent(f, mix(x0, z, row.t), v, row)


@of_paper("scd", "sCT's along the teacher's velocity", "2410.11081, alg. 1", progress=(0.01, 0.7))
def scd(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """sCD: the same along the velocity of the teacher."""
    x_t = mix(x0, z, row.t)
    return tangent(f, x_t, velocity(f.teacher, x_t, row.t), row)


@of_paper(
    "tbcm",
    "sCD's at the teacher's DDIM points from the prior",
    "2511.20410, sec. 3",
    progress=(0.01, 0.7),
    together=True,
    points=4,
)
def tbcm(f: Nets, x0: Tensor, z: Tensor, rows: list[Row]) -> Tensor:
    """TBCM: from sd sin(t_max) z of the first row by DDIM from row to row, with sCD's loss at each.

    t_max = atan(80 / sd). The data x0 is not used.
    """
    now = math.atan(HIGH / SD)
    x = SD * math.sin(now) * z[0]
    losses = []
    for row in rows:
        guess = f.teacher(x, now).detach()
        noise = (x - math.cos(now) * guess) / (SD * math.sin(now))
        now = row.t
        x = mix(guess, noise, now)
        losses.append(tangent(f, x, velocity(f.teacher, x, now), row))
    return torch.stack(losses)
