"""Mistakes in students of trajectories and of groups of rows: CTM, TBCM, IMM."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from fewstep.core import couplings, distances, solvers, spaces, times
from tests.planted.makers import Bug

CTM = "ctm: ||end X(t,a) - sg end X_ema(r,a)||^2 / D + denoising"
IMM = "imm: w MMD^2 of X(t,a) and sg X(r,a), 4 rows each"
IMM_TIMES = "imm: t, a uniform, r a step of level below t, for 4 rows"
TBCM = "tbcm: sCD's at the teacher's DDIM points from the prior"

BUGS = [
    Bug(
        "CTM: the average that carries is trained",
        spaces,
        "still",
        lambda f: lambda network: nullcontext(),
        f"ctm: gradient of {CTM[5:]}",
    ),
    Bug(
        "CTM: compared at their ends, not as data",
        spaces.AtData,
        "__call__",
        lambda f: lambda self, *args, **models: spaces.end(*args),
        CTM,
    ),
    Bug(
        "CTM: one move of the teacher for many",
        solvers.Along,
        "__call__",
        lambda f: lambda self, *args: self.solver(*args),
        CTM,
    ),
    Bug(
        "CTM: one step of the teacher, always",
        times.Spans,
        "__call__",
        lambda f: lambda self, u, *args: f(self, u * u.new_tensor([1, 1, 0]), *args),
        "ctm: levels a <= r < t, uniform",
    ),
    Bug(
        "IMM: without the goals' own kernel",
        distances.Mmd,
        "__call__",
        lambda f: lambda self, x, y: f(self, x, y) - f(self, 0 * y, y) / 2,
        IMM,
    ),
    Bug(
        "IMM: a kernel of one width",
        spaces.PerOutput,
        "__call__",
        lambda f: lambda self, *args: spaces.end(*args),
        IMM,
    ),
    Bug(
        "IMM: each row has times of its own",
        times.Grouped,
        "__call__",
        lambda f: lambda self, *args: self.times(*args),
        IMM_TIMES,
    ),
    Bug(
        "IMM: r below a",
        times.LevelStep,
        "_rows",
        lambda f: lambda self, t, a, progress: f(self, t, 0 * a, progress)._replace(a=a, to=a),
        IMM_TIMES,
    ),
    Bug(
        "TBCM: trajectories from noise of its own",
        couplings.Walk,
        "__call__",
        lambda f: (
            lambda self, models, process, x0, z, *a: f(
                self, models, process, x0, torch.randn_like(z), *a
            )
        ),
        TBCM,
    ),
    Bug(
        "TBCM: the teacher on noised data",
        couplings.Walk,
        "__call__",
        lambda f: lambda self, *args: couplings.Velocity("teacher")(*args),
        TBCM,
    ),
    Bug(
        "TBCM: times without strata",
        times.Strata,
        "__call__",
        lambda f: lambda self, *args: self.times(*args),
        "tbcm: sCM's times, one of each stratum, falling",
    ),
]
