"""One function per published method: a composition of parts, in the words a user would write it in."""

import sys
from dataclasses import replace
from inspect import signature
from typing import Any, Literal

import fewstep as fs
from fewstep.config import Base, choose, named_base
from fewstep.errors import UserError


def diffusion(*, p_mean: float = -1.2, p_std: float = 1.2, sigma_data: float = 0.5) -> "fs.Method":
    """Denoising score matching, the training of teachers: E (t^2+sd^2)/(t sd)^2 ||D(x_t, t) - x0||^2 / D.

    Source: EDM, arXiv 2206.00364, eq. 8 and table 1.

    Args:
        p_mean: mean of ln t
        p_std: standard deviation of ln t
        sigma_data: standard deviation of the data, for weight and preconditioning
    """
    return fs.Method(
        times=fs.times.Clean(law=fs.times.LogNormal(mean=p_mean, std=p_std)),
        distance=fs.distances.mse,
        weight=fs.weights.Edm(sigma_data),
        scaling=fs.scalings.Edm(sigma_data=sigma_data),
        sampler="heun",
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
) -> "fs.Method":
    """Easy consistency tuning: E weight d(D(x_t, t), sg D(x_r, r)), r -> t stage by stage.

    Source: ECT, arXiv 2406.14548; its CIFAR-10 settings (8 stages of 25k of 200k iterations).
    Its code has no ratio_max.

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
        pairs: x_r from the data and noise of x_t, those paired by minibatch OT, or a teacher's move from x_t
        sigma_data: standard deviation of the data, for the weight edm and the preconditioning
    """
    law = fs.times.LogNormal(mean=p_mean, std=p_std)
    return fs.Method(
        times=fs.times.RatioMap(law=law, q=q, k=k, b=b, stages=stages, ratio_max=ratio_max),
        coupling=fs.couplings.named(pairs),
        target=fs.targets.Student(),
        distance=fs.distances.huber(c),
        weight=fs.weights.named(weight, sigma_data),
        scaling=fs.scalings.Edm(sigma_data=sigma_data),
    )


def cd(
    *,
    n: int = 40,
    mu: float = 0.95,
    solver: Literal["heun", "euler", "ddim"] = "heun",
    distance: Literal["l2", "l1", "lpips"] = "l2",
    weight: Literal["one", "inverse_gap", "edm"] = "one",
    t_min: float = 0.002,
    t_max: float = 80.0,
    sigma_data: float = 0.5,
) -> "fs.Method":
    """Consistency distillation: E d(D(x_t, t), D_ema(x_r, r)), x_r one move of the teacher's ODE from x_t to r.

    Source: CM, arXiv 2303.01469, eq. 6-8 and algorithm 2; n and mu are those of its ImageNet-64 runs.
    There d is LPIPS, and the network's noise label is 250 ln t instead of ln(t) / 4.

    Args:
        n: levels of the Karras grid
        mu: share of itself that the target's average keeps
        solver: the teacher's move
        distance: between the two guesses; l2 and l1 are means over the elements
        weight: one, inverse_gap = 1/(t-r), edm = 1/c_out(t)^2
        t_min: the lowest level, where the boundary condition holds
        t_max: the highest, where sampling starts
        sigma_data: standard deviation of the data, for weight and preconditioning
    """
    return fs.Method(
        process=fs.process.edm(t_min=t_min, t_max=t_max),
        times=fs.times.Adjacent(steps=fs.curricula.Fixed(n - 1), low=t_min, high=t_max),
        coupling=fs.couplings.Teacher(fs.solvers.named(solver)),
        target=fs.targets.Ema(fs.curricula.FixedRate(mu)),
        distance=fs.distances.named(distance),
        weight=fs.weights.named(weight, sigma_data),
        scaling=fs.scalings.Edm(sigma_data=sigma_data, shift=t_min),
    )


def ct(
    *,
    s0: int = 2,
    s1: int = 150,
    mu0: float = 0.9,
    distance: Literal["l2", "l1", "lpips"] = "l2",
    weight: Literal["one", "inverse_gap", "edm"] = "one",
    t_min: float = 0.002,
    t_max: float = 80.0,
    sigma_data: float = 0.5,
) -> "fs.Method":
    """Consistency training: E d(D(x_t, t), D_ema(x_r, r)), both points of one x0 and z, on an ever finer grid.

    Source: CM, arXiv 2303.01469, eq. 10, algorithm 3 and appendix C, with CIFAR-10's s0, s1 and mu0
    (ImageNet-64: 2, 200, 0.95). There d is LPIPS.

    Args:
        s0: the grid's first size
        s1: its last
        mu0: share of itself that the target's average keeps at first
        distance: between the two guesses; l2 and l1 are means over the elements
        weight: one, inverse_gap = 1/(t-r), edm = 1/c_out(t)^2
        t_min: the lowest level, where the boundary condition holds
        t_max: the highest, where sampling starts
        sigma_data: standard deviation of the data, for weight and preconditioning
    """
    steps = fs.curricula.Progressive(s0, s1)
    return fs.Method(
        process=fs.process.edm(t_min=t_min, t_max=t_max),
        times=fs.times.Adjacent(steps=steps, low=t_min, high=t_max),
        target=fs.targets.Ema(fs.curricula.ProgressiveRate(mu0, steps)),
        distance=fs.distances.named(distance),
        weight=fs.weights.named(weight, sigma_data),
        scaling=fs.scalings.Edm(sigma_data=sigma_data, shift=t_min),
    )


