"""PCM: phased consistency models."""

from __future__ import annotations

from typing import Literal

from fewstep import core
from fewstep.base.errors import require

__all__ = ["pcm"]


def pcm(
    *,
    K: int = 4,  # noqa: N803 - as mcm's
    steps: int = 50,
    pairs: Literal["ddim", "data", "euler", "heun"] = "ddim",
    mu: float = 0.95,
    guidance: float = 0.0,
    c: float = 1e-3,
    sampler: Literal["tcd", "ddim"] = "tcd",
    process: Literal["cosine", "discrete", "linear"] = "cosine",
    sigma_data: float = 0.5,
) -> core.Method:
    """Phased consistency model: K phases, in each a consistency model, compared at its start.

    E d(jump(x_t, D(x_t, t), t -> a), jump(x_r, sg D_ema(x_r, r), r -> a)), x_r a step of the
    teacher. Without the paper's adversarial loss.
    Source: PCM, arXiv 2405.18407, eq. 4 and section 3; sampled by TCD, arXiv 2402.19159, with fresh
    noise, or as in the paper without any.

    Args:
        K: phases, and steps of its sampler
        steps: even steps of the teacher over the whole time
        pairs: x_r by a teacher's move, or from the data and noise of x_t
        mu: share of itself that the target's average keeps
        guidance: of the teacher, D_c + g (D_c - D_u), 0 is none
        c: constant of a pseudo-Huber of each element, 0 is the squared error
        sampler: tcd adds noise in each step, ddim does not
        process: cosine; or that of a network of others: discrete, Stable Diffusion's, or linear
        sigma_data: standard deviation of the data, for the preconditioning; 1 is v-prediction
    """
    require(K >= 1, "K", K, "at least 1 phase")
    on = core.process.by_name(process)
    return core.Method(
        process=on,
        times=core.times.Segments(segments=K, steps=core.curricula.Fixed(steps), end=on.t_max),
        coupling=core.couplings.by_name(pairs, guidance=guidance),
        target=core.targets.Ema(core.curricula.FixedRate(mu)),
        space=core.spaces.end,
        distance=core.distances.element_huber(c),
        scaling=core.scalings.Edm(sigma_data=sigma_data),
        sampler=core.sampling.segments(K, sampler),
    )
