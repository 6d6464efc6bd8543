"""Parts that methods have on request: other distances, spaces, samplers and laws, guided
velocities, stages.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fewstep import methods
from fewstep.analysis.verify.check import Check, apart, column, worst
from fewstep.analysis.verify.denoiser_checks import net
from fewstep.analysis.verify.fixtures import SD, data
from fewstep.analysis.verify.paper_losses import cosine
from fewstep.analysis.verify.part_checks import distance, weighed
from fewstep.core import couplings, distances, sampling, scalings, solvers, spaces, weights
from fewstep.core import process as processes
from fewstep.core.denoiser import Models
from fewstep.core.times import Times, curricula
from fewstep.run import averages, stages


def l1() -> float:
    return distance(distances.l1, lambda e, d: e.abs().sum() / d)


def truncated_snr() -> float:
    return weighed(
        weights.truncated_snr,
        lambda t, r, alpha, sigma: torch.maximum((alpha / sigma) ** 2, 0 * t + 1),
    )


def anchor_space() -> float:
    """alpha_a x0_hat + sigma_a / sigma_t (x_t - alpha_t x0_hat)."""
    x0, x_t, _ = data(3)
    t, a, rows = (0.9, 0.5, 0.4), (0.6, 0.2, 0.1), []
    for i in range(3):
        (alpha_t, sigma_t), (alpha_a, sigma_a) = cosine(t[i]), cosine(a[i])
        rows.append(alpha_a * x0[i] + sigma_a / sigma_t * (x_t[i] - alpha_t * x0[i]))
    times = Times(column(*t), column(*t), column(*a), column(1, 1, 1))
    return apart(spaces.end(processes.cosine(), x_t, x0, times), torch.stack(rows))


def multiscale() -> float:
    """The squared error of a picture and its 2x2 averages is the mean of their mean squared errors."""
    x, y, _ = data(2, (2, 4, 4))
    half = column(0.5, 0.5)
    times = Times(half, half, half, half)
    seen = [spaces.Multiscale(1)(processes.cosine(), x, part, times) for part in (x, y)]
    small = [part.reshape(2, 2, 2, 2, 2, 2).mean((3, 5)) for part in (x, y)]
    wanted = sum((a - b).square().flatten(1).mean(1) for a, b in ((x, y), small)) / 2
    return apart(distances.mse(*seen), torch.as_tensor(wanted))


def ramp() -> float:
    return worst(*(abs(curricula.Ramp(0.9, 0.3)(p) - (0.9 - 0.6 * p)) for p in (0.0, 0.25, 1.0)))


def realised() -> float:
    """Over the rows that a batch has: mean(w loss) = their mean over t > t' plus w_b times their
    mean at t'.
    """
    u = torch.linspace(0.01, 0.99, 7, dtype=torch.float64)[:, None].expand(-1, 2)
    times = methods.tcm(rho=0.25, w_b=0.1, realised=True).times(u, 0.5, torch.arange(7))
    at, loss = times.t == 1.0, 1 + times.t.sqrt()
    return abs((times.w * loss).mean().item() - (loss[~at].mean() + 0.1 * loss[at].mean()).item())


def cap() -> float:
    """Late in a run r / t is the cap and no more."""
    found = methods.ect(stages=40, ratio_max=0.999).times.at(column(1e3), 1.0)
    return abs((found.r / found.t).item() - 0.999)


def churn() -> float:
    """t_hat = t + gamma t, x_hat = x + sqrt(t_hat^2 - t^2) S_noise eps, then the solver from t_hat."""
    x, eps, _ = data(2)
    step = solvers.Churn(steps=10, s_churn=2.0, s_noise=1.1, solver=solvers.euler)
    found = step(processes.edm(), net, x, 3.0, 1.0, noise=lambda: eps)
    high = 3.0 * 1.2
    raised = x + math.sqrt(high**2 - 9.0) * 1.1 * eps
    wanted = raised + (1.0 - high) * (raised - net(raised, column(high, high))) / high
    return apart(found, wanted)


def strategic() -> float:
    """x0_hat's DDIM step to (1 - gamma) s, then the forward process from there to s."""
    x, eps, _ = data(1)
    (alpha_t, sigma_t), (alpha_s, sigma_s), (alpha_l, sigma_l) = (
        cosine(t) for t in (0.9, 0.5, 0.5 * 0.6)
    )
    guess = net(x, column(0.9))
    low = alpha_l * guess + sigma_l / sigma_t * (x - alpha_t * guess)
    k = alpha_s / alpha_l
    wanted = k * low + math.sqrt(sigma_s**2 - k**2 * sigma_l**2) * eps
    return apart(
        solvers.strategic(processes.cosine(), net, x, 0.9, 0.5, noise=lambda: eps, gamma=0.4),
        wanted,
    )


