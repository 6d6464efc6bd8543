"""The continuous limit r -> t: sCT and sCD."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

from fewstep import core

__all__ = ["scd", "sct"]


def sct(
    *,
    p_mean: float = -1.0,
    p_std: float = 1.4,
    warmup: float = 0.025,
    c: float = 0.1,
    norm: Literal["sample", "rms", "none"] = "sample",
    derivative: Literal["auto", "jvp", "difference"] = "auto",
    label: Literal["log", "time"] = "log",
    balance: Literal["learned", "none"] = "learned",
    level_max: float = 80.0,
    sigma_data: float = 0.5,
) -> core.Method:
    """Continuous-time consistency training: E e^-u ||F - sg(F + g)||^2 / D + u, g along df/dt.

    The limit r -> t on TrigFlow, so there is no curriculum: g is `tangents.Tangent`'s normalised
    tangent, with the velocity of the data.
    Source: sCM, arXiv 2410.11081, algorithm 1, and its CIFAR-10 settings (10k of 400k iterations of
    warm-up).

    Args:
        p_mean: mean of the log noise level, ln(sigma_data tan t)
        p_std: its standard deviation
        warmup: share of the run over which the derivative's part of the tangent grows to 1
        c: g / (||g|| + c)
        norm: of the sample, its root mean square (as in FastGen), or none for g itself
        derivative: jvp, central differences, or auto, which tries them before the first step
        label: the noise label: log = ln(level) / 4, as EDM's diffusion weights have; time = t
        balance: learned = e^-u and u, u(t) trained beside the student (the paper's w = -u); or none
        level_max: the highest noise level, where sampling starts
        sigma_data: standard deviation of the data, for process and preconditioning
    """
    on = core.process.trig(sigma_data=sigma_data, level_max=level_max)
    law = core.times.LogNormal(mean=p_mean, std=p_std, low=0.002, high=level_max)
    return core.Method(
        process=on,
        times=core.times.Limit(law=core.times.AtLevel(law, on)),
        coupling=core.couplings.Velocity("data"),
        target=core.tangents.Tangent(
            warmup, c, norm, derivative, weight=core.weights.alpha, unit=sigma_data
        ),
        space=core.spaces.Velocity(sigma_data),
        distance=core.distances.mse,
        balance=core.balances.by_name(balance),
        scaling=core.scalings.trigflow(label, sigma_data),
        later_sigmas=(sigma_data * math.tan(1.1),),
    )


def scd(
    *,
    guidance: float = 0.0,
    p_mean: float = -1.0,
    p_std: float = 1.4,
    warmup: float = 0.025,
    c: float = 0.1,
    norm: Literal["sample", "rms", "none"] = "sample",
    derivative: Literal["auto", "jvp", "difference"] = "auto",
    label: Literal["log", "time"] = "log",
    balance: Literal["learned", "none"] = "learned",
    level_max: float = 80.0,
    sigma_data: float = 0.5,
) -> core.Method:
    """Continuous-time consistency distillation: `sct` with the velocity of a teacher.

    Source: sCM, arXiv 2410.11081, algorithm 1, and its CIFAR-10 settings.

    Args:
        guidance: g of the teacher, D_c + g (D_c - D_u), 0 is none
        p_mean: mean of the log noise level, ln(sigma_data tan t)
        p_std: its standard deviation
        warmup: share of the run over which the derivative's part of the tangent grows to 1
        c: g / (||g|| + c)
        norm: of the sample, its root mean square (as in FastGen), or none for g itself
        derivative: jvp, central differences, or auto, which tries them before the first step
        label: the noise label: log = ln(level) / 4, as EDM's diffusion weights have; time = t
        balance: learned = e^-u and u, u(t) trained beside the student (the paper's w = -u); or none
        level_max: the highest noise level, where sampling starts
        sigma_data: standard deviation of the data, for process and preconditioning
    """
    base = sct(
        p_mean=p_mean,
        p_std=p_std,
        warmup=warmup,
        c=c,
        norm=norm,
        derivative=derivative,
        label=label,
        balance=balance,
        level_max=level_max,
        sigma_data=sigma_data,
    )
    return replace(base, coupling=core.couplings.Velocity("teacher", guidance))
