"""The processes, their moves, and what a network's output means: identities that hold for every
schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from fewstep.analysis.verify import paper_losses
from fewstep.analysis.verify.check import Check, apart, column, worst
from fewstep.analysis.verify.fixtures import SD, data
from fewstep.core import process as processes
from fewstep.core import scalings
from fewstep.core.noise import Table
from fewstep.core.process import Process

NAMES = ("edm", "cosine", "linear", "trig", "discrete")


def made() -> dict[str, tuple[Process, Tensor]]:
    """Every process with times inside its range."""
    inner = column(0.05, 0.3, 0.5, 0.9)
    return {
        "edm": (processes.edm(), column(0.01, 0.5, 3.0, 70.0)),
        "cosine": (processes.cosine(), inner),
        "linear": (processes.linear(), inner),
        "trig": (processes.trig(sigma_data=SD, level_max=80.0), inner),
        "discrete": (processes.by_name("discrete"), 1000 * inner),
    }


def over_all(error: Callable[[Process, Tensor, Tensor, Tensor], float]) -> Callable[[], float]:
    """The largest error over the processes, of (process, times, x0, z)."""

    def measure() -> float:
        x0, z, _ = data(4)
        return worst(*(error(process, t, x0, z) for process, t in made().values()))

    return measure


def exact(name: str, t: float) -> tuple[float, float]:
    """alpha and sigma by the schedule's own formula, written out."""
    if name == "edm":
        return 1.0, t
    if name == "cosine":
        return paper_losses.cosine(t)
    if name == "linear":
        return 1 - t, t
    if name == "trig":
        return math.cos(t), SD * math.sin(t)
    low, high = math.sqrt(0.00085), math.sqrt(0.012)
    power = math.prod(1 - (low + (high - low) * k / 999) ** 2 for k in range(round(t)))
    return math.sqrt(power), math.sqrt(1 - power)


def coefficients(name: str) -> float:
    """alpha and sigma of a process against `exact`."""
    process, t = made()[name]
    found = torch.stack([process.alpha(t), process.sigma(t)], 1)
    return apart(found, torch.tensor([exact(name, at) for at in t.tolist()], dtype=torch.float64))


def mixed(process: Process, t: Tensor, x0: Tensor, z: Tensor) -> float:
    wanted = [process.alpha(t)[i] * x0[i] + process.sigma(t)[i] * z[i] for i in range(len(t))]
    return apart(process.mix(x0, z, t), torch.stack(wanted))


def aimed(process: Process, t: Tensor, x0: Tensor, z: Tensor) -> float:
    """aim(jump(x0_hat)) = x0_hat, and jump(aim(x_s)) = x_s."""
    x_t, s = process.mix(x0, z, t), 0.7 * t
    back = process.aim(x_t, process.jump(x_t, z, t, s), t, s)
    there = process.jump(x_t, process.aim(x_t, z, t, s), t, s)
    return worst(apart(back, z), apart(there, z))


def jumped(process: Process, t: Tensor, x0: Tensor, z: Tensor) -> float:
    """With the right x0 a jump stays on the sample's own line, by way of any point between."""
    x_t, s, a = process.mix(x0, z, t), 0.7 * t, 0.2 * t
    through = process.jump(process.jump(x_t, x0, t, s), x0, s, a)
    return worst(
        apart(process.jump(x_t, x0, t, a), process.mix(x0, z, a)),
        apart(through, process.mix(x0, z, a)),
    )


def slope(process: Process, t: Tensor, x0: Tensor, z: Tensor) -> float:
    """velocity = d/ds jump(x_t, x0_hat, t -> s) at s = t, and rate = d/dt mix, both by automatic
    differentiation.
    """
    if isinstance(
        process.schedule, Table
    ):  # whose rates are those of the process that its steps discretise
        return 0.0
    x_t, guess = process.mix(x0, z, t), z.tanh()
    jump = torch.func.jvp(lambda s: process.jump(x_t, guess, t, s), (t,), (torch.ones_like(t),))[1]
    mix = torch.func.jvp(lambda s: process.mix(x0, z, s), (t,), (torch.ones_like(t),))[1]
    return worst(apart(process.velocity(x_t, guess, t), jump), apart(process.rate(x0, z, t), mix))


def shifted() -> float:
    """(1 - t) c(t; first) + t c(t; last), c(t; s) the cosine between s - 15 and s + 15, s above it."""
    t, errors = column(0.05, 0.3, 0.5, 0.9), []
    for first, last in ((-1.5, -1.5), (0.0, -2.0)):
        process, wanted = processes.cosine(shift=(first, last)), []
        for at in t.tolist():
            ends = [
                [math.atan(math.exp((s + end) / 2)) for end in (-15, 15)] for s in (first, last)
            ]
            low, high = (
                s - 2 * math.log(math.tan(a + at * (b - a)))
                for s, (a, b) in zip((first, last), ends, strict=True)
            )
            wanted.append((1 - at) * low + at * high)
        found = 2 * (process.alpha(t) / process.sigma(t)).log()
        errors.append(apart(found, torch.tensor(wanted, dtype=torch.float64)))
    return worst(*errors)


def limits(process: Process, t: Tensor, x0: Tensor, z: Tensor) -> float:
    """At 0 the data (cosine keeps 5.5e-4 of noise), at t_max the prior; time_at inverts level."""
    noise = max(process.sigma(0.0).item() - 6e-4, 0.0)
    prior = apart(process.prior(z), process.sigma(process.t_max) * z)
    return worst(
        abs(process.alpha(0.0).item() - 1),
        noise,
        prior,
        apart(process.time_at(process.level(t)), t),
    )


