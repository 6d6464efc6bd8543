"""TCM: a second stage that trains the times from t_prime on."""

from __future__ import annotations

from dataclasses import replace

from fewstep import core
from fewstep.base.errors import UserError, require
from fewstep.base.options import Base
from fewstep.methods.base import method_of

__all__ = ["tcm"]


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
) -> core.Method:
    """Truncated consistency model: a second stage trains t >= t_prime, the first is frozen below.

    E over t > t_prime of the base's loss + w_b times that at t = t_prime; t is log-Student-t on
    [t_prime, t_max].
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
        sigma_data: standard deviation of the data, for a base of ours
    """
    base = method_of(base, sigma_data)
    first = _ratio_map(base, t_prime, rho, ratio)
    law = core.times.LogStudentT(mean=mean, std=std, nu=nu, low=t_prime, high=base.process.t_max)
    ratio = first.ratio(1.0) if ratio is None else ratio
    above = replace(first, law=law, fixed_ratio=ratio)
    times = core.times.Atom(times=above, at_time=t_prime, share=rho, weight=w_b, realised=realised)
    return replace(
        base,
        coupling=core.couplings.truncated(base.coupling, t_prime),
        times=times,
        target=core.targets.Truncated(t_prime, base.target or core.targets.Student()),
        later_sigmas=(max(t_prime, 1.0),),
        trained_from=t_prime,
        before=base,
    )


def _ratio_map(
    base: core.Method, t_prime: float, rho: float, ratio: float | None
) -> core.times.RatioMap:
    """The base's times. Raises UserError for a base without a second stage."""
    if not isinstance(base.times, core.times.RatioMap):
        raise UserError(
            f"tcm: base with {type(base.times).__name__} times: expected a continuous law of t, as"
            " of ect; of gc, --method.base.base ect"
        )
    high = base.process.t_max
    require(0 < t_prime < high, "t_prime", t_prime, f"in 0 .. {high:g}, the highest time")
    require(0 <= rho < 1, "rho", rho, "a share in 0 .. 1, below 1")
    require(ratio is None or 0 <= ratio < 1, "ratio", ratio, "in 0 .. 1, below 1")
    return base.times
