"""Flow maps by their mean velocity, from data: MeanFlow and what grew from it."""

from __future__ import annotations

from typing import Literal

from fewstep import core
from fewstep.methods.base import Label, On, flow_map, flow_setting, other_law

__all__ = [
    "alphaflow",
    "imf",
    "meanflow",
    "soflow",
]


def meanflow(
    *,
    p_mean: float = -0.4,
    p_std: float = 1.0,
    a_mean: float | None = None,
    a_std: float | None = None,
    diagonal: float = 0.75,
    velocity: Literal["data", "teacher"] = "data",
    omega: float = 1.0,
    kappa: float = 0.0,
    until: float = 1.0,
    p: float = 1.0,
    c: float = 0.01,
    derivative: Literal["auto", "jvp", "difference"] = "auto",
    process: On = "linear",
    label: Label = "angle",
    sigma_data: float = 0.5,
) -> core.Method:
    """MeanFlow: E ||u - sg(v - (t - a) du/dt)||^2 / sg(.. + c)^p, u the mean velocity from t to a.

    v = dx_t/dt of the data, or of a teacher's ODE, along which u is derived.
    Source: MeanFlow, arXiv 2505.13447, eq. 11 and section 4.3 (CIFAR-10: p_mean -2, p_std 2,
    diagonal 0.25, p 0.75; "improved" there: -0.6, 1.6 for t and -4, 1.6 for a).

    Args:
        p_mean: mean of the log noise level of t, on linear logit-normal
        p_std: its standard deviation
        a_mean: mean for the other of the two draws, the end; left out, the same
        a_std: its standard deviation; left out, the same
        diagonal: share of rows of flow matching, where u is to be v
        velocity: v of the data, as in the paper, or of a teacher, in rows of flow matching too
        omega: guidance folded into v: omega v + kappa u_c + (1 - omega - kappa) u_u, 1 is none
        kappa: its share of u_c; the student is guided by omega / (1 - kappa)
        until: share of all times, from the data on, that is guided
        p: power of the adaptive weight
        c: its constant, beside a squared error summed over the numbers of a sample
        derivative: jvp, central differences, or auto, which tries them before the first step
        process: linear, as in the paper, or edm, trig, cosine, discrete
        label: of the noise: angle = atan(level / sd), or log = ln(level) / 4, as EDM's weights have
        sigma_data: standard deviation of the data, for the preconditioning
    """
    on, scaling = flow_setting(process, sigma_data, label)
    law = core.times.at_level(p_mean, p_std, on)
    end = other_law(on, a_mean, a_std or p_std, law)
    return flow_map(
        on,
        core.times.Diagonal(times=core.times.Ends(law=law, end=end), share=diagonal, law=law),
        scaling,
        coupling=core.couplings.of_velocity(velocity, omega, kappa, until),
        target=core.tangents.Tangent(0.0, norm="none", derivative=derivative),
        distance=core.distances.sse,
        balance=core.balances.Adaptive(p, c),
    )


def imf(
    *,
    p_mean: float = -0.4,
    p_std: float = 1.0,
    diagonal: float = 0.5,
    most: float = 1.0,
    power: float = 1.0,
    p: float = 1.0,
    c: float = 0.01,
    derivative: Literal["auto", "jvp", "difference"] = "auto",
    process: On = "linear",
    label: Label = "angle",
    sigma_data: float = 0.5,
) -> core.Method:
    """Improved MeanFlow: u is derived along the student's own velocity, which is trained as well.

    E ||u + (t - a) sg(du/dt) - v||^2 + ||u(t, t) - v||^2, each by its adaptive weight.
    Source: iMF, arXiv 2512.02012, section 3 and algorithm 1.

    Args:
        p_mean: mean of the log noise level of t, on linear logit-normal
        p_std: its standard deviation
        diagonal: share of rows of flow matching
        most: highest guidance weight w, which the student is told; 1 is none, the paper's is 8
        power: of the density ~ w^-power of 1 .. most
        p: power of the adaptive weights
        c: their constant
        derivative: jvp, central differences, or auto, which tries them before the first step
        process: linear, as in the paper, or edm, trig, cosine, discrete
        label: of the noise: angle = atan(level / sd), or log = ln(level) / 4, as EDM's weights have
        sigma_data: standard deviation of the data, for the preconditioning
    """
    on, scaling = flow_setting(process, sigma_data, label)
    law = core.times.at_level(p_mean, p_std, on)
    balance = core.balances.Adaptive(p, c)
    pairs = core.couplings.of_data(by_row=most > 1)
    return flow_map(
        on,
        core.times.Diagonal(times=core.times.Ends(law=law), share=diagonal, law=law),
        scaling,
        coupling=pairs,
        target=core.tangents.Tangent(0.0, norm="none", derivative=derivative, along="student"),
        distance=core.distances.sse,
        balance=balance,
        terms=(core.terms.FlowMatching(pairs, balance),),
        tell=core.tell.Guidance(most, power) if most > 1 else core.tell.nothing,
    )


