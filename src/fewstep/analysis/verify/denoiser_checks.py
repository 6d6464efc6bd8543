"""Denoisers made of others, and the pairs that couplings make with them."""

from __future__ import annotations

import itertools
import math
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from fewstep import methods
from fewstep.analysis.verify.check import Table, apart, column, over, worst
from fewstep.analysis.verify.fixtures import SD, data, shifting
from fewstep.analysis.verify.paper_losses import cosine
from fewstep.analysis.verify.paper_times import direct_grid
from fewstep.core import couplings, denoiser, scalings, solvers
from fewstep.core import process as processes
from fewstep.core.denoiser import Models
from fewstep.core.guidance import guided
from fewstep.core.times import Times

DENOISER = Table("core.denoiser", 1e-12, "a denoiser made of another is not this")
GUIDANCE = Table("core.guidance", 1e-12, "a guided denoiser is not this")
PAIRS = Table("core.couplings", 1e-12, "the pairs are not what the coupling says")


class Shifted(nn.Module):
    """F(x, label) = tanh(x + label)."""

    def forward(self, x: Tensor, noise_label: Tensor, cond: Any = None) -> Tensor:
        return torch.tanh(x + over(noise_label.to(x), x))


def times_at(t: Tensor, r: Tensor, u: Tensor | None = None) -> Times:
    """Times with the anchor 0."""
    return Times(t, r, 0 * t, torch.ones_like(t), u)


@DENOISER("D = c_skip x + c_out F(c_in x, ln(t)/4)", "2206.00364, eq. 7", "Preconditioned")
def preconditioning() -> float:
    """Row by row, on edm."""
    x, _, _ = data(4)
    t = (0.002, 0.5, 3.0, 80.0)
    rows = []
    for i, at in enumerate(t):
        root = math.sqrt(at**2 + SD**2)
        output = torch.tanh(x[i] / root + math.log(at) / 4)
        rows.append(SD**2 / root**2 * x[i] + at * SD / root * output)
    network = denoiser.Preconditioned(Shifted(), scalings.Edm(sigma_data=SD)).double()
    ours = network(x, column(*t))
    return apart(ours, torch.stack(rows)) if ours.dtype == x.dtype else math.inf


@GUIDANCE(
    "guidance: D_c + g (D_c - D_u), x_var unguided",
    "2403.06807, app. A",
    "Guided",
    "mcm direct_cm scd",
)
def guidance() -> float:
    """D_u is at label -1; aDDIM's variance is that of the unguided guess."""
    x0, z, _ = data(4)
    labels = torch.tensor([0, 1, 2, 0])
    t = column(0.9, 0.6, 0.5, 0.3)
    s = column(0.7, 0.5, 0.2, 0.29)
    process = processes.cosine()
    x_t = process.mix(x0, z, t)
    plain = shifting(x_t, t, labels)
    no_label = shifting(x_t, t, torch.full((4,), -1))
    guess = 1.5 * plain - 0.5 * no_label
    pairs = couplings.Teacher(solvers.addim, 0.75, guidance=0.5)
    models = Models(shifting, teacher=shifting)
    _, x_s = pairs(models, process, x0, z, times_at(t, s), labels)
    var = 0.75 * (plain - x0).square().flatten(1).mean(1)
    truth = solvers.addim(process, lambda x_t, t, cond=None: guess, x_t, t, s, x_var=var)
    return worst(apart(guided(shifting, 0.5)(x_t, t, labels), guess), apart(x_s, truth))


@PAIRS("scd: velocity of the guided teacher", "2410.11081, sec. 5", "Velocity", "scd")
def velocity_of_guided() -> float:
    """dx/dt = (cos t x_t - D_g) / sin t on trig, D_g the guided teacher's guess."""
    x0, z, _ = data(4)
    labels = torch.tensor([0, 1, 2, 0])
    t = column(0.3, 0.7, 1.1, 1.4)
    process = processes.trig(sigma_data=SD)
    pairs = couplings.Velocity("teacher", guidance=0.5)
    models = Models(shifting, teacher=shifting)
    x_t, v = pairs(models, process, x0, z, times_at(t, t), labels)
    guess = 1.5 * shifting(x_t, t, labels) - 0.5 * shifting(x_t, t, torch.full((4,), -1))
    return apart(v, (over(t.cos(), x_t) * x_t - guess) / over(t.sin(), x_t))


@DENOISER(
    "f_trunc = frozen where t < t', student from t' on", "2410.14895, eq. 5", "Truncated", "tcm"
)
def truncation() -> float:
    """Whatever the order of the rows."""
    x, _, _ = data(4)
    t = column(0.3, 1.0, 0.999, 40.0)
    both = denoiser.Truncated(lambda x_t, t, cond=None: -x_t, shifting, 1.0)
    truth = torch.where(over(t < 1.0, x), -x, shifting(x, t))
    return apart(both(x, t), truth)


