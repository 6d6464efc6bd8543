"""What a move adds of noise or of variance, and what a coupling does to its endpoints and its
noise.
"""

from __future__ import annotations

import itertools
from importlib.util import find_spec

import torch
from torch import Tensor

from fewstep.analysis.verify.check import Check, apart, column, worst
from fewstep.analysis.verify.fixtures import data
from fewstep.analysis.verify.paper_losses import cosine
from fewstep.core import couplings, solvers
from fewstep.core import process as processes
from fewstep.core.denoiser import Models
from fewstep.core.times import Times


def last_step() -> float:
    """x_var d / ||eps||^2 is added to the sample itself, and nothing under final_step = ddim; only
    at s = 0.
    """
    process, (x0, z, _) = processes.edm(), data(3)
    t, s, var = column(0.5, 2.0, 3.0), column(0.0, 0.0, 1.0), 0.04
    x_t, guess = process.mix(x0, z, t), (z.tanh() + x0)
    paper, plain = (
        solvers.addim(process, lambda x, t, cond=None: guess, x_t, t, s, x_var=var, final_step=rule)
        for rule in ("addim", "ddim")
    )
    eps = (x_t - guess) / t.reshape(-1, 1, 1)
    added = guess + (var / eps.square().flatten(1).mean(1)).sqrt().reshape(-1, 1, 1) * eps
    return worst(
        apart(paper[:2], added[:2]), apart(plain[:2], guess[:2]), apart(plain[2], paper[2])
    )


def prior_variance() -> float:
    """0.1 / (2 + SNR)."""
    t = column(0.1, 0.4, 0.9)
    snr = torch.tensor(
        [(alpha / sigma) ** 2 for alpha, sigma in map(cosine, t.tolist())], dtype=torch.float64
    )
    found = solvers.PriorVariance(process=processes.cosine())(torch.zeros(3, 2), t)
    return apart(found, 0.1 / (2 + snr))


def ancestral() -> float:
    """Ancestral moves add noise of variance (1 - a_s^2) / (1 - a_t^2) (1 - a_t^2 / a_s^2), DDPM's
    posterior's.
    """
    process, (x0, z, _) = processes.cosine(), data(3)
    fresh = z.flip(0)
    t, s, rows = (0.9, 0.6, 0.3), (0.7, 0.5, 0.1), []
    x_t = process.mix(x0, z, column(*t))
    for i in range(3):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = cosine(t[i]), cosine(s[i])
        beta = 1 - (alpha_t / alpha_s) ** 2
        mean = (
            alpha_s * beta / sigma_t**2 * x0[i]
            + alpha_t / alpha_s * sigma_s**2 / sigma_t**2 * x_t[i]
        )
        rows.append(mean + (sigma_s**2 / sigma_t**2 * beta) ** 0.5 * fresh[i])
    moved = solvers.ancestral(
        process, lambda x, t, cond=None: x0, x_t, column(*t), column(*s), noise=lambda: fresh
    )
    return apart(moved, torch.stack(rows))


def bounded() -> float:
    """Endpoints beyond the bound are at it, others where the model put them; rows of data stay what
    they are.
    """
    process, (x0, z, _) = processes.edm(), data(3)
    t, r = column(2.0, 2.0, 2.0), column(1.5, 1.5, 1.5)
    times = Times(
        t,
        r,
        0 * t,
        0 * t + 1,
        torch.tensor([[0.5, 0.1], [0.5, 0.1], [0.5, 0.9]], dtype=torch.float64),
    )
    far = lambda x, t, cond=None: 4 * x  # noqa: E731
    _, x_r = couplings.GeneratorInduced(0.5, bound=1.25)(
        Models(far, ema=far), process, x0, z, times, None
    )
    made = (4 * (x0 + 1.5 * z)).clamp(-1.25, 1.25)
    return apart(x_r, torch.cat([made[:2], x0[2:]]) + 1.5 * z)


def cheapest() -> float:
    """Of all ways to deal five noises out among five samples none is cheaper than minibatch OT's."""
    x0, z, _ = data(5)
    t = column(*[1.0] * 5)
    x_t, x_r = couplings.MinibatchOT()(
        Models(lambda x, t, cond=None: x), processes.edm(), x0, z, Times(t, t / 2, 0 * t, t), None
    )

    def cost(noise: Tensor) -> float:
        return float((x0 - noise).square().sum())

    least = min(cost(z[list(order)]) for order in itertools.permutations(range(5)))
    return worst(abs(cost(x_t - x0) / least - 1), apart(2 * (x_r - x0), x_t - x0))


def checks() -> list[Check]:
    addim, gc = (
        "see fewstep.solvers.addim and PriorVariance",
        "see fewstep.couplings.GeneratorInduced",
    )
    found = [
        Check(
            "aDDIM: the last step adds x_var, or is DDIM's",
            "2403.06807, sec. 4",
            last_step,
            1e-7,
            addim,
            ("mcm",),
        ),
        Check(
            "aDDIM: x_var = 0.1 / (2 + SNR) by default",
            "2403.06807, sec. 4",
            prior_variance,
            1e-10,
            addim,
            ("mcm",),
        ),
        Check(
            "ancestral: mean and variance of DDPM's posterior",
            "2006.11239, eq. 7",
            ancestral,
            1e-9,
            "see fewstep.solvers.ancestral",
            ("diffusion",),
        ),
        Check(
            "gc: endpoints are clipped to [-bound, bound]",
            "definition",
            bounded,
            1e-12,
            gc,
            ("gc",),
        ),
    ]
    if find_spec("scipy"):  # which it needs
        look = "the noise is not dealt out at least cost: see fewstep.couplings.MinibatchOT"
        name = "minibatch OT: least sum ||x0_i - z_j||^2"
        found.append(
            Check(
                name, "2302.00482, sec. 3.2.4", cheapest, 1e-10, look, ("ict", "ect", "gc", "tcm")
            )
        )
    return found
