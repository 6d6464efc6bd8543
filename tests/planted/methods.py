"""Mistakes in what a method consists of: pairs, targets, times, tangents."""

from __future__ import annotations

from dataclasses import replace

from fewstep.core import (
    balances,
    couplings,
    denoiser,
    method,
    solvers,
    spaces,
    tangents,
    targets,
    times,
)
from fewstep.core.couplings import Data
from fewstep.core.method import Method
from fewstep.core.process import Process
from fewstep.core.times import curricula
from tests.planted.makers import (
    Bug,
    along_from_below,
    anchor_off,
    asks_student,
    bare_jump,
    batch_mean,
    ema_by_student,
    masks_anew,
    weight_not_over_share,
    with_gradient,
    wrong_gc,
)

GC = "gc: iCT on x0 := D_ema(x_r,r), same z, where u < mu"
MCM_V = "mcm: huber of v: D(x_t,t) - invDDIM(DDIM(x_s, s->a))"
CD = "cd: ||D(x_t,t) - D_ema(Heun(x_t),r)||^2 / D"
TCM = "tcm: 1/(t-r) ||D(x_t,t) - sg f_trunc(x_r,r)||"
SCT = "sct: e^-u ||F - sg(F + g/(||g||+c))||^2 / D + u"
ATOM = "tcm: t log-Student-t, share rho at t', w_b/rho"
VCT = "vct: ECT of mu + s z, + KL(N(mu, s^2) | N(0, 1)) / D"
ECT = "ect: 1/(t-r) ||D(x_t,t) - sg D(x_r,r)||"

