"""TCM: a second stage that trains the times from t_prime on."""

from __future__ import annotations

import logging
from dataclasses import replace

from fewstep import core
from fewstep.base.errors import UserError, require
from fewstep.base.options import Base
from fewstep.methods.base import method_of

__all__ = ["tcm"]

log = logging.getLogger("fewstep")


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
    """Truncated consistency model: a last stage trains t >= t_prime, the one before stays below.

    E over t > t_prime of the base's loss + w_b times that at t = t_prime; t is log-Student-t on
    [t_prime, t_max].
    Source: TCM, arXiv 2410.14895, eq. 5-10 and its code's README.

    Args:
        base: the method of the stage before, with a continuous law of t; tcm for three stages
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
    above = _in_reach(base, replace(first, law=law, fixed_ratio=ratio), t_prime)
    times = core.times.Atom(times=above, at_time=t_prime, share=rho, weight=w_b, realised=realised)
    return replace(
        base,
        coupling=core.couplings.truncated(base.coupling, t_prime),
        times=times,
        target=core.targets.truncated(t_prime, base.target),
        later_sigmas=(max(t_prime, 1.0),),
        trained_from=t_prime,
        before=base,
    )


def _ratio_map(
    base: core.Method, t_prime: float, rho: float, ratio: float | None
) -> core.times.RatioMap:
    """The base's times. Raises UserError for a base without a second stage."""
    times = base.times.times if isinstance(base.times, core.times.Atom) else base.times
    if not isinstance(times, core.times.RatioMap):
        raise UserError(
            f"tcm: base with {type(base.times).__name__} times: expected a continuous law of t, as"
            " of ect; of gc, --method.base.base ect"
        )
    high = base.process.t_max
    low = base.trained_from
    expected = f"in {low:g} .. {high:g}, from where the base is trained to the highest time"
    require(low < t_prime < high, "t_prime", t_prime, expected)
    require(0 <= rho < 1, "rho", rho, "a share in 0 .. 1, below 1")
    if rho == 0:
        log.warning(
            "fewstep: rho = 0: no row ties the student to the stage before: it may collapse to a"
            " constant, whose loss is 0 too; rho = 0.25 is the paper's"
        )
    require(ratio is None or 0 <= ratio < 1, "ratio", ratio, "in 0 .. 1, below 1")
    return times


def _in_reach(base: core.Method, above: core.times.RatioMap, t_prime: float) -> core.times.RatioMap:
    """The times. Raises UserError where t_prime's neighbour is one that the base never saw."""
    low = float(above.at(t_prime, 1.0).r)
    expected = f"one whose r at t_prime={t_prime:g} is {base.trained_from:g} or more, not {low:.3g}"
    require(low >= base.trained_from, "ratio", above.fixed_ratio, expected)
    return above
