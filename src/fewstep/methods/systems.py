"""Methods that change where the pairs, the targets or the ends are: GC, TCM, MCM, Direct CM."""

from dataclasses import replace
from inspect import signature
from typing import Any, Literal

import fewstep as fs
from fewstep.config import Base, checked_options, choose, named_base
from fewstep.errors import UserError, require


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
    _check_gc(base, share, share if share_end is None else share_end, bound)
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
    before = _ratio_map(base, t_prime, rho, ratio)
    law = fs.times.LogStudentT(mean=mean, std=std, nu=nu, low=t_prime, high=base.process.t_max)
    times = replace(before, law=law, held=before.ratio(1.0) if ratio is None else ratio)
    return replace(
        base,
        coupling=fs.couplings.truncated(base.coupling, t_prime),
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
    require(K >= 1, "K", K, "at least 1 segment")
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
    source: Literal["teacher", "cache"] = "teacher",
    reuse: int = 1,
    reweight: bool = True,
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
        source: solutions by a teacher, or out of data that `trajectories` wrote (solver and guidance are then theirs)
        reuse: consecutive rows that share a trajectory, each at another of its points; divides block
        reweight: weigh rows that share trajectories so that every level counts as much, as without them
        guidance: g of the teacher, D_c + g (D_c - D_u), 0 is none; the paper's w is 1 + g
        c: constant of a pseudo-Huber of each element, 0 is the squared error
        process: edm with the Karras grid, cosine, or discrete, the 1000 steps of Stable Diffusion
        sigma_data: standard deviation of the data, for the preconditioning
    """
    _check_direct(n, c, goal, own=reuse == 1 and source == "teacher")
    on, cached = fs.process.named(process), source == "cache"
    grid = tuple(fs.sampling.down_the_noise(on, n, ()))
    levels, start = fs.times.Levels(grid=grid, first=starts == "highest"), grid[0] if starts == "highest" else None
    pairs = fs.couplings.solved(grid, solver, guidance=guidance, reuse=reuse, start=start, cached=cached)
    times = levels if reuse == 1 else fs.times.Shared(levels=levels, size=reuse, reweight=reweight)
    return fs.Method(
        process=on,
        times=fs.times.AtAnchor(times=times) if goal == "solution" else times,
        coupling=pairs if goal == "solution" else fs.couplings.named(solver, guidance=guidance),
        target=None if goal == "solution" else fs.targets.Student(),
        distance=fs.distances.element_huber(c),
        scaling=fs.scalings.Edm(sigma_data=sigma_data),
    )


def _check_gc(base: "fs.Method", share: float, share_end: float, bound: float) -> None:
    """Raises the UserError for what GC cannot stand on."""
    for name, value in (("share", share), ("share_end", share_end)):
        require(0 <= value <= 1, name, value, "the probability of a generated row, in 0 .. 1")
    require(bound > 0, "bound", bound, "above 0; 1e30 for none")
    own = fs.sampling.sampler(base.sampler)
    require(not own.only or own.default == 1, "base", own.default, "a method whose students jump to the data: K = 1")
    known = isinstance(base.coupling, fs.couplings.GeneratorInduced)
    require(not known, "base", type(base.coupling).__name__, "pairs of another kind, since those are chosen alike")
    require(base.target is not None, "base", type(base.times).__name__, "a method with a target: others have no pairs")


def _ratio_map(base: "fs.Method", t_prime: float, rho: float, ratio: float | None) -> "fs.times.RatioMap":
    """The base's times. Raises the UserError for what has no second stage."""
    if not isinstance(base.times, fs.times.RatioMap):
        raise UserError(f"tcm: base with {type(base.times).__name__} times: expected a continuous law of t, as of ect")
    high = base.process.t_max
    require(0 < t_prime < high, "t_prime", t_prime, f"in 0 .. {high:g}, the highest time")
    require(0 <= rho < 1, "rho", rho, "a share in 0 .. 1, below 1")
    require(ratio is None or 0 <= ratio < 1, "ratio", ratio, "in 0 .. 1, below 1")
    return base.times


def _check_direct(n: int, c: float, goal: str, own: bool) -> None:
    """Raises the UserError for what has no grid or no student's goal; own: a row's trajectory is its own."""
    require(n >= 1, "n", n, "at least 1 interval")
    require(c >= 0, "c", c, "0 or more")
    require(own or goal == "solution", "goal", goal, "solution, where trajectories are shared or cached")


def _made(base: Base, sigma_data: float) -> "fs.Method":
    """The method that a base stands for: itself, or one of ours by name, with options where it is a dict."""
    if isinstance(base, fs.Method):
        return base
    name, options = named_base(base)
    function = choose("method", fs.methods, name)
    options = checked_options("method", function, options)
    shared: dict[str, Any] = {"sigma_data": sigma_data} if "sigma_data" in signature(function).parameters else {}
    return function(**shared, **options)
