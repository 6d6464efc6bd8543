"""Processes, their moves, and what a network's output means: identities on all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from fewstep.analysis.verify import paper_losses
from fewstep.analysis.verify.check import Table, apart, column, over, worst
from fewstep.analysis.verify.fixtures import SD, data
from fewstep.core import process as processes
from fewstep.core import scalings
from fewstep.core.noise import Table as Steps
from fewstep.core.process import Process

NOISE = Table("core.noise", 1e-12)
PROCESS = Table("core.process", 1e-12)
SCALING = Table("core.scalings", 1e-12)
ROWS = 32
Identity = Callable[[Process, Tensor, Tensor, Tensor], float]  # of (process, times, x0, z)


def examples() -> dict[str, Process]:
    """One process of every kind, the shifted cosines too."""
    return {
        "edm": processes.edm(),
        "cosine": processes.cosine(),
        "linear": processes.linear(),
        "trig": processes.trig(sigma_data=SD, level_max=80.0),
        "discrete": processes.by_name("discrete"),
        "cosine of other ends, shifted": processes.cosine(logsnr=(-10, 12), shift=(-1.4, -1.4)),
        "cosine of two shifts": processes.cosine(shift=(-1.4, 0.7)),
    }


def times_of(process: Process) -> Tensor:
    """Times over the whole range but its ends, `[ROWS]`."""
    low = max(process.t_min, 0.01 * process.t_max if process.t_min == 0 else 0.0)
    shares = (torch.arange(ROWS, dtype=torch.float64) + 0.5) / ROWS
    return low + shares * (0.98 * process.t_max - low)


def over_all(error: Identity) -> Callable[[], float]:
    """The largest error over the processes."""

    def measure() -> float:
        x0, z, _ = data(ROWS)
        return worst(*(error(process, times_of(process), x0, z) for process in examples().values()))

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
    low = math.sqrt(0.00085)
    high = math.sqrt(0.012)
    power = math.prod(1 - (low + (high - low) * k / 999) ** 2 for k in range(round(t)))
    return math.sqrt(power), math.sqrt(1 - power)


def coefficients(name: str) -> float:
    """alpha and sigma of a process against `exact`."""
    process = examples()[name]
    t = times_of(process)
    if name == "discrete":
        t = t.round()
    ours = torch.stack([process.alpha(t), process.sigma(t)], 1)
    truth = torch.tensor([exact(name, at) for at in t.tolist()], dtype=torch.float64)
    return apart(ours, truth)


FORMULAS = {
    "edm": ("alpha = 1, sigma = t", "2206.00364, table 1", ""),
    "cosine": ("log-SNR = -2 ln tan u, u even in t", "2301.11093, sec. 3.1", "mcm direct_cm"),
    "linear": ("alpha = 1 - t, sigma = t", "2209.03003", ""),
    "trig": ("alpha = cos t, sigma = sd sin t", "2410.11081, sec. 3", "sct scd"),
    "discrete": ("alpha^2 = prod(1 - beta_k)", "2006.11239, eq. 4", "direct_cm"),
}
for _name, (_text, _source, _methods) in FORMULAS.items():
    NOISE(f"process {_name}: {_text}", _source, "", _methods)(partial(coefficients, _name))


@NOISE(
    "process cosine: shift s: log-SNR s - 2 ln tan u, same ends",
    "2301.11093, sec. 3.1",
    "Cosine",
    "mcm",
)
def shift() -> float:
    """(1 - t) c(t; first) + t c(t; last), c(t; s) the cosine between s - 15 and s + 15, plus s."""

    def log_snr(t: float, s: float) -> float:
        low = math.atan(math.exp((s - 15) / 2))
        high = math.atan(math.exp((s + 15) / 2))
        return s - 2 * math.log(math.tan(low + t * (high - low)))

    errors = []
    times = (0.05, 0.3, 0.5, 0.9)
    for first, last in ((-1.5, -1.5), (0.0, -2.0)):
        process = processes.cosine(shift=(first, last))
        ours = -2 * process.level(column(*times)).log()
        truth = [(1 - t) * log_snr(t, first) + t * log_snr(t, last) for t in times]
        errors.append(apart(ours, column(*truth)))
    return worst(*errors)


@NOISE("process discrete: between its steps, and its rates", "2011.13456", "Table", "direct_cm")
def between_steps() -> float:
    """Between two steps alpha^2 is linear; alpha' and sigma' are those of dx/dt = -beta x / 2."""
    process = processes.by_name("discrete")
    t = column(300.25, 700.5)
    below = process.alpha(t.floor()).square()
    above = process.alpha(t.floor() + 1).square()
    share = t - t.floor()
    linear = apart(process.alpha(t).square(), (1 - share) * below + share * above)
    one = torch.ones(2, 1, dtype=torch.float64)
    rates = torch.cat([process.rate(one, 0 * one, t), process.rate(0 * one, one, t)], 1)
    beta = 1 - above / below
    alpha = process.alpha(t)
    truth = torch.stack([-beta * alpha / 2, beta * alpha**2 / (2 * process.sigma(t))], 1)
    return worst(linear, apart(rates / truth, torch.ones_like(rates)))


def on_every_process(name: str) -> Callable[[Identity], Identity]:
    """Adds a check that an identity of (process, times, x0, z) holds on every process."""

    def add(error: Identity) -> Identity:
        PROCESS(name, "2010.02502, eq. 12", "Process")(over_all(error))
        return error

    return add


@on_every_process("process: aim(jump(x0_hat)) = x0_hat, t -> s")
def aim_inverts_jump(process: Process, t: Tensor, x0: Tensor, z: Tensor) -> float:
    """And jump(aim(x_s)) = x_s, for small and large moves, to the data too."""
    x_t = process.mix(x0, z, t)
    s = t * torch.linspace(0.0, 0.98, len(t), dtype=torch.float64).flip(0)
    back = process.aim(x_t, process.jump(x_t, z, t, s), t, s)
    there = process.jump(x_t, process.aim(x_t, z, t, s), t, s)
    return worst(apart(back, z), apart(there, z))


@on_every_process("process: jump t -> s -> a = jump t -> a for one x0")
def jump_by_way_of_s(process: Process, t: Tensor, x0: Tensor, z: Tensor) -> float:
    """With the right x0 a jump stays on the sample's own line, by way of any point between."""
    x_t = process.mix(x0, z, t)
    s = 0.7 * t
    errors = []
    for a in (0.2 * t, 0 * t):
        direct = process.jump(x_t, x0, t, a)
        by_way = process.jump(process.jump(x_t, x0, t, s), x0, s, a)
        truth = process.mix(x0, z, a)
        errors += [apart(direct, truth), apart(by_way, truth)]
    return worst(*errors)


