"""Flow maps by the velocity of a teacher."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from fewstep import core
from fewstep.methods.base import Label, On, flow_map, flow_setting
from fewstep.methods.self_distillation import esd, lsd

__all__ = [
    "ayf",
    "emd",
    "lmd",
]


def lmd(
    *,
    p_mean: float = -0.4,
    p_std: float = 1.0,
    diagonal: float = 0.25,
    guidance: float = 0.0,
    step: float = 5e-3,
    process: On = "linear",
    label: Label = "angle",
    sigma_data: float = 0.5,
) -> core.Method:
    """Lagrangian map distillation: `lsd` with the velocity of a teacher at the end of the jump.

    Source: flow map matching, arXiv 2406.07507, eq. 3.2, without rows of flow matching there.

    Args:
        p_mean: mean of the log noise level of t and a, on linear logit-normal
        p_std: its standard deviation
        diagonal: share of rows of flow matching
        guidance: g of the teacher, D_c + g (D_c - D_u), 0 is none
        step: of the centred difference in the end's angle
        process: linear, or edm, trig, cosine, discrete
        label: of the noise: angle = atan(level / sd), or log = ln(level) / 4, as EDM's weights have
        sigma_data: standard deviation of the data, for the preconditioning
    """
    base = lsd(
        p_mean=p_mean,
        p_std=p_std,
        diagonal=diagonal,
        process=process,
        label=label,
        sigma_data=sigma_data,
    )
    network = core.targets.Frozen(guidance)
    return replace(base, target=core.tangents.EndTangent(network, step))


def emd(
    *,
    p_mean: float = -0.4,
    p_std: float = 1.0,
    diagonal: float = 0.25,
    guidance: float = 0.0,
    derivative: Literal["auto", "jvp", "difference"] = "auto",
    process: On = "linear",
    label: Label = "angle",
    sigma_data: float = 0.5,
) -> core.Method:
    """Eulerian map distillation: `esd` with the velocity of a teacher.

    Source: flow map matching, arXiv 2406.07507, eq. 3.6, whose gradient also passes the derivative.

    Args:
        p_mean: mean of the log noise level of t and a, on linear logit-normal
        p_std: its standard deviation
        diagonal: share of rows of flow matching
        guidance: g of the teacher, D_c + g (D_c - D_u), 0 is none
        derivative: jvp, central differences, or auto, which tries them before the first step
        process: linear, or edm, trig, cosine, discrete
        label: of the noise: angle = atan(level / sd), or log = ln(level) / 4, as EDM's weights have
        sigma_data: standard deviation of the data, for the preconditioning
    """
    base = esd(
        p_mean=p_mean,
        p_std=p_std,
        diagonal=diagonal,
        derivative=derivative,
        process=process,
        label=label,
        sigma_data=sigma_data,
    )
    return replace(base, coupling=core.couplings.Velocity("teacher", guidance))


def ayf(
    *,
    p_mean: float = -0.8,
    p_std: float = 1.0,
    guidance: float = 0.0,
    warmup: float = 0.05,
    c: float = 0.1,
    derivative: Literal["auto", "jvp", "difference"] = "auto",
    process: On = "linear",
    label: Label = "angle",
    sigma_data: float = 0.5,
) -> core.Method:
    """Align your flow (EMD): E ||u - sg(u + g / (||g|| + c))||^2 / D, g the tangent of a teacher.

    Its teacher is guided by a weaker model of itself: `fs.guide`, or `guidance`.
    Source: AYF, arXiv 2506.14603, section 3.2 and algorithm 1; the ramp of g's derivative ends
    there at 0.99.

    Args:
        p_mean: mean of the log noise level of t and a, on linear logit-normal
        p_std: its standard deviation
        guidance: g of the teacher, D_c + g (D_c - D_u), 0 is none
        warmup: share of the run over which the derivative's part of the tangent grows to 1
        c: g / (||g|| + c)
        derivative: jvp, central differences, or auto, which tries them before the first step
        process: linear, as in the paper, or edm, trig, cosine, discrete
        label: of the noise: angle = atan(level / sd), or log = ln(level) / 4, as EDM's weights have
        sigma_data: standard deviation of the data, for the preconditioning
    """
    on, scaling = flow_setting(process, sigma_data, label)
    law = core.times.at_level(p_mean, p_std, on)
    return flow_map(
        on,
        core.times.Ends(law=law),
        scaling,
        coupling=core.couplings.Velocity("teacher", guidance),
        target=core.tangents.Tangent(warmup, c, derivative=derivative),
    )