def soflow(
    *,
    p_mean: float = -0.4,
    p_std: float = 1.0,
    a_mean: float | None = None,
    a_std: float | None = None,
    diagonal: float = 0.75,
    diagonal_mean: float | None = None,
    diagonal_std: float | None = None,
    near: float = 0.1,
    near_end: float = 0.002,
    omega: float = 1.0,
    kappa: float = 0.0,
    until: float = 1.0,
    p: float = 1.0,
    c: float = 0.01,
    process: On = "linear",
    label: Label = "angle",
    sigma_data: float = 0.5,
) -> core.Method:
    """SoFlow: consistency of the solution function, E d(f(x_t, t, a), sg f(x_l, l, a)), l near t.

    Weight 1 / ((t - l)(t - a)) over (mse / (t - l)^2 + c)^p; l = t - near (t - a) closes in on t.
    Source: SoFlow, arXiv 2512.15657 (CIFAR-10: diagonal 0, near 1 to 3.1e-4). Its guidance of
    weight w, of which a share m is mixed in, is omega = m w, kappa = 1 - m.

    Args:
        p_mean: mean of the log noise level of t, on linear logit-normal
        p_std: its standard deviation
        a_mean: mean for the other of the two draws, the end; left out, the same
        a_std: its standard deviation; left out, the same
        diagonal: share of rows of flow matching
        diagonal_mean: mean for t in these; left out, the same
        diagonal_std: its standard deviation; left out, the same
        near: share of the way from t to a that the neighbour is at, at first
        near_end: at last, exponentially in between
        omega: guidance of the velocity to the neighbour, as in `meanflow`; 1 is none
        kappa: its share of the student's own; it is guided by omega / (1 - kappa)
        until: share of all times, from the data on, that is guided
        p: power of the adaptive weight
        c: its constant
        process: linear, as in the paper, or edm, trig, cosine, discrete
        label: of the noise: angle = atan(level / sd), or log = ln(level) / 4, as EDM's weights have
        sigma_data: standard deviation of the data, for the preconditioning
    """
    on, scaling = flow_setting(process, sigma_data, label)
    law = core.times.at_level(p_mean, p_std, on)
    end = other_law(on, a_mean, a_std or p_std, law)
    flat = other_law(on, diagonal_mean, diagonal_std or p_std, law)
    times = core.times.Ends(law=law, end=end, near=core.curricula.Decay(near, near_end))
    return flow_map(
        on,
        core.times.Diagonal(times=times, share=diagonal, law=flat),
        scaling,
        coupling=core.couplings.of_data(omega, kappa, until=until, pairs=True),
        target=core.targets.Student(),
        space=core.spaces.end,
        weight=core.weights.of_gaps,
        balance=core.balances.Adaptive(p, c, by_share=True),
    )


def alphaflow(
    *,
    p_mean: float = -0.4,
    p_std: float = 1.0,
    diagonal: float = 0.25,
    steepness: float = 25.0,
    middle: float = 0.5,
    least: float = 0.005,
    bound: float = 4.0,
    p: float = 1.0,
    c: float = 1e-3,
    derivative: Literal["auto", "jvp", "difference"] = "auto",
    process: On = "linear",
    label: Label = "angle",
    sigma_data: float = 0.5,
) -> core.Method:
    """alpha-Flow: from flow matching to MeanFlow, with a neighbour r = t - alpha (t - a).

    E alpha ||u - sg u_goal||^2 / (sg ||..||^2 + c); alpha falls from 1 to 0, `meanflow`'s.
    Source: alpha-Flow, arXiv 2510.20771, eq. 10 and section 4.

    Args:
        p_mean: mean of the log noise level of t and a, on linear logit-normal
        p_std: its standard deviation
        diagonal: share of rows of flow matching
        steepness: of alpha's fall in the share of training done
        middle: where alpha is one half
        least: below it alpha is 0, above 1 - least it is 1
        bound: goals are clipped to velocities of at most so much
        p: power of the adaptive weight
        c: its constant
        derivative: jvp, central differences, or auto, which tries them before the first step
        process: linear, as in the paper, or edm, trig, cosine, discrete
        label: of the noise: angle = atan(level / sd), or log = ln(level) / 4, as EDM's weights have
        sigma_data: standard deviation of the data, for the preconditioning
    """
    on, scaling = flow_setting(process, sigma_data, label)
    law = core.times.at_level(p_mean, p_std, on)
    times = core.times.Ends(law=law, near=core.curricula.Fall(steepness, middle, least))
    limit = core.tangents.Tangent(0.0, norm="none", derivative=derivative)
    target = core.targets.Limited(core.targets.Student(), limit)
    return flow_map(
        on,
        core.times.Diagonal(times=times, share=diagonal, law=law),
        scaling,
        coupling=core.couplings.Limited(),
        target=core.targets.Bounded(target, bound),
        distance=core.distances.sse,
        weight=core.weights.of_share,
        balance=core.balances.Adaptive(p, c, by_share=True),
    )
