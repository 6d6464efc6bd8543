"""Flow maps that teach themselves: their jumps agree with their own velocity or shorter jumps."""

from __future__ import annotations

from typing import Literal

from fewstep import core
from fewstep.methods.base import Label, On, flow_map, flow_setting

__all__ = [
    "esd",
    "lsd",
    "psd",
    "shortcut",
    "tvm",
]


def shortcut(
    *,
    powers: int = 7,
    share: float = 0.125,
    mu: float = 0.999,
    bound: float = 4.0,
    p_mean: float = 0.0,
    p_std: float = 1.0,
    process: On = "linear",
    label: Label = "angle",
    sigma_data: float = 0.5,
) -> core.Method:
    """Shortcut model: a jump of 2 d is two of the average's jumps of d, d a power of 1/2.

    E ||u - sg u_goal||^2 / D; the other rows are flow matching.
    Source: Shortcut models, arXiv 2410.12557, algorithm 1: t uniform there; p_mean and p_std are of
    the rows of flow matching alone.

    Args:
        powers: the smallest d is 2^-powers
        share: of rows that learn jumps
        mu: share of itself that the average keeps
        bound: goals are clipped to velocities of at most so much
        p_mean: mean of the log noise level in rows of flow matching
        p_std: its standard deviation
        process: linear, as in the paper, or edm, trig, cosine, discrete
        label: of the noise: angle = atan(level / sd), or log = ln(level) / 4, as EDM's weights have
        sigma_data: standard deviation of the data, for the preconditioning
    """
    on, scaling = flow_setting(process, sigma_data, label)
    average = core.targets.Ema(core.curricula.FixedRate(mu))
    law = core.times.at_level(p_mean, p_std, on)
    dyadic = core.times.Dyadic(powers=powers, high=on.t_max)
    return flow_map(
        on,
        core.times.Diagonal(times=dyadic, share=1 - share, law=law),
        scaling,
        coupling=core.couplings.Self(average),
        target=core.targets.Bounded(average, bound),
    )


def psd(
    *,
    p_mean: float = -0.4,
    p_std: float = 1.0,
    diagonal: float = 0.75,
    process: On = "linear",
    label: Label = "angle",
    sigma_data: float = 0.5,
) -> core.Method:
    """Progressive self-distillation: a jump t -> a is the student's own by way of a random r.

    E ||u - sg u_goal||^2 / D. Also called SplitMeanFlow (arXiv 2507.16884).
    Source: arXiv 2505.18825, eq. 13.

    Args:
        p_mean: mean of the log noise level of t and a, on linear logit-normal
        p_std: its standard deviation
        diagonal: share of rows of flow matching
        process: linear, as in the paper, or edm, trig, cosine, discrete
        label: of the noise: angle = atan(level / sd), or log = ln(level) / 4, as EDM's weights have
        sigma_data: standard deviation of the data, for the preconditioning
    """
    on, scaling = flow_setting(process, sigma_data, label)
    law = core.times.at_level(p_mean, p_std, on)
    times = core.times.Between(times=core.times.Ends(law=law))
    return flow_map(
        on,
        core.times.Diagonal(times=times, share=diagonal, law=law),
        scaling,
        coupling=core.couplings.Self(),
        target=core.targets.Student(),
    )


def lsd(
    *,
    p_mean: float = -0.4,
    p_std: float = 1.0,
    diagonal: float = 0.75,
    step: float = 5e-3,
    process: On = "linear",
    label: Label = "angle",
    sigma_data: float = 0.5,
) -> core.Method:
    """Lagrangian self-distillation: E ||dX/da - sg v(X, a)||^2 / D, v the student's own diagonal.

    Source: arXiv 2505.18825, eq. 12.

    Args:
        p_mean: mean of the log noise level of t and a, on linear logit-normal
        p_std: its standard deviation
        diagonal: share of rows of flow matching
        step: of the centred difference in the end's angle
        process: linear, as in the paper, or edm, trig, cosine, discrete
        label: of the noise: angle = atan(level / sd), or log = ln(level) / 4, as EDM's weights have
        sigma_data: standard deviation of the data, for the preconditioning
    """
    on, scaling = flow_setting(process, sigma_data, label)
    law = core.times.at_level(p_mean, p_std, on)
    return flow_map(
        on,
        core.times.Diagonal(times=core.times.Ends(law=law), share=diagonal, law=law),
        scaling,
        target=core.tangents.EndTangent(step=step),
    )


def esd(
    *,
    p_mean: float = -0.4,
    p_std: float = 1.0,
    diagonal: float = 0.75,
    derivative: Literal["auto", "jvp", "difference"] = "auto",
    process: On = "linear",
    label: Label = "angle",
    sigma_data: float = 0.5,
) -> core.Method:
    """Eulerian self-distillation: the jump does not change along the student's own ODE.

    E ||u - sg u_goal||^2 / D, the velocity of goal and derivative the student's own diagonal.
    Source: arXiv 2505.18825, eq. 11, whose gradient also passes the derivative.

    Args:
        p_mean: mean of the log noise level of t and a, on linear logit-normal
        p_std: its standard deviation
        diagonal: share of rows of flow matching
        derivative: jvp, central differences, or auto, which tries them before the first step
        process: linear, as in the paper, or edm, trig, cosine, discrete
        label: of the noise: angle = atan(level / sd), or log = ln(level) / 4, as EDM's weights have
        sigma_data: standard deviation of the data, for the preconditioning
    """
    on, scaling = flow_setting(process, sigma_data, label)
    law = core.times.at_level(p_mean, p_std, on)
    return flow_map(
        on,
        core.times.Diagonal(times=core.times.Ends(law=law), share=diagonal, law=law),
        scaling,
        coupling=core.couplings.Velocity("student"),
        target=core.tangents.Tangent(0.0, norm="none", derivative=derivative),
    )


def tvm(
    *,
    gap_mean: float = -0.8,
    gap_std: float = 1.0,
    a_mean: float = -0.4,
    a_std: float = 1.0,
    mu: float = 0.99,
    step: float = 5e-3,
    label: Label = "angle",
    sigma_data: float = 0.5,
) -> core.Method:
    """Terminal velocity matching: E ||dX/da - sg v(X, a)||^2 / D + ||u(x_a, a, a) - v||^2 / D.

    v(X, a) is the average's diagonal; the second term trains the diagonal at the jump's end.
    Source: TVM, arXiv 2511.19797.

    Args:
        gap_mean: mean of the logit of (t - a) / (1 - a)
        gap_std: its standard deviation
        a_mean: mean of the log noise level of a
        a_std: its standard deviation
        mu: share of itself that the average keeps
        step: of the centred difference in the end's angle
        label: of the noise: angle = atan(level / sd), or log = ln(level) / 4, as EDM's weights have
        sigma_data: standard deviation of the data, for the preconditioning
    """
    gap, end = (
        core.times.LogitNormal(mean=mean, std=std)
        for mean, std in ((gap_mean, gap_std), (a_mean, a_std))
    )
    average = core.targets.Ema(core.curricula.FixedRate(mu))
    on, scaling = flow_setting("linear", sigma_data, label)
    return flow_map(
        on,
        core.times.Gap(gap=gap, end=end, high=on.t_max),
        scaling,
        target=core.tangents.EndTangent(average, step),
        terms=(core.terms.FlowMatching(distance=core.distances.mse, at="a"),),
    )
