"""Diffusion and the consistency models between neighbours: CD, CT, iCT, ECT."""

from __future__ import annotations

from typing import Literal

from fewstep import core
from fewstep.base.errors import require

__all__ = ["cd", "ct", "diffusion", "ect", "ict"]


def diffusion(
    *,
    p_mean: float = -1.2,
    p_std: float = 1.2,
    law: Literal["lognormal", "cosine"] = "lognormal",
    shift: tuple[float, float] = (0.0, 0.0),
    noise_scale: float = 0.25,
    t_min: float = 0.002,
    t_max: float = 80.0,
    sigma_data: float = 0.5,
) -> core.Method:
    """Denoising score matching, the training of teachers: E weight ||D(x_t, t) - x0||^2 / D.

    weight = (t^2 + sd^2) / (t sd)^2. With law = cosine and sigma_data = 1 it is simple diffusion's
    v-loss.
    Source: EDM, arXiv 2206.00364, eq. 8 and table 1; simple diffusion, arXiv 2301.11093.

    Args:
        p_mean: mean of ln t, where law = lognormal
        p_std: standard deviation of ln t, where law = lognormal
        law: of t: lognormal, or the levels of the cosine schedule at uniform times
        shift: of the cosine schedule's log-SNR at its times 0 and 1
        noise_scale: the network's noise label is noise_scale ln t; CM's on ImageNet have 250
        t_min: the level of the samplers' last evaluation
        t_max: the level where sampling starts
        sigma_data: standard deviation of the data, for weight and preconditioning
    """
    return core.Method(
        process=core.process.edm(t_min=t_min, t_max=t_max),
        times=core.times.Clean(law=_law(law, p_mean, p_std, shift)),
        distance=core.distances.mse,
        weight=core.weights.Edm(sigma_data),
        scaling=core.scalings.Edm(sigma_data=sigma_data, noise_scale=noise_scale),
        sampler="heun",
    )


def _law(name: str, p_mean: float, p_std: float, shift: tuple[float, float]) -> core.times.Law:
    """The law of t by its name. Raises UserError for options that only the other one has."""
    if name == "lognormal":
        require(not any(shift), "shift", shift, "(0, 0): only law = cosine is shifted")
        return core.times.LogNormal(mean=p_mean, std=p_std)
    plain = (p_mean, p_std) == (-1.2, 1.2)
    require(plain, "p_mean, p_std", (p_mean, p_std), "left out: law = cosine has none")
    return core.times.LevelsOf(core.process.cosine(shift=shift))


def cd(
    *,
    n: int = 40,
    mu: float = 0.95,
    solver: Literal["heun", "euler", "ddim"] = "heun",
    distance: Literal["l2", "l1", "lpips"] = "l2",
    weight: Literal["one", "inverse_gap", "edm"] = "one",
    noise_scale: float = 0.25,
    t_min: float = 0.002,
    t_max: float = 80.0,
    sigma_data: float = 0.5,
) -> core.Method:
    """Consistency distillation: E d(D(x_t, t), D_ema(x_r, r)), x_r by the teacher's ODE from x_t.

    Source: CM, arXiv 2303.01469, eq. 6-8 and algorithm 2; n and mu are those of its ImageNet-64
    runs. There d is LPIPS.

    Args:
        n: levels of the Karras grid
        mu: share of itself that the target's average keeps
        solver: the teacher's move
        distance: between the two guesses; l2 and l1 are means over the elements
        weight: one, inverse_gap = 1/(t-r), edm = 1/c_out(t)^2
        noise_scale: the network's noise label is noise_scale ln t; CM's on ImageNet have 250
        t_min: the lowest level, where the boundary condition holds
        t_max: the highest, where sampling starts
        sigma_data: standard deviation of the data, for weight and preconditioning
    """
    return core.Method(
        process=core.process.edm(t_min=t_min, t_max=t_max),
        times=core.times.Adjacent(steps=core.curricula.Fixed(n - 1), low=t_min, high=t_max),
        coupling=core.couplings.Teacher(core.solvers.by_name(solver)),
        target=core.targets.Ema(core.curricula.FixedRate(mu)),
        distance=core.distances.by_name(distance),
        weight=core.weights.by_name(weight, sigma_data),
        scaling=core.scalings.Edm(sigma_data=sigma_data, shift=t_min, noise_scale=noise_scale),
    )


