"""Distillation in rounds, each by the student of the round before: PD and TRACT."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from fewstep import core
from fewstep.base.errors import require

__all__ = ["pd", "tract"]


def pd(
    *,
    steps: int = 512,
    last: int = 1,
    pairs: Literal["ddim", "addim"] = "ddim",
    eta: float = 0.75,
    weight: Literal["truncated_snr", "snr_plus_one", "one"] = "truncated_snr",
    process: Literal["cosine", "edm"] = "cosine",
    sigma_data: float = 0.5,
) -> core.Method:
    """Progressive distillation: E weight ||D(x_t, t) - aim(x_t, two moves of the teacher)||^2 / D.

    A stage for each halving: a student of n steps learns to make two steps of a teacher of 2n, the
    run's teacher at first, then the student before.
    Source: progressive distillation, arXiv 2202.00512, algorithm 2; with aDDIM MCM, arXiv
    2403.06807, table 3.

    Args:
        steps: of the first student, half of the teacher's; a power of 2 times `last`
        last: steps of the last student
        pairs: the teacher's moves, DDIM or aDDIM
        eta: share of ||x0 - D_teacher||^2 that aDDIM takes for the variance
        weight: truncated_snr = max(SNR, 1), snr_plus_one = SNR + 1, one
        process: cosine with even steps, or edm with the Karras grid
        sigma_data: standard deviation of the data, for the preconditioning; 1 is v-prediction
    """
    method = None
    for n in _halvings(steps, last):
        method = _halving(n, method, pairs, eta, weight, process, sigma_data)
    assert method is not None
    return method


def _halvings(steps: int, last: int) -> list[int]:
    """The steps of each stage's student. Raises UserError where they do not halve down to last."""
    count = (steps // max(last, 1)).bit_length() - 1
    fits = last >= 1 and steps == last << max(count, 0)
    require(fits, "steps", steps, f"a power of 2 times last={last}, which is at least 1")
    return [steps >> k for k in range(count + 1)]


def _halving(
    n: int,
    before: core.Method | None,
    pairs: str,
    eta: float,
    weight: str,
    process: str,
    sigma_data: float,
) -> core.Method:
    """The stage whose student of n steps learns from the one before, or from the run's teacher."""
    noising = core.process.by_name(process)
    grid = tuple(core.sampling.nested_grid(noising, 2 * n))
    moves = core.solvers.along(core.solvers.by_name(pairs), grid)
    share = eta if pairs == "addim" else None
    return core.Method(
        process=noising,
        times=core.times.AtNeighbour(times=core.times.Levels(grid=grid[::2])),
        coupling=core.couplings.Teacher(moves, share, network=core.targets.before(before)),
        weight=core.weights.by_name(weight, sigma_data),
        scaling=core.scalings.Edm(sigma_data=sigma_data),
        sampler=core.sampling.segments(n),
        before=before,
    )


def tract(
    *,
    steps: tuple[int, ...] = (1024, 32, 1),
    mu: float = 0.5,
    weight: Literal["truncated_snr", "snr_plus_one", "one"] = "truncated_snr",
    sigma_data: float = 0.5,
) -> core.Method:
    """TRACT: E weight ||D(x_t, t) - aim(x_t, jump(x_s, D_ema(x_s, s), s -> a))||^2 / D.

    x_s is one DDIM step of the teacher below x_t, a the start of t's segment; a stage for each
    phase, whose segments are the next one's steps.
    Source: TRACT, arXiv 2303.04248, section 3, and its code.

    Args:
        steps: of the first teacher, then of each phase's student; each divides the one before
        mu: share of itself that the self-teacher, an average of the student, keeps
        weight: truncated_snr = max(SNR, 1), snr_plus_one = SNR + 1, one
        sigma_data: standard deviation of the data, for the preconditioning; 1 is v-prediction
    """
    method = None
    for fine, n in _phases(steps):
        method = core.Method(
            process=core.process.cosine(),
            times=core.times.Segments(segments=n, steps=core.curricula.Fixed(fine)),
            coupling=core.couplings.Teacher(core.solvers.ddim, network=core.targets.before(method)),
            target=core.targets.Ema(core.curricula.FixedRate(mu)),
            weight=core.weights.by_name(weight, sigma_data),
            scaling=core.scalings.Edm(sigma_data=sigma_data),
            sampler=core.sampling.segments(n),
            before=method,
        )
    assert method is not None
    return method


def _phases(steps: tuple[int, ...]) -> list[tuple[int, int]]:
    """(steps of the teacher, of the student) by phase. Raises UserError where one is no divisor."""
    fits = len(steps) > 1 and all(a > b > 0 and a % b == 0 for a, b in pairwise(steps))
    require(fits, "steps", steps, "two or more numbers, each a divisor of the one before")
    return list(pairwise(steps))