@on_every_process("process: velocity = d/ds jump, rate = d/dt mix")
def rates(process: Process, t: Tensor, x0: Tensor, z: Tensor) -> float:
    """At s = t, both by automatic differentiation."""
    if isinstance(process.schedule, Steps):
        return 0.0  # its rates are those of the process that its steps discretise
    x_t = process.mix(x0, z, t)
    guess = z.tanh()
    one = torch.ones_like(t)
    jump = torch.func.jvp(lambda s: process.jump(x_t, guess, t, s), (t,), (one,))[1]
    mix = torch.func.jvp(lambda s: process.mix(x0, z, s), (t,), (one,))[1]
    return worst(apart(process.velocity(x_t, guess, t), jump), apart(process.rate(x0, z, t), mix))


# The noise level that clipped cosines keep at t = 0, exp(-log-SNR / 2); the others keep none.
LEVEL_AT_0 = {
    "cosine": math.exp(-15 / 2),
    "cosine of other ends, shifted": math.exp(-12 / 2),
    "cosine of two shifts": math.exp(-15 / 2),
}


@PROCESS("process: x at 0 is the data, level(time_at) = id", "definition", "Process")
def ends() -> float:
    """At 0 the data (a cosine keeps a little noise), at t_max the prior; the level rises."""
    _, z, _ = data(4)
    errors = []
    for name, process in examples().items():
        t = times_of(process)
        level = process.level(t)
        errors += [
            abs(process.level(0.0).item() - LEVEL_AT_0.get(name, 0.0)),
            apart(process.prior(z), process.sigma(process.t_max) * z),
            apart(process.time_at(level), t),
            float((level.diff() <= 0).any()),
        ]
    return worst(*errors)


