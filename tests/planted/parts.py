"""Mistakes in the parts that methods share: weights, laws, solvers, denoisers, samplers, runs."""

from __future__ import annotations

from dataclasses import replace

from fewstep.core import denoiser, distances, guidance, sampling, scalings, solvers, times, weights
from fewstep.core.process import Process
from fewstep.core.solvers import past
from fewstep.core.times import curricula
from fewstep.run import averages, sources
from fewstep.run import generator as generators
from fewstep.run import plan as plans
from fewstep.training import hand_over
from fewstep.training import state as states
from tests.planted.makers import (
    Bug,
    by_student,
    forgets_moments,
    from_the_first,
    guided_by_w,
    guided_twice,
    low_noise_old,
    no_correction,
    not_clipped,
    one_sd,
    other_sigma_data,
    raw_weights,
    swapped_labels,
    without_alpha,
    wrong_alpha,
)

ECT = "ect: 1/(t-r) ||D(x_t,t) - sg D(x_r,r)||"
ICT = "ict: 1/(t-r) huber(D(x_t,t) - sg D(x_r,r)), c ~ sqrt(D)"
HANDED = "teacher and initial weights are a run's average"

BUGS = [
    Bug("weight 1 for 1/(t-r)", weights, "inverse_gap", lambda f: weights.one, ICT),
    Bug("weight 1 for 1/(t-r), in the loss", weights, "inverse_gap", lambda f: weights.one, ECT),
    Bug(
        "weight SNR for SNR + 1",
        weights,
        "snr_plus_one",
        lambda f: weights.snr,
        "mcm: (SNR + 1) huber of x0",
    ),
    Bug(
        "alpha of the wrong time in aDDIM",
        solvers,
        "addim",
        wrong_alpha,
        "aDDIM: x_s = a_s x0 + sqrt(s_s^2 + d z_var/|e|^2) e",
    ),
    Bug(
        "sign of the log-normal mean",
        times.LogNormal,
        "quantile",
        lambda f: lambda self, u: f(replace(self, mean=-self.mean), u),
        "diffusion: ln t ~ N(-1.2, 1.2^2)",
    ),
    Bug(
        "sigma_data changed on reload",
        generators,
        "build_student",
        other_sigma_data,
        "sigma_data, weights and samples survive a reload",
    ),
    Bug(
        "stage 2 from raw weights",
        hand_over,
        "hand_over",
        raw_weights,
        "tcm: stage 2 starts from stage 1's average",
    ),
    Bug(
        "Heun without its correction",
        solvers,
        "heun",
        no_correction,
        "Heun: error of a PF-ODE falls like n^-2",
    ),
    Bug(
        "2M: the steps taken for equal",
        past,
        "_dpm_weights",
        lambda f: lambda levels, end: [1.5, -0.5] if len(levels) == 2 else f(levels, end),
        "DPM-Solver++ 2M: D_0 + (D_0 - D_1) / 2r",
    ),
    Bug(
        "UniPC: shares in the wrong order",
        past,
        "_solve",
        lambda f: lambda h, r: f(h, r)[::-1],
        "UniPC 2: the guess at its end corrects a move",
    ),
    Bug(
        "eta of ddim for its square",
        solvers,
        "ancestral",
        lambda f: lambda *a, eta=1.0, **options: f(*a, eta=eta**2, **options),
        "DDIM with noise: eta 0 is DDIM, 1 ancestral",
    ),
    Bug(
        "huber: c without sqrt(D)",
        distances.RootHuber,
        "__call__",
        lambda f: lambda self, x, y: distances.huber(self.c)(x, y),
        ICT,
    ),
    Bug(
        "norm of means instead of sums",
        distances,
        "l2_norm",
        lambda f: lambda x, y: distances.mse(x, y).sqrt(),
        ECT,
    ),
    Bug(
        "c_skip with sigma_data not squared",
        scalings.Edm,
        "__call__",
        one_sd,
        "D = c_skip x + c_out F(c_in x, ln(t)/4)",
    ),
    Bug(
        "r not clipped at 0",
        times.RatioMap,
        "at",
        not_clipped,
        "ect: r = t (1 - q^-(j+1) (1 + k sigmoid(-bt)))",
    ),
    Bug(
        "N(k) off by one",
        curricula.Progressive,
        "__call__",
        lambda f: lambda self, p: f(self, p) + 1,
        "ct: N(k) levels, i uniform",
    ),
    Bug(
        "re-noised with the old level",
        sampling.SAMPLERS,
        "multistep",
        low_noise_old,
        "sampler: levels downwards, each its own noise",
    ),
    Bug(
        "teacher by its raw weights",
        sources,
        "load",
        lambda f: lambda source, **options: f(source, **{**options, "ema": "student"}),
        HANDED,
    ),
    Bug("initial weights not averaged", sources, "find", by_student, HANDED),
    Bug(
        "guidance of w for 1 + w",
        guidance.Guided,
        "both",
        guided_by_w,
        "guidance: D_c + g (D_c - D_u), x_var unguided",
    ),
    Bug(
        "aDDIM: variance of the guided guess",
        guidance.Guided,
        "both",
        guided_twice,
        "guidance: D_c + g (D_c - D_u), x_var unguided",
    ),
    Bug(
        "teacher of another process, x not scaled",
        denoiser.Across,
        "__call__",
        lambda f: (
            lambda self, x_t, t, cond=None: self.denoiser(
                x_t, self.own.time_at(self.caller.level(t)), cond
            )
        ),
        "teacher of another process: D(x/alpha, sigma/alpha)",
    ),
    Bug(
        "velocity without alpha'",
        Process,
        "velocity",
        without_alpha,
        "process: velocity = d/ds jump, rate = d/dt mix",
    ),
    Bug(
        "labels in another order",
        denoiser.Preconditioned,
        "forward",
        swapped_labels,
        "ct: labels reach the rows they belong to",
    ),
    Bug(
        "EMA: rate and its complement swapped",
        averages,
        "update",
        lambda f: lambda pairs, rates: f(pairs, [1 - rate for rate in rates]),
        "EMA: n moves leave beta^n of the difference",
    ),
    Bug(
        "a resumed run forgets its moments",
        states.State,
        "restore",
        forgets_moments,
        "ect: a resumed run is the run, bit for bit",
    ),
    Bug(
        "noise of a sample depends on its batch",
        plans,
        "normal",
        from_the_first,
        "samples do not depend on the sampling batch",
    ),
]
