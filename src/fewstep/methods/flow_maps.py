"""Flow maps, which are told where they lead: MeanFlow and its family."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from fewstep import core

__all__ = [
    "alphaflow",
    "ayf",
    "emd",
    "esd",
    "imf",
    "lmd",
    "lsd",
    "meanflow",
    "psd",
    "shortcut",
    "soflow",
    "tvm",
]

On = Literal["linear", "edm", "trig", "cosine", "discrete"]


Label = Literal["angle", "log"]


def _setting(
    name: On, sigma_data: float, label: Label
) -> tuple[core.process.Process, core.scalings.Scaling]:
    """The process of that name and the preconditioning; discrete is trig up to its table's top.

    A table's steps have no derivative, and noise levels are all that its networks know of it. The
    label log has no value in pure noise: sampling starts at the level 80, as EDM's does.
    """
    scaling = core.scalings.trigflow("time" if label == "angle" else label, sigma_data)
    if name == "discrete":
        table = core.process.by_name(name)
        return core.process.trig(level_max=float(table.level(table.t_max))), scaling
    on = core.process.by_name(name, sigma_data=sigma_data)
    if label == "log":
        on = replace(on, t_max=min(on.t_max, float(on.time_at(80.0))))
    return on, scaling


def _other(
    on: core.process.Process, mean: float | None, std: float, law: core.times.Law
) -> core.times.Law:
    """The law of log levels of that mean and deviation; the given one without a mean."""
    return law if mean is None else core.times.at_level(mean, std, on)


def _flow_map(
    on: core.process.Process,
    times: core.times.TimeSampler,
    scaling: core.scalings.Scaling,
    **parts: Any,
) -> core.Method:
    """What they share: compared as velocities, sampled by jumps."""
    parts = {"space": core.spaces.Velocity(), "sampler": "jumps", **parts}
    return core.Method(process=on, times=times, scaling=scaling, **parts)


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
        derivative: jvp, central differences, or auto, which tries both before the first step
        process: linear, as in the paper, or edm, trig, cosine, discrete
        label: of the noise: angle = atan(level / sd), or log = ln(level) / 4, as EDM's weights have
        sigma_data: standard deviation of the data, for the preconditioning
    """
    on, scaling = _setting(process, sigma_data, label)
    law = core.times.at_level(p_mean, p_std, on)
    end = _other(on, a_mean, a_std or p_std, law)
    return _flow_map(
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
        derivative: jvp, central differences, or auto, which tries both before the first step
        process: linear, as in the paper, or edm, trig, cosine, discrete
        label: of the noise: angle = atan(level / sd), or log = ln(level) / 4, as EDM's weights have
        sigma_data: standard deviation of the data, for the preconditioning
    """
    on, scaling = _setting(process, sigma_data, label)
    law = core.times.at_level(p_mean, p_std, on)
    balance = core.balances.Adaptive(p, c)
    pairs = core.couplings.of_data(by_row=most > 1)
    return _flow_map(
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
    on, scaling = _setting(process, sigma_data, label)
    law = core.times.at_level(p_mean, p_std, on)
    end = _other(on, a_mean, a_std or p_std, law)
    flat = _other(on, diagonal_mean, diagonal_std or p_std, law)
    times = core.times.Ends(law=law, end=end, near=core.curricula.Decay(near, near_end))
    return _flow_map(
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
        derivative: jvp, central differences, or auto, which tries both before the first step
        process: linear, as in the paper, or edm, trig, cosine, discrete
        label: of the noise: angle = atan(level / sd), or log = ln(level) / 4, as EDM's weights have
        sigma_data: standard deviation of the data, for the preconditioning
    """
    on, scaling = _setting(process, sigma_data, label)
    law = core.times.at_level(p_mean, p_std, on)
    times = core.times.Ends(law=law, near=core.curricula.Fall(steepness, middle, least))
    limit = core.tangents.Tangent(0.0, norm="none", derivative=derivative)
    target = core.targets.Limited(core.targets.Student(), limit)
    return _flow_map(
        on,
        core.times.Diagonal(times=times, share=diagonal, law=law),
        scaling,
        coupling=core.couplings.Limited(),
        target=core.targets.Bounded(target, bound),
        distance=core.distances.sse,
        weight=core.weights.of_share,
        balance=core.balances.Adaptive(p, c, by_share=True),
    )


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
    on, scaling = _setting(process, sigma_data, label)
    average = core.targets.Ema(core.curricula.FixedRate(mu))
    law = core.times.at_level(p_mean, p_std, on)
    dyadic = core.times.Dyadic(powers=powers, high=on.t_max)
    return _flow_map(
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
    on, scaling = _setting(process, sigma_data, label)
    law = core.times.at_level(p_mean, p_std, on)
    times = core.times.Between(times=core.times.Ends(law=law))
    return _flow_map(
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
    on, scaling = _setting(process, sigma_data, label)
    law = core.times.at_level(p_mean, p_std, on)
    return _flow_map(
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
        derivative: jvp, central differences, or auto, which tries both before the first step
        process: linear, as in the paper, or edm, trig, cosine, discrete
        label: of the noise: angle = atan(level / sd), or log = ln(level) / 4, as EDM's weights have
        sigma_data: standard deviation of the data, for the preconditioning
    """
    on, scaling = _setting(process, sigma_data, label)
    law = core.times.at_level(p_mean, p_std, on)
    return _flow_map(
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
    on, scaling = _setting("linear", sigma_data, label)
    return _flow_map(
        on,
        core.times.Gap(gap=gap, end=end, high=on.t_max),
        scaling,
        target=core.tangents.EndTangent(average, step),
        terms=(core.terms.FlowMatching(distance=core.distances.mse, at="a"),),
    )


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
        derivative: jvp, central differences, or auto, which tries both before the first step
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
        derivative: jvp, central differences, or auto, which tries both before the first step
        process: linear, as in the paper, or edm, trig, cosine, discrete
        label: of the noise: angle = atan(level / sd), or log = ln(level) / 4, as EDM's weights have
        sigma_data: standard deviation of the data, for the preconditioning
    """
    on, scaling = _setting(process, sigma_data, label)
    law = core.times.at_level(p_mean, p_std, on)
    return _flow_map(
        on,
        core.times.Ends(law=law),
        scaling,
        coupling=core.couplings.Velocity("teacher", guidance),
        target=core.tangents.Tangent(warmup, c, derivative=derivative),
    )