def guided_velocity() -> float:
    """scd's dx/dt = (cos t x_t - D_g) / sin t on trig, D_g the guided teacher's guess."""
    x0, z, _ = data(4)
    labels, t = torch.tensor([0, 1, 2, 0]), column(0.3, 0.7, 1.1, 1.4)
    times = Times(t, t, 0 * t, 0 * t + 1)
    pairs = couplings.Velocity("teacher", guidance=0.5)
    x_t, v = pairs(Models(net, teacher=net), processes.trig(sigma_data=SD), x0, z, times, labels)
    guess = 1.5 * net(x_t, t, labels) - 0.5 * net(x_t, t, torch.full((4,), -1))
    cos, sin = (part.reshape(-1, 1, 1) for part in (t.cos(), t.sin()))
    return apart(v, (cos * x_t - guess) / sin)


def endpoints() -> float:
    """GC in TCM's second stage: below t' endpoints are the frozen network's, from t' on the
    average's.
    """
    x0, z, _ = data(2)
    t, r = column(1.05, 4.0), column(0.9, 3.0)
    u = torch.tensor([[0.5, 0.1], [0.5, 0.1]], dtype=torch.float64)
    gc: dict[str, Any] = {"share": 1.0, "bound": 1e6}
    both = methods.gc(base="tcm", **gc), methods.tcm(base={"method": "gc", "base": "ect", **gc})
    models = Models(
        net, ema=lambda x, t, cond=None: 0.3 * x, frozen=lambda x, t, cond=None: -0.2 * x
    )
    times = Times(t, r, 0 * t, 0 * t + 1, u)
    found = [method.coupling(models, processes.edm(), x0, z, times, None)[1] for method in both]
    gains = column(-0.2, 0.3).reshape(-1, 1, 1)
    noise = r.reshape(-1, 1, 1) * z
    return worst(*(apart(x_r, gains * (x0 + noise) + noise) for x_r in found))


def trigflow() -> float:
    """skip = cos t, out = sd sin t up to its sign, in = 1 / sd, and the label is t."""
    t = column(0.05, 0.5, 1.2)
    c = scalings.Trig(sigma_data=SD)(processes.trig(sigma_data=SD), t)
    wanted = (t.cos(), SD * t.sin(), torch.full_like(t, 1 / SD), t)
    return worst(
        *(apart(a, b) for a, b in zip((c.skip, c.out.abs(), c.in_, c.noise), wanted, strict=True))
    )