@DENOISER(
    "teacher of another process: D(x/alpha, sigma/alpha)",
    "definition",
    "Across",
    "mcm direct_cm scd",
)
def teacher_of_edm() -> float:
    """A denoiser of edm in cosine's times."""
    x, _, _ = data(4)
    t = (0.1, 0.4, 0.6, 0.9)
    rows = []
    for i, at in enumerate(t):
        alpha, sigma = cosine(at)
        rows.append(shifting(x[i : i + 1] / alpha, column(sigma / alpha)))
    across = denoiser.across(shifting, processes.edm(t_max=1e6), processes.cosine())
    return apart(across(x, column(*t)), torch.cat(rows))


@PAIRS("gc: endpoints are clipped to [-bound, bound]", "definition", "GeneratorInduced", "gc")
def bound() -> float:
    """Endpoints beyond the bound are at it, the others where the model put them; data stays."""
    process = processes.edm()
    x0, z, _ = data(3)
    u = torch.tensor([[0.5, 0.1], [0.5, 0.1], [0.5, 0.9]], dtype=torch.float64)
    times = times_at(column(2.0, 2.0, 2.0), column(1.5, 1.5, 1.5), u)

    def far(x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
        return 4 * x_t

    pairs = couplings.GeneratorInduced(0.5, bound=1.25)
    _, x_r = pairs(Models(far, ema=far), process, x0, z, times, None)
    ends = (4 * (x0 + 1.5 * z)).clamp(-1.25, 1.25)
    return apart(x_r, torch.cat([ends[:2], x0[2:]]) + 1.5 * z)


@PAIRS("gc in tcm: endpoints below t' are the frozen one's", "definition", "truncated", "gc tcm")
def endpoints_below() -> float:
    """GC in TCM's second stage: from t' on endpoints are the average's."""
    x0, z, _ = data(2)
    t = column(1.05, 4.0)
    r = column(0.9, 3.0)
    u = torch.tensor([[0.5, 0.1], [0.5, 0.1]], dtype=torch.float64)
    gc: dict[str, Any] = {"share": 1.0, "bound": 1e6}
    models = Models(
        shifting, ema=lambda x, t, cond=None: 0.3 * x, frozen=lambda x, t, cond=None: -0.2 * x
    )
    noise = over(r, z) * z
    truth = over(column(-0.2, 0.3), z) * (x0 + noise) + noise
    errors = []
    for method in (
        methods.gc(base="tcm", **gc),
        methods.tcm(base={"method": "gc", "base": "ect", **gc}),
    ):
        _, x_r = method.coupling(models, processes.edm(), x0, z, times_at(t, r, u), None)
        errors.append(apart(x_r, truth))
    return worst(*errors)


@PAIRS(
    "direct_cm: shared trajectories have each row's points", "definition", "Trajectory", "direct_cm"
)
def shared_trajectories() -> float:
    """The points of a trajectory are those that the row with its start would reach alone."""
    x0, z, u = data(8)
    method = methods.direct_cm(n=8, reuse=4)
    times = method.times(u, 0.5, torch.arange(8))
    models = Models(shifting, teacher=shifting)
    x_t, x_r = method.coupling(models, method.process, x0, z, times, None)
    errors = []
    for first in (0, 4):
        here = times.t[first : first + 4].max().item()
        x = x0[first : first + 1] + here * z[first : first + 1]
        points = {here: x}
        for there in direct_grid(8):
            if there < here - 1e-9:
                guess = shifting(x, column(here))
                x = guess + there / here * (x - guess)
                here = there
                points[here] = x
        for i in range(first, first + 4):
            nearest = (torch.tensor(list(points)) - times.t[i]).abs().argmin().item()
            point = list(points.values())[int(nearest)]
            errors += [apart(x_t[i], point[0]), apart(x_r[i], x[0])]
    return worst(*errors)


def cheapest_noise() -> float:
    """Of all ways to assign five noises to five samples none is cheaper than minibatch OT's."""
    x0, z, _ = data(5)
    t = torch.ones(5, dtype=torch.float64)
    models = Models(lambda x, t, cond=None: x)
    x_t, x_r = couplings.MinibatchOT()(models, processes.edm(), x0, z, times_at(t, t / 2), None)

    def cost(noise: Tensor) -> float:
        return float((x0 - noise).square().sum())

    least = min(cost(z[list(order)]) for order in itertools.permutations(range(5)))
    return worst(abs(cost(x_t - x0) / least - 1), apart(2 * (x_r - x0), x_t - x0))


if find_spec("scipy"):  # the assignment needs it
    PAIRS(
        "minibatch OT: least sum ||x0_i - z_j||^2",
        "2302.00482, sec. 3.2.4",
        "MinibatchOT",
        "ict ect gc tcm",
    )(cheapest_noise)

CHECKS = [*DENOISER.rows, *GUIDANCE.rows, *PAIRS.rows]