def ict(
    *,
    s0: int = 10,
    s1: int = 1280,
    p_mean: float = -1.1,
    p_std: float = 2.0,
    c: float = 0.00054,
    pairs: Literal["data", "ot", "euler", "heun", "ddim"] = "data",
    t_min: float = 0.002,
    t_max: float = 80.0,
    sigma_data: float = 0.5,
) -> "fs.Method":
    """Improved consistency training: E 1/(t-r) d(D(x_t, t), sg D(x_r, r)), d pseudo-Huber, N doubling stage by stage.

    Source: iCT, arXiv 2310.14189, table 1.

    Args:
        s0: intervals of the first stage
        s1: most intervals
        p_mean: mean of ln t, whose law chooses the interval
        p_std: standard deviation of ln t
        c: pseudo-Huber constant per root of the data's dimension
        pairs: x_r from the data and noise of x_t, those paired by minibatch OT, or a teacher's move from x_t
        t_min: the lowest level, where the boundary condition holds
        t_max: the highest, where sampling starts
        sigma_data: standard deviation of the data, for the preconditioning
    """
    law = fs.times.LogNormal(mean=p_mean, std=p_std, low=t_min, high=t_max)
    return fs.Method(
        process=fs.process.edm(t_min=t_min, t_max=t_max),
        times=fs.times.Adjacent(steps=fs.curricula.Doubling(s0, s1), law=law, low=t_min, high=t_max),
        coupling=fs.couplings.named(pairs),
        target=fs.targets.Student(),
        distance=fs.distances.RootHuber(c),
        weight=fs.weights.inverse_gap,
        scaling=fs.scalings.Edm(sigma_data=sigma_data, shift=t_min),
    )


def gc(
    *,
    base: Base = "ict",
    share: float = 0.5,
    share_end: float | None = None,
    predictor: Literal["ema", "student"] = "ema",
    bound: float = 3.0,
    sigma_data: float = 0.5,
) -> "fs.Method":
    """Generator-induced coupling: in a share of the rows x0 is D(x_r, r), and both points are built anew from it.

    Source: GC, arXiv 2406.09570, eq. 13-15 and 21: iCT with mu = 0.5 and the average as predictor.

    Args:
        base: the method whose coupling it is
        share: probability of a generated row, the paper's mu (its code's mixing value is 1 - mu)
        share_end: what it changes to, linearly over the run; left out it stays
        predictor: the network whose endpoints they are: ema or student
        bound: endpoints are clipped to [-b, b], b this many standard deviations of the data, and 1 at least
        sigma_data: standard deviation of the data, for the bound and a base that is named
    """
    base = _made(base, sigma_data)
    predicts = fs.targets.by(base.target, fs.targets.named(predictor))
    mu = share if share_end is None else fs.curricula.Ramp(share, share_end)
    b = max(bound * sigma_data, 1.0)  # data about [-1, 1] may lie far from 0
    return replace(base, coupling=fs.couplings.GeneratorInduced(mu, predicts, b, base.coupling))


def tcm(
    *,
    base: Base = "ect",
    t_prime: float = 1.0,
    rho: float = 0.25,
    w_b: float = 0.1,
    mean: float = 0.0,
    std: float = 0.2,
    nu: float = 0.01,
    ratio: float | None = None,
    realised: bool = False,
    sigma_data: float = 0.5,
) -> "fs.Method":
    """Truncated consistency model: the second stage of a base method trains t >= t_prime alone, its first frozen below.

    E over t > t_prime of the base's loss + w_b times that at t = t_prime; t is log-Student-t on [t_prime, t_max].
    Source: TCM, arXiv 2410.14895, eq. 5-10 and its code's README.

    Args:
        base: the method of the first stage, with a continuous law of t
        t_prime: the lowest time of the second stage, in the units of t
        rho: share of the rows at t_prime
        w_b: weight of their mean loss
        mean: of ln t
        std: scale of ln t
        nu: degrees of freedom of ln t
        ratio: r / t of the second stage; left out, what the first ends with
        realised: divide by the number of rows at t_prime that a batch has, not by the expected one
        sigma_data: standard deviation of the data, for a base that is named
    """
    base = _made(base, sigma_data)
    if not isinstance(base.times, fs.times.RatioMap):
        raise UserError(f"tcm: base with {type(base.times).__name__} times: expected a continuous law of t, as of ect")
    law = fs.times.LogStudentT(mean=mean, std=std, nu=nu, low=t_prime, high=base.process.t_max)
    times = replace(base.times, law=law, held=base.times.ratio(1.0) if ratio is None else ratio)
    return replace(
        base,
        times=fs.times.Atom(times=times, at_time=t_prime, share=rho, weight=w_b, realised=realised),
        target=fs.targets.Truncated(t_prime, base.target or fs.targets.Student()),
        middle=(max(t_prime, 1.0),),
        trained_from=t_prime,
        before=base,
    )