def unit_target(shift: float = 0.0) -> float:
    """in^2 (t^2 + sd^2) = 1, and (x0 - skip x_t) / out has variance 1 where data has sd^2 (shift =
    0).
    """
    t, s = column(0.01, 0.3, 2.0, 80.0), 0.37
    c = scalings.Edm(sigma_data=s)(processes.edm(), t)
    target = ((1 - c.skip) ** 2 * s**2 + c.skip**2 * t**2) / c.out**2
    label = (c.noise - t.log() / 4).abs().max().item()
    return worst(
        apart(c.in_**2 * (t**2 + s**2), torch.ones_like(t)),
        apart(target, torch.ones_like(t)),
        label,
    )


def least_error() -> float:
    """skip is the share that makes out^2 least: sd^2 / (t^2 + sd^2), and out(t) follows."""
    t, s = column(0.01, 0.3, 2.0, 80.0), 0.37
    c = scalings.Edm(sigma_data=s)(processes.edm(), t)
    wanted = torch.stack([s**2 / (t**2 + s**2), t * s / (t**2 + s**2).sqrt()])
    return apart(torch.stack([c.skip, c.out]), wanted)


def boundary() -> float:
    """skip(eps) = 1 and out(eps) = 0 at the consistency model's boundary, sd^2/((t-eps)^2+sd^2)
    above it.
    """
    eps, s = 0.002, SD
    t = column(eps, 0.1, 5.0)
    c = scalings.Edm(sigma_data=s, shift=eps)(processes.edm(t_min=eps), t)
    skip = s**2 / ((t - eps) ** 2 + s**2)
    out = (t - eps) * s / (t**2 + s**2).sqrt()
    return apart(torch.stack([c.skip, c.out]), torch.stack([skip, out]))


def meant() -> float:
    """Whoever predicts z, v, the flow or x0 rightly says x0: x0_hat of those outputs is x0."""
    x0, z, _ = data(4)
    process, t = made()["cosine"]
    alpha, sigma = [x.reshape(-1, 1, 1) for x in (process.alpha(t), process.sigma(t))]
    x_t = alpha * x0 + sigma * z
    pairs = (
        (scalings.Eps(), z),
        (scalings.V(), alpha * z - sigma * x0),
        (scalings.Flow(), process.rate(x0, z, t)),
    )
    said = [apart(scalings.to_x0(kind, process, x_t, raw, t), x0) for kind, raw in pairs]
    back = [apart(scalings.from_x0(kind, process, x_t, x0, t), raw) for kind, raw in pairs]
    return worst(*said, *back)


def checks() -> list[Check]:
    where = "fewstep.process and fewstep.core.noise"
    formulas = {
        "edm": ("alpha = 1, sigma = t", "2206.00364, table 1", ()),
        "cosine": (
            "log-SNR = -2 ln tan u, u even in t",
            "2301.11093, sec. 3.1",
            ("mcm", "direct_cm"),
        ),
        "linear": ("alpha = 1 - t, sigma = t", "2209.03003", ()),
        "trig": ("alpha = cos t, sigma = sd sin t", "2410.11081, sec. 3", ("sct", "scd")),
        "discrete": ("alpha^2 = prod(1 - beta_k)", "2006.11239, eq. 4", ("direct_cm",)),
    }
    found = [
        Check(
            f"process {name}: {text}",
            source,
            partial(coefficients, name),
            1e-9,
            f"alpha or sigma of {name} is not the schedule's formula: see fewstep.core.noise",
            users,
        )
        for name, (text, source, users) in formulas.items()
    ]
    look = f"the shift is not added to the log-SNR between fixed ends: see {where}"
    name = "process cosine: shift s: log-SNR s - 2 ln tan u, same ends"
    found.append(Check(name, "2301.11093, sec. 3.1", shifted, 1e-9, look, ("mcm",)))
    identities = [
        ("process: x_t = alpha x0 + sigma z", mixed, 1e-12, "mix"),
        ("process: aim(jump(x0_hat)) = x0_hat, t -> s", aimed, 1e-9, "aim, the inverse of jump,"),
        ("process: jump t -> s -> a = jump t -> a for one x0", jumped, 1e-10, "jump, DDIM's move,"),
        (
            "process: velocity = d/ds jump, rate = d/dt mix",
            slope,
            1e-9,
            "velocity or rate, the ODE's right side,",
        ),
        (
            "process: x at 0 is the data, level(time_at) = id",
            limits,
            1e-6,
            "an end of the time, or time_at,",
        ),
    ]
    for name, error, tolerance, what in identities:
        look = f"{what} does not do what it says on some process: see {where}"
        found.append(Check(name, "2010.02502, eq. 12", over_all(error), tolerance, look))
    look = "the preconditioning is not what it says: see fewstep.scalings"
    edm = "2206.00364, table 1"
    return [
        *found,
        Check(
            "EDM: c_skip = sd^2/(t^2+sd^2), c_out = t sd/sqrt(..)", edm, least_error, 1e-12, look
        ),
        Check(
            "EDM: Var of network's target = 1, c_in x unit",
            "2206.00364, app. B.6",
            unit_target,
            1e-12,
            look,
        ),
        Check(
            "CM: c_skip(eps) = 1, c_out(eps) = 0",
            "2303.01469, app. C",
            boundary,
            1e-12,
            look,
            ("cd", "ct", "ict", "gc"),
        ),
        Check("outputs z, v, flow -> x0 and back", "2202.00512, sec. 4", meant, 1e-9, look),
    ]
