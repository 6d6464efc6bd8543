"""Students of a teacher's trajectories: CTM, CMT and TBCM."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from fewstep import core
from fewstep.methods.consistency import ect
from fewstep.methods.continuous import scd

__all__ = ["cmt", "ctm", "tbcm"]


def ctm(
    *,
    n: int = 18,
    solver: Literal["heun", "ddim", "euler"] = "heun",
    mu: float = 0.999,
    distance: Literal["l2", "l1", "lpips"] = "l2",
    diffusion: float = 1.0,
    guidance: float = 0.0,
    sigma_data: float = 0.5,
) -> core.Method:
    """Consistency trajectory model: E d(end(X_{t->a}(x_t)), end(sg X_{r->a}(x_r))) + denoising.

    x_r is the teacher's move t -> r, and end(x) the average's jump a -> 0, so that all ends are
    compared as data. Without the paper's adversarial loss; and its weight of the denoising loss
    follows the ratio of two gradients at the last layer, which no loss of rows can know.
    Source: CTM, arXiv 2310.02279, eq. 6-7 and algorithm 1; CIFAR-10: 18 levels, mu 0.999.

    Args:
        n: intervals of the Karras grid, and of the teacher's moves along it
        solver: the teacher's move over one of them
        mu: share of itself that the average keeps, which is target and carries to the data
        distance: of data; the paper's is lpips, of pictures
        diffusion: weight of the denoising loss on the diagonal of the same rows
        guidance: g of the teacher, D_c + g (D_c - D_u), 0 is none
        sigma_data: standard deviation of the data, for EDM's weight and the preconditioning
    """
    on, average = core.process.edm(), core.targets.Ema(core.curricula.FixedRate(mu))
    grid = tuple(core.sampling.solver_grid(on, n, ()))
    move = core.solvers.along(core.solvers.by_name(solver), grid)
    weight = core.weights.Edm(sigma_data)
    return core.Method(
        times=core.times.Spans(grid=grid),
        coupling=core.couplings.Teacher(move, guidance=guidance),
        target=average,
        space=core.spaces.AtData(average),
        distance=core.distances.by_name(distance),
        terms=(core.terms.denoising(core.weights.Scaled(weight, diffusion)),),
        scaling=core.scalings.Edm(sigma_data=sigma_data),
        sampler="ctm",
    )


def cmt(
    *,
    n: int = 16,
    reuse: int = 16,
    solver: Literal["heun", "ddim", "euler"] = "heun",
    distance: Literal["l2", "l1", "lpips"] = "l2",
    guidance: float = 0.0,
    ratio: float = 0.996,
    p_mean: float = -1.1,
    p_std: float = 2.0,
    c: float = 0.0,
    sigma_data: float = 0.5,
) -> core.Method:
    """Consistency mid-training: regression on the teacher's trajectories from the prior, then ECT.

    First E d(D(x_t, t), the end of its trajectory) at the points of each; then `ect` from that
    student, with the gap of its late stages from the start. A run's `split` is the first's share.
    Source: CMT, arXiv 2509.24526, section 3, on CIFAR-10 16 points of each trajectory.

    Args:
        n: moves of the teacher from the prior to the data
        reuse: consecutive rows that share a trajectory, each at a point of its own; divides block
        solver: the teacher's move
        distance: of the first stage; the paper's is lpips, of pictures
        guidance: g of the teacher, D_c + g (D_c - D_u), 0 is none
        ratio: r / t of the second stage, for large t
        p_mean: mean of ln t of the second stage
        p_std: its standard deviation
        c: pseudo-Huber constant of the second stage, 0 is the L2 norm
        sigma_data: standard deviation of the data, for the preconditioning
    """
    grid = tuple(core.sampling.solver_grid(core.process.edm(), n, ()))
    move = core.solvers.along(core.solvers.by_name(solver), grid)
    points = core.times.Shared(levels=core.times.Levels(grid=grid, first=True), size=reuse)
    first = core.Method(
        times=core.times.AtAnchor(times=points),
        coupling=core.couplings.Trajectory(move, reuse, grid[0], guidance, prior=True),
        distance=core.distances.by_name(distance),
        scaling=core.scalings.Edm(sigma_data=sigma_data),
    )
    law = core.times.LogNormal(mean=p_mean, std=p_std)
    times = core.times.RatioMap(law=law, fixed_ratio=ratio)
    return replace(ect(c=c, sigma_data=sigma_data), times=times, before=first)


def tbcm(
    *,
    points: int = 16,
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
    """Trajectory-backward consistency: `scd` on points of the teacher's own trajectories.

    They start from the prior, so no data is needed. `points` consecutive rows are one trajectory,
    at a time in each stratum of the law.
    Source: TBCM, arXiv 2511.20410, section 3.

    Args:
        points: of a trajectory, as many consecutive rows; divides block
        guidance: g of the teacher, D_c + g (D_c - D_u), 0 is none
        p_mean: mean of the log noise level, ln(sigma_data tan t)
        p_std: its standard deviation
        warmup: share of the run over which the derivative's part of the tangent grows to 1
        c: g / (||g|| + c)
        norm: of the sample, its root mean square, or none for g itself
        derivative: jvp, central differences, or auto, which tries them before the first step
        label: the noise label: log = ln(level) / 4, as EDM's diffusion weights have; time = t
        balance: learned = e^-u and u, u(t) trained beside the student (the paper's w = -u); or none
        level_max: the highest noise level, where trajectories start
        sigma_data: standard deviation of the data, for process and preconditioning
    """
    base = scd(
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
    times = core.times.Strata(times=base.times, size=points)
    return replace(base, times=times, coupling=core.couplings.Walk(points, guidance))