def between_steps() -> float:
    """Between two steps of a table alpha^2 is linear; alpha' and sigma' are those of -beta / 2
    alpha.
    """
    process, t = processes.by_name("discrete"), column(300.25, 700.5)
    power = [process.alpha(t.floor() + k).square() for k in (0, 1)]
    share = t - t.floor()
    linear = apart(process.alpha(t).square(), (1 - share) * power[0] + share * power[1])
    one, none = torch.ones(2, 1, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    beta = 1 - power[1] / power[0]
    found = torch.cat([process.rate(one, none, t), process.rate(none, one, t)], 1)
    alpha, sigma = process.alpha(t), process.sigma(t)
    wanted = torch.stack([-beta * alpha / 2, beta * alpha**2 / (2 * sigma)], 1)
    return worst(linear, apart(found / wanted, torch.ones_like(found)))


def three_steps() -> float:
    """The middle levels are taken from the highest down, each with its own noise."""
    _, z, _ = data(2)
    own, process = sampling.sampler("multistep"), processes.edm()
    noises = (z.flip(0), 2 * z)
    asked: list[float] = []

    def guess(x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
        asked.append(float(t[0]))
        return 0.5 * x_t / float(t[0])

    found = sampling.sample(
        process,
        guess,
        process.prior(z),
        own.times(process, 3, (5.0, 0.7)),
        own.step,
        noise=lambda i: noises[i],
    )
    x = 0.5 * z
    for level, noise in zip((5.0, 0.7), noises, strict=True):
        x = 0.5 * (x + level * noise) / level
    return worst(apart(found, x), apart(column(*asked), column(80.0, 5.0, 0.7)))


def clock() -> float:
    """Each stage's schedules begin at its own 0 and end at its 1."""
    run: Any = SimpleNamespace(stage=None, split=0.7, iterations=10)
    found = [
        (one.progress(one.first), one.progress(one.last))
        for one in stages.stages(run, methods.tcm())
    ]
    return float(found != [(0.0, 1.0), (0.0, 1.0)])


def profiles() -> float:
    """The integral of two power profiles' product, by the rule of many small steps."""
    (t_a, g_a), (t_b, g_b) = (3.0, 5.0), (4.0, 2.0)
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) * (t_a / 200_000)
    wanted = (
        (g_a + 1) * t**g_a / t_a ** (g_a + 1) * (g_b + 1) * t**g_b / t_b ** (g_b + 1)
    ).sum() * (t_a / 200_000)
    found = averages.profile_products(*(column(v) for v in (t_a, g_a, t_b, g_b)))
    back = averages.profile_products(*(column(v) for v in (t_b, g_b, t_a, g_a)))
    return worst(abs(found.item() - wanted.item()), abs(back.item() - wanted.item()))


Row = tuple[str, str, Callable[[], float], str, tuple[str, ...]]
ROWS: list[Row] = [
    ("mean of absolute errors", "2303.01469, sec. 6", l1, "distances.l1", ("ct", "cd")),
    ("weight max(SNR, 1)", "2202.00512, sec. 4", truncated_snr, "weights.truncated_snr", ("mcm",)),
    (
        "space of the anchor: DDIM's step t -> a",
        "2405.18407, eq. 4",
        anchor_space,
        "spaces.end",
        ("mcm",),
    ),
    (
        "a picture and its 2x2 averages count alike",
        "2301.11093, sec. 3.4",
        multiscale,
        "spaces.Multiscale",
        ("mcm",),
    ),
    (
        "gc: mu falls linearly from share to share_end",
        "definition",
        ramp,
        "curricula.Ramp",
        ("gc",),
    ),
    (
        "TCM: realised strata, the same mean(w loss)",
        "2410.14895, eq. 8-10",
        realised,
        "times.Atom",
        ("tcm",),
    ),
    ("ECT: r/t is at most ratio_max", "definition", cap, "times.RatioMap", ("ect", "tcm")),
    (
        "churn: t_hat = (1 + gamma) t, its noise, the move",
        "2206.00364, alg. 2",
        churn,
        "solvers.Churn",
        ("diffusion",),
    ),
    (
        "TCD: down to (1 - gamma) s, up to s again",
        "2402.19159, sec. 4",
        strategic,
        "solvers.strategic",
        ("mcm",),
    ),
    (
        "scd: velocity of the guided teacher",
        "2410.11081, sec. 5",
        guided_velocity,
        "couplings.Velocity",
        ("scd",),
    ),
    (
        "gc in tcm: endpoints below t' are the frozen one's",
        "definition",
        endpoints,
        "couplings",
        ("gc", "tcm"),
    ),
    (
        "TrigFlow: cos t x - sd sin t F(x / sd, t)",
        "2410.11081, sec. 3",
        trigflow,
        "scalings.Trig",
        ("sct", "scd"),
    ),
    (
        "process discrete: between its steps, and its rates",
        "2011.13456",
        between_steps,
        "noise.Table",
        ("direct_cm",),
    ),
    (
        "sampler: levels downwards, each its own noise",
        "2303.01469, alg. 1",
        three_steps,
        "sampling.multistep_grid",
        (),
    ),
    ("tcm: each stage has its own clock", "definition", clock, "stages.Stage", ("tcm",)),
    (
        "post-hoc EMA: integrals of power profiles",
        "2312.02696, app. C",
        profiles,
        "ema.profile_products",
        (),
    ),
]


def checks() -> list[Check]:
    return [
        Check(
            name, source, measure, 1e-7, f"this part is not its formula: see fewstep.{where}", users
        )
        for name, source, measure, where, users in ROWS
    ]