def ct(
    *,
    s0: int = 2,
    s1: int = 150,
    mu0: float = 0.9,
    distance: Literal["l2", "l1", "lpips"] = "l2",
    weight: Literal["one", "inverse_gap", "edm"] = "one",
    noise_scale: float = 0.25,
    t_min: float = 0.002,
    t_max: float = 80.0,
    sigma_data: float = 0.5,
) -> core.Method:
    """Consistency training: E d(D(x_t, t), D_ema(x_r, r)), x_t and x_r of the same x0 and z.

    The grid of times becomes finer during the run.
    Source: CM, arXiv 2303.01469, eq. 10, algorithm 3 and appendix C, with CIFAR-10's s0, s1 and mu0
    (ImageNet-64: 2, 200, 0.95). There d is LPIPS.

    Args:
        s0: the grid's first size
        s1: its last
        mu0: share of itself that the target's average keeps at first
        distance: between the two guesses; l2 and l1 are means over the elements
        weight: one, inverse_gap = 1/(t-r), edm = 1/c_out(t)^2
        noise_scale: the network's noise label is noise_scale ln t; CM's on ImageNet have 250
        t_min: the lowest level, where the boundary condition holds
        t_max: the highest, where sampling starts
        sigma_data: standard deviation of the data, for weight and preconditioning
    """
    steps = core.curricula.Progressive(s0, s1)
    return core.Method(
        process=core.process.edm(t_min=t_min, t_max=t_max),
        times=core.times.Adjacent(steps=steps, low=t_min, high=t_max),
        target=core.targets.Ema(core.curricula.ProgressiveRate(mu0, steps)),
        distance=core.distances.by_name(distance),
        weight=core.weights.by_name(weight, sigma_data),
        scaling=core.scalings.Edm(sigma_data=sigma_data, shift=t_min, noise_scale=noise_scale),
    )


def ict(
    *,
    s0: int = 10,
    s1: int = 1280,
    p_mean: float = -1.1,
    p_std: float = 2.0,
    c: float = 0.00054,
    pairs: Literal["data", "ot", "euler", "heun", "ddim"] = "data",
    noise_scale: float = 0.25,
    t_min: float = 0.002,
    t_max: float = 80.0,
    sigma_data: float = 0.5,
) -> core.Method:
    """Improved consistency training: E 1/(t-r) d(D(x_t, t), sg D(x_r, r)), d pseudo-Huber.

    The number of intervals doubles from stage to stage.
    Source: iCT, arXiv 2310.14189, table 1.

    Args:
        s0: intervals of the first stage
        s1: most intervals
        p_mean: mean of ln t, whose law chooses the interval
        p_std: standard deviation of ln t
        c: pseudo-Huber constant per root of the data's dimension
        pairs: x_r from the data and noise of x_t (ot: paired by minibatch OT), or a teacher's move
        noise_scale: the network's noise label is noise_scale ln t
        t_min: the lowest level, where the boundary condition holds
        t_max: the highest, where sampling starts
        sigma_data: standard deviation of the data, for the preconditioning
    """
    steps = core.curricula.Doubling(s0, s1)
    law = core.times.LogNormal(mean=p_mean, std=p_std, low=t_min, high=t_max)
    return core.Method(
        process=core.process.edm(t_min=t_min, t_max=t_max),
        times=core.times.Adjacent(steps=steps, law=law, low=t_min, high=t_max),
        coupling=core.couplings.by_name(pairs),
        target=core.targets.Student(),
        distance=core.distances.RootHuber(c),
        weight=core.weights.inverse_gap,
        scaling=core.scalings.Edm(sigma_data=sigma_data, shift=t_min, noise_scale=noise_scale),
    )


def ect(
    *,
    p_mean: float = -1.1,
    p_std: float = 2.0,
    q: float = 2.0,
    k: float = 8.0,
    b: float = 1.0,
    stages: int = 8,
    ratio_max: float = 0.9999,
    c: float = 0.0,
    weight: Literal["inverse_gap", "edm"] = "inverse_gap",
    pairs: Literal["data", "ot", "euler", "heun", "ddim"] = "data",
    sigma_data: float = 0.5,
) -> core.Method:
    """Easy consistency tuning: E weight d(D(x_t, t), sg D(x_r, r)), r -> t stage by stage.

    Source: ECT, arXiv 2406.14548; its CIFAR-10 settings (8 stages of 25k of 200k iterations). Its
    code has no ratio_max.

    Args:
        p_mean: mean of ln t
        p_std: standard deviation of ln t
        q: the gap t - r shrinks by q from stage to stage
        k: at small t the gap is 1 + k/2 times wider
        b: how fast that widening falls with t
        stages: stages over the whole run
        ratio_max: cap on r / t, since in float32 smaller gaps are rounding
        c: pseudo-Huber constant, 0 is the L2 norm
        weight: inverse_gap = 1/(t-r) (CIFAR-10); edm = 1/c_out(t)^2 (ImageNet-64)
        pairs: x_r from the data and noise of x_t (ot: paired by minibatch OT), or a teacher's move
        sigma_data: standard deviation of the data, for the weight edm and the preconditioning
    """
    law = core.times.LogNormal(mean=p_mean, std=p_std)
    return core.Method(
        times=core.times.RatioMap(law=law, q=q, k=k, b=b, stages=stages, ratio_max=ratio_max),
        coupling=core.couplings.by_name(pairs),
        target=core.targets.Student(),
        distance=core.distances.huber(c),
        weight=core.weights.by_name(weight, sigma_data),
        scaling=core.scalings.Edm(sigma_data=sigma_data),
    )
