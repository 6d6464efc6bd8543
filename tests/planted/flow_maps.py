"""Mistakes in flow maps: which end they are told, their derivatives, and rows of the diagonal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from fewstep.core import couplings, derivatives, tangents, targets, terms, times, weights
from fewstep.core.balances import Adaptive
from fewstep.core.denoiser import ask
from fewstep.core.method import Method
from fewstep.core.process import Process
from fewstep.core.times import curricula
from tests.planted.makers import Bug, ema_by_student

MEANFLOW = "meanflow: ||u - sg(v - (t-a) du/dt)||^2 / sg(.. + c)"
IMF = "imf: ||u + (t-a) sg(du/dt) - v||^2 + ||u(t,t) - v||^2"
SOFLOW = "soflow: ||f(x_t,t,a) - sg f(x_l,l,a)||^2 / ((t-l)(t-a)), adaptive"
ALPHAFLOW = "alphaflow: alpha ||u - sg(alpha v + (1-alpha) u_r)||^2 / sg(.. + c)"
PSD = "psd: ||u - sg((t-r) u(t,r) + (r-a) u(r,a))/(t-a)||^2 / D"
LSD = "lsd: ||dX/da - sg v(X,a)||^2 / D"
ESD = "esd: ||u - sg(v - (t-a) du/dt)||^2 / D, v = u(t,t)"
EMD = "emd: ||u - sg(v_teacher - (t-a) du/dt)||^2 / D"
DIAGONAL = "meanflow: t, a logit-normal, 3/4 of the rows diagonal"


def options(**changes: Any):
    """The part with other options."""
    return lambda f: lambda self, *args, **more: f(replace(self, **changes), *args, **more)


def falling(jvp):
    def against(*line, **how):
        value, slope = jvp(*line, **how)
        return value, -slope

    return against


def told(to):
    """Velocities whose network is told to lead to `to(t)`."""
    return lambda f: (
        lambda self, x, t, cond=None, masks=None, **end: f(self, x, t, cond, masks, to(t))
    )


def not_routed(lesson):
    def all_rows(self, models, x0, z, times, cond, run):
        x_t, x_r = self.coupling(models, self.process, x0, z, times, cond)
        return x_t, self.goal(models, x_t, x_r, times, cond, run)

    return all_rows


def pairs_led_to_a(call):
    def pairs(self, models, process, x0, z, times, cond):
        x_t = process.mix(x0, z, times.t)
        x0_hat = ask(self.network(models), x_t, times.t, cond, times.a)
        return x_t, process.jump(x_t, x0_hat, times.t, times.r)

    return pairs


def end_backwards(guess):
    def other_sign(self, process, models, x_t, times, cond, run):
        own = run(models.student, x_t, times.t, cond, times.to)
        return 2 * own - guess(self, process, models, x_t, times, cond, run)

    return other_sign


def gap_of_all(call):
    def rows(self, u, progress, ordinal=None):
        a = self.end.quantile(u[:, 1])
        t = torch.maximum(a, self.gap.quantile(u[:, 0]))
        return call(self, u, progress)._replace(t=t, r=t)

    return rows


BUGS = [
    Bug("MeanFlow: sign of du/dt", derivatives, "jvp", falling, MEANFLOW),
    Bug(
        "MeanFlow: du/dt of the diagonal",
        tangents.Drift,
        "__call__",
        told(lambda t: t),
        MEANFLOW,
    ),
    Bug("MeanFlow: keep and make swapped", Process, "move", lambda f: lambda *a: f(*a)[::-1], PSD),
    Bug(
        "MeanFlow: t and a swapped",
        Process,
        "move",
        lambda f: lambda self, t, s: f(self, s, t),
        "meanflow on N(0,s^2): the exact map is the goal",
    ),
    Bug("rows of the diagonal are not routed", Method, "lesson", not_routed, MEANFLOW),
    Bug(
        "share of the diagonal inverted", times.Diagonal, "__call__", options(share=0.25), DIAGONAL
    ),
    Bug(
        "rows of the diagonal are told their anchor",
        times.Diagonal,
        "__call__",
        lambda f: lambda self, *args: (lambda one: one._replace(to=one.a))(f(self, *args)),
        DIAGONAL,
    ),
    Bug("iMF: derived along the data", tangents.Tangent, "_line", options(along="pair"), IMF),
    Bug("iMF: velocity trained at the end", terms.FlowMatching, "__call__", options(at="a"), IMF),
    Bug(
        "SoFlow: the neighbour counted from the end",
        curricula.Decay,
        "__call__",
        lambda f: lambda self, progress: 1 - f(self, progress),
        "soflow: l = t + q (a - t), q from .1 to .002 exponentially",
    ),
    Bug("SoFlow: adaptive by the gap", Adaptive, "__call__", options(by_share=False), SOFLOW),
    Bug(
        "alpha-Flow: share inverted",
        weights,
        "share",
        lambda f: lambda times: 1 / f(times),
        ALPHAFLOW,
    ),
    Bug(
        "alpha-Flow: alpha rises",
        curricula.Fall,
        "__call__",
        lambda f: lambda self, progress: 1 - f(self, progress),
        "alphaflow: r = t - alpha (t - a), alpha from 1 to 0",
    ),
    Bug(
        "Shortcut: jumps of the student",
        targets.Ema,
        "__call__",
        ema_by_student,
        "shortcut: ||u - sg(u_ema + u_ema')/2||^2 / D, d = 2^-k",
    ),
    Bug(
        "Shortcut: steps of half the size",
        times.Dyadic,
        "__call__",
        options(powers=8),
        "shortcut: 1/8 of the rows dyadic",
    ),
    Bug(
        "PSD: always by way of the middle",
        times.Between,
        "__call__",
        lambda f: lambda self, u, *args: f(self, 0 * u + 0.5, *args),
        "psd: r uniform in (a, t)",
    ),
    Bug("PSD: told the end, goes halfway", couplings.Self, "__call__", pairs_led_to_a, PSD),
    Bug("LSD: sign of dD/da", tangents.EndTangent, "guess", end_backwards, LSD),
    Bug(
        "LSD: velocity of the map to the data",
        tangents.Drift,
        "__call__",
        told(lambda t: 0 * t),
        "lsd on N(0,s^2): the exact map, to 1e-4",
    ),
    Bug(
        "LMD: the student teaches itself",
        targets.Frozen,
        "__call__",
        lambda f: lambda self, models: models.student,
        "lmd: ||dX/da - v_teacher(X,a)||^2 / D",
    ),
    Bug(
        "TVM: the diagonal of the start",
        terms.FlowMatching,
        "__call__",
        options(at="t"),
        "tvm: ||dX/da - sg v_ema(X,a)||^2 + ||u(x_a,a,a) - v||^2",
    ),
    Bug(
        "TVM: gap of all times",
        times.Gap,
        "__call__",
        gap_of_all,
        "tvm: the gap and the end logit-normal",
    ),
    Bug("ESD: data's velocity", couplings.Velocity, "__call__", options(source="data"), ESD),
    Bug("EMD: own velocity", couplings.Velocity, "__call__", options(source="student"), EMD),
    Bug(
        "AYF: tangent not normalised",
        tangents.Tangent,
        "normalise",
        lambda f: lambda self, g: g,
        "ayf: ||u - sg(u + g/(||g||+c))||^2 / D",
    ),
]
