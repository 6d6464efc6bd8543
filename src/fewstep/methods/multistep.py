"""MCM: multistep consistency models."""

from __future__ import annotations

from typing import Literal

from fewstep import core
from fewstep.base.errors import require

__all__ = ["mcm"]


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
    process: Literal["cosine", "discrete", "linear"] = "cosine",
    sigma_data: float = 0.5,
) -> core.Method:
    """Multistep consistency model: K segments, in each a consistency model that jumps to its start.

    E weight d(D(x_t, t), aim(x_t, jump(x_s, sg D(x_s, s), s -> a), t -> a)), s one of T steps below
    t. K = 1 is a consistency model, K = T diffusion.
    Source: MCM, arXiv 2403.06807, algorithm 1 and appendix A.

    Args:
        K: segments, and steps of its sampler
        steps: steps of the teacher over the whole time at first
        steps_end: at last
        annealed: share of the run over which they grow
        pairs: x_s from the data (training), or a teacher's aDDIM or DDIM move (distillation)
        eta: share of ||x0 - D_teacher||^2 that aDDIM takes for the variance
        guidance: g of the teacher, D_c + g (D_c - D_u), 0 is none
        distance: huber of the root mean square, or squared
        c: constant of huber
        space: v compares errors over sigma; x0 with snr_plus_one is the paper's own formula
        weight: factor of the distance
        pools: 2x2 averages of pictures that are compared as well (ImageNet-128: 1)
        shift: of the cosine schedule's log-SNR at t = 0 and t = 1
        process: cosine; or that of a network of others, so that the segments end at its own steps:
            discrete, Stable Diffusion's 1000, or linear, of flow matching
        sigma_data: standard deviation of the data, for the preconditioning; 1 is v-prediction
    """
    require(K >= 1, "K", K, "at least 1 segment")
    on = core.process.by_name(process, shift)
    inner = core.spaces.by_name(space)
    number = core.curricula.Exponential(steps, steps_end, annealed)
    return core.Method(
        process=on,
        times=core.times.Segments(segments=K, steps=number, end=on.t_max),
        coupling=core.couplings.by_name(pairs, eta, guidance),
        target=core.targets.Student(),
        space=core.spaces.Multiscale(pools, inner) if pools else inner,
        distance=core.distances.rms_huber(c) if distance == "huber" else core.distances.mse,
        weight=core.weights.by_name(weight, sigma_data),
        scaling=core.scalings.Edm(sigma_data=sigma_data),
        sampler=core.sampling.segments(K),
    )