@SCALING("EDM: Var of network's target = 1, c_in x unit", "2206.00364, app. B.6", "Edm")
def unit_variance() -> float:
    """in^2 Var x_t = 1, Var (x0 - skip x_t) / out = 1, label ln(level) / 4, on every process."""
    errors = []
    s = 0.37
    for process in examples().values():
        t = times_of(process)
        c = scalings.Edm(sigma_data=s)(process, t)
        alpha = process.alpha(t)
        sigma = process.sigma(t)
        target = ((1 - c.skip * alpha) ** 2 * s**2 + c.skip**2 * sigma**2) / c.out**2
        errors += [
            apart(c.in_**2 * (alpha**2 * s**2 + sigma**2), torch.ones_like(t)),
            apart(target, torch.ones_like(t)),
            apart(c.noise, process.level(t).log() / 4),
        ]
    return worst(*errors)


@SCALING("CM: c_skip(eps) = 1, c_out(eps) = 0", "2303.01469, app. C", "Edm", "cd ct ict gc")
def boundary() -> float:
    """And sd^2 / ((t - eps)^2 + sd^2), (t - eps) sd / sqrt(sd^2 + t^2) above the boundary."""
    eps = 0.002
    t = column(eps, 0.1, 5.0)
    c = scalings.Edm(sigma_data=SD, shift=eps)(processes.edm(t_min=eps), t)
    skip = SD**2 / ((t - eps) ** 2 + SD**2)
    out = (t - eps) * SD / (t**2 + SD**2).sqrt()
    return apart(torch.stack([c.skip, c.out]), torch.stack([skip, out]))


@SCALING("outputs z, v, flow -> x0 and back", "2202.00512, sec. 4", "")
def predictions() -> float:
    """x0_hat of the right z, v, flow or x0 is x0; every scaling's outputs go to x0 and back."""
    x0, z, _ = data(ROWS)
    errors = []
    for process in examples().values():
        t = times_of(process)
        alpha = over(process.alpha(t), x0)
        sigma = over(process.sigma(t), x0)
        x_t = alpha * x0 + sigma * z
        outputs = (
            (scalings.Eps(), z),
            (scalings.V(), alpha * z - sigma * x0),
            (scalings.Flow(), process.rate(x0, z, t)),
            (scalings.X0(), x0),
        )
        for kind, raw in outputs:
            errors.append(apart(scalings.to_x0(kind, process, x_t, raw, t), x0))
            errors.append(apart(scalings.from_x0(kind, process, x_t, x0, t), raw))
        for own in (scalings.Edm(sigma_data=0.7), scalings.Vp(), scalings.Ve()):
            raw = scalings.from_x0(own, process, x_t, z, t)
            errors.append(apart(scalings.to_x0(own, process, x_t, raw, t), z))
    return worst(*errors)


@SCALING("TrigFlow: cos t x - sd sin t F(x / sd, t)", "2410.11081, sec. 3", "Trig", "sct scd")
def trigflow() -> float:
    """skip = cos t, out = sd sin t up to its sign, in = 1 / sd, and the label is t."""
    t = column(0.05, 0.5, 1.2)
    c = scalings.Trig(sigma_data=SD)(processes.trig(sigma_data=SD), t)
    truth = torch.stack([t.cos(), SD * t.sin(), torch.full_like(t, 1 / SD), t])
    return apart(torch.stack([c.skip, c.out.abs(), c.in_, c.noise]), truth)


CHECKS = [*NOISE.rows, *PROCESS.rows, *SCALING.rows]