def mcm(
    *,
    K: int = 4,  # noqa: N803 - the paper's name
    steps: int = 64,
    steps_end: int = 1280,
    annealed: float = 0.5,
    pairs: Literal["data", "addim", "ddim"] = "data",
    eta: float = 0.75,
    guidance: float = 0.0,
    distance: Literal["huber", "squared"] = "huber",
    c: float = 1e-4,
    space: Literal["v", "x0"] = "v",
    weight: Literal["one", "snr_plus_one", "truncated_snr"] = "one",
    pools: int = 0,
    shift: tuple[float, float] = (0.0, 0.0),
    sigma_data: float = 0.5,
) -> "fs.Method":
    """Multistep consistency model: K segments, in each a consistency model of its start; K = 1 is one, K = T diffusion.

    E weight d(D(x_t, t), aim(x_t, jump(x_s, sg D(x_s, s), s -> a), t -> a)), s one of T steps below t.
    Source: MCM, arXiv 2403.06807, algorithm 1 and appendix A.

    Args:
        K: segments, and steps of its sampler
        steps: steps of the teacher over the whole time at first
        steps_end: at last
        annealed: share of the run over which they grow
        pairs: x_s from the data (consistency training) or a teacher's aDDIM or DDIM move from x_t (distillation)
        eta: share of ||x0 - D_teacher||^2 that aDDIM takes for the variance
        guidance: g of the teacher, D_c + g (D_c - D_u), 0 is none
        distance: huber of the root mean square, or squared
        c: constant of huber
        space: v compares errors over sigma; with x0 and snr_plus_one it is the paper's formula to the letter
        weight: factor of the distance
        pools: 2x2 averages of pictures that are compared as well (ImageNet-128: 1)
        shift: of the cosine schedule's log-SNR at t = 0 and t = 1
        sigma_data: standard deviation of the data, for the preconditioning: v-prediction where it is 1
    """
    seen = fs.spaces.named(space)
    return fs.Method(
        process=fs.process.cosine(shift=shift),
        times=fs.times.Segments(segments=K, steps=fs.curricula.Exponential(steps, steps_end, annealed)),
        coupling=fs.couplings.named(pairs, eta, guidance),
        target=fs.targets.Student(),
        space=fs.spaces.Multiscale(pools, seen) if pools else seen,
        distance=fs.distances.rms_huber(c) if distance == "huber" else fs.distances.mse,
        weight=fs.weights.named(weight, sigma_data),
        scaling=fs.scalings.Edm(sigma_data=sigma_data),
        sampler=fs.sampling.segments(K),
    )


def direct_cm(
    *,
    n: int = 100,
    solver: Literal["ddim", "euler", "heun"] = "ddim",
    starts: Literal["uniform", "highest"] = "uniform",
    goal: Literal["solution", "student"] = "solution",
    guidance: float = 0.0,
    c: float = 0.0,
    process: Literal["edm", "cosine", "discrete"] = "edm",
    sigma_data: float = 0.5,
) -> "fs.Method":
    """Direct consistency model: E d(D(x_t, t), the teacher's ODE solution from x_t), t on a grid of n intervals.

    Source: Direct CM, arXiv 2411.08954, and its code, which has SDXL's discrete process, n = 100 and w = 9.

    Args:
        n: intervals of the solver from t_max to 0
        solver: the teacher's move over one of them
        starts: t is any level of the grid, or the highest always
        goal: solution; student is the consistency model that the paper compares with: one move, then the student
        guidance: g of the teacher, D_c + g (D_c - D_u), 0 is none; the paper's w is 1 + g
        c: constant of a pseudo-Huber of each element, 0 is the squared error
        process: edm with the Karras grid, cosine, or discrete, the 1000 steps of Stable Diffusion
        sigma_data: standard deviation of the data, for the preconditioning
    """
    on = fs.process.named(process)
    grid = tuple(fs.sampling.down_the_noise(on, n, ()))
    times = fs.times.Levels(grid=grid, first=starts == "highest")
    move = fs.solvers.along(fs.solvers.named(solver), grid)
    return fs.Method(
        process=on,
        times=fs.times.AtAnchor(times=times) if goal == "solution" else times,
        coupling=fs.couplings.Teacher(move, guidance=guidance),
        target=None if goal == "solution" else fs.targets.Student(),
        distance=fs.distances.element_huber(c),
        scaling=fs.scalings.Edm(sigma_data=sigma_data),
    )


def _made(base: Base, sigma_data: float) -> "fs.Method":
    """The method that a base stands for: itself, or one of this file by name, with options where it is a dict."""
    if isinstance(base, fs.Method):
        return base
    name, options = named_base(base)
    function = choose("method", sys.modules[__name__], name)
    shared: dict[str, Any] = {"sigma_data": sigma_data} if "sigma_data" in signature(function).parameters else {}
    return function(**shared, **options)