BUGS = [
    Bug("target not detached", Method, "goal", with_gradient, f"ect: gradient of {ECT[5:]}"),
    Bug(
        "target not detached, by differences",
        Method,
        "goal",
        with_gradient,
        "ect: target is detached: gradient with targets held still",
    ),
    Bug(
        "frozen network gets a gradient",
        Method,
        "goal",
        with_gradient,
        "tcm: gradient reaches the student, nobody else",
    ),
    Bug(
        "anchor a step off",
        times.Segments,
        "at",
        anchor_off,
        "mcm: K segments, s one step below t, a its start",
    ),
    Bug(
        "eps^2 averaged over the batch",
        couplings,
        "mse",
        lambda f: lambda x, y: f(x, y).mean().expand(len(x)),
        "mcm: the same with x_s an aDDIM step of the teacher",
    ),
    Bug(
        "masks not shared",
        method,
        "dropout",
        masks_anew,
        "ict: dropout masks are shared by both passes",
    ),
    Bug("GC: rows inverted", couplings.GeneratorInduced, "__call__", wrong_gc(other_rows=True), GC),
    Bug(
        "GC: endpoint from the upper point",
        couplings.GeneratorInduced,
        "__call__",
        wrong_gc(upper=True),
        GC,
    ),
    Bug(
        "GC: new noise for the pair",
        couplings.GeneratorInduced,
        "__call__",
        wrong_gc(fresh=True),
        GC,
    ),
    Bug(
        "GC: share inverted",
        couplings.GeneratorInduced,
        "__call__",
        lambda f: lambda self, *a: f(replace(self, share=1 - self.share / 2), *a),
        GC,
    ),
    Bug("TCM: w_b not over its share", times.Atom, "_weigh", weight_not_over_share, ATOM),
    Bug(
        "TCM: share of the atom inverted",
        times.Atom,
        "__call__",
        lambda f: lambda self, *a: f(replace(self, share=1 - self.share), *a),
        ATOM,
    ),
    Bug(
        "TCM: student asked below t'",
        targets.Truncated,
        "__call__",
        lambda f: lambda self, models: models.student,
        TCM,
    ),
    Bug("CD: target by the student", targets.Ema, "__call__", ema_by_student, CD),
    Bug(
        "PD: the next level is no end",
        times.AtNeighbour,
        "__call__",
        lambda f: lambda self, u, *args: self.times(u, *args),
        "pd: t uniform over the student's steps, a the next",
    ),
    Bug(
        "PD: the student teaches itself",
        targets.Previous,
        "__call__",
        lambda f: lambda self, models: models.student,
        "pd: max(SNR,1) ||D - invDDIM(DDIM DDIM x_t)||^2 / D",
    ),
    Bug(
        "TRACT: one teacher for all phases",
        targets.Previous,
        "__call__",
        lambda f: lambda self, models: models.teacher,
        "tract: max(SNR,1) ||D - invDDIM(DDIM_ema DDIM x_t)||^2 / D",
    ),
    Bug("CD: the student's own ODE", couplings.Teacher, "__call__", asks_student, CD),
    Bug(
        "CT: target by the student",
        targets.Ema,
        "__call__",
        ema_by_student,
        "ct: ||D(x_t,t) - D_ema(x_r,r)||^2 / D",
    ),
    Bug(
        "ECT: q^-j for q^-(j+1)",
        times.RatioMap,
        "ratio",
        lambda f: lambda self, p: 1 - (1 - f(self, p)) * self.q,
        "ect: r = t (1 - q^-(j+1) (1 + k sigmoid(-bt)))",
    ),
    Bug(
        "iCT: doubles too late",
        curricula.Doubling,
        "__call__",
        lambda f: lambda self, p: f(self, max(p - 0.125, 0)),
        "ict: N doubles, p(i) from erf of ln sigma",
    ),
    Bug(
        "iCT: intervals uniform",
        times.Adjacent,
        "__call__",
        lambda f: lambda self, *a: f(replace(self, law=None), *a),
        "ict: N doubles, p(i) from erf of ln sigma",
    ),
    Bug(
        "Direct CM: ODE started a level below",
        solvers.Along,
        "__call__",
        along_from_below,
        "direct_cm: ||D(x_t,t) - ODE(x_t, t->0)||^2 / D",
    ),
    Bug(
        "sCM: no warm-up of the tangent",
        tangents.Tangent,
        "goal",
        lambda f: lambda self, *a: f(replace(self, warmup=0.0), *a),
        SCT,
    ),
    Bug(
        "sCM: tangent not normalise",
        tangents.Tangent,
        "normalise",
        lambda f: lambda self, g: g,
        SCT,
    ),
    Bug(
        "sCM: sign of the tangent",
        tangents.Tangent,
        "normalise",
        lambda f: lambda self, g: -f(self, g),
        f"sct: gradient of {SCT[5:]}",
    ),
    Bug(
        "sCM: e^u for e^-u",
        balances.LogVariance,
        "__call__",
        lambda f: (
            lambda self, loss, times, models: f(
                self, loss, times, replace(models, balance=lambda x: -models.balance(x))
            )
        ),
        SCT,
    ),
    Bug(
        "TCM: t' itself by the frozen network",
        denoiser.Truncated,
        "forward",
        lambda f: lambda self, x_t, t, *a: f(self, x_t, t - 1e-9, *a),
        "f_trunc = frozen where t < t', student from t' on",
    ),
    Bug(
        "shared trajectories not reweighed",
        times.Shared,
        "at",
        lambda f: lambda self, *a: f(replace(self, reweight=False), *a),
        "direct_cm: w of shared rows makes levels uniform",
    ),
    Bug(
        "a mean over the batch inside the loss",
        Method,
        "loss",
        batch_mean,
        "ect: a batch is its items",
    ),
    Bug(
        "PCM: compared as data",
        spaces,
        "end",
        lambda f: spaces.x0,
        "pcm: huber of DDIM(x_t, t->a) - DDIM_ema(DDIM x_t, r->a)",
    ),
    Bug(
        "VCT: no gradient by way of the noise",
        Data,
        "__call__",
        lambda f: (
            lambda self, models, process, x0, z, *a: f(self, models, process, x0, z.detach(), *a)
        ),
        f"vct: gradient of {VCT[5:]}",
    ),
    Bug(
        "CMT: ECT's stages",
        times.RatioMap,
        "ratio",
        lambda f: lambda self, p: f(replace(self, fixed_ratio=None), p),
        "cmt: r = t (1 - .004 (1 + 8 sigmoid(-t)))",
    ),
    Bug("MCM compared in x0, not in v", spaces, "v", lambda f: spaces.x0, MCM_V),
    Bug(
        "the network asked at the boundary",
        Process,
        "jump",
        bare_jump,
        "mcm: r = a asks no network at r",
    ),
]
