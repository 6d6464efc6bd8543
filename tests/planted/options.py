"""Mistakes in the parts that methods have on request."""

from __future__ import annotations

from dataclasses import replace

from fewstep.core import couplings, distances, scalings, solvers, spaces, times, weights
from fewstep.core.times import curricula
from fewstep.run import averages, stages
from tests.planted.makers import Bug

BUGS = [
    Bug(
        "absolute errors summed",
        distances,
        "l1",
        lambda f: lambda x, y: f(x, y) * x[0].numel(),
        "mean of absolute errors",
    ),
    Bug(
        "min(SNR, 1)",
        weights,
        "truncated_snr",
        lambda f: lambda process, t: weights.snr(process, t).clamp_max(1),
        "pd: max(SNR,1) ||D - invDDIM(DDIM DDIM x_t)||^2 / D",
    ),
    Bug(
        "compared at r instead of a",
        spaces,
        "end",
        lambda f: lambda process, x_t, x0_hat, t: f(process, x_t, x0_hat, t._replace(a=t.a * 0.9)),
        "space of the anchor: DDIM's step t -> a",
    ),
    Bug(
        "share that rises instead of falling",
        curricula.Ramp,
        "__call__",
        lambda f: lambda self, p: f(self, 1 - p),
        "gc: mu falls linearly from share to share_end",
    ),
    Bug(
        "realised strata ignored",
        times.Atom,
        "_weigh",
        lambda f: lambda self, times, rows: f(replace(self, realised=False), times, rows),
        "TCM, strata: mean(w loss) = E_(t>t') + w_b E_(t=t')",
    ),
    Bug(
        "no cap on r/t",
        times.RatioMap,
        "ratio",
        lambda f: lambda self, p: f(replace(self, ratio_max=1.0), p),
        "ECT: r/t is at most ratio_max",
    ),
    Bug(
        "gamma for 1 - gamma",
        solvers,
        "strategic",
        lambda f: lambda *args, gamma, **options: f(*args, gamma=1 - gamma, **options),
        "TCD: down to (1 - gamma) s, up to s again",
    ),
    Bug(
        "the teacher's guidance forgotten",
        couplings,
        "guided",
        lambda f: lambda denoiser, scale: denoiser,
        "scd: velocity of the guided teacher",
    ),
    Bug(
        "endpoints below t' by the average",
        couplings,
        "truncated",
        lambda f: lambda pairs, t_prime: pairs,
        "gc in tcm: endpoints below t' are the frozen one's",
    ),
    Bug(
        "label ln of the level for the angle",
        scalings.Trig,
        "__call__",
        lambda f: lambda self, process, t: f(self, process, t)._replace(noise=t.log()),
        "TrigFlow: cos t x - sd sin t F(x / sd, t)",
    ),
    Bug(
        "one clock for both stages",
        stages.Stage,
        "progress",
        lambda f: lambda self, step: step / self.last,
        "tcm: each stage has its own clock",
    ),
    Bug(
        "profiles of two averages in the wrong order",
        averages,
        "profile_products",
        lambda f: lambda t_a, g_a, t_b, g_b: f(t_a, g_b, t_b, g_a),
        "post-hoc EMA: integrals of power profiles",
    ),
]
