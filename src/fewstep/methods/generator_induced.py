"""GC: training points moved to the model's own endpoints."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from fewstep import core
from fewstep.base.errors import require
from fewstep.base.options import Base
from fewstep.methods.base import method_of

__all__ = ["gc"]


def gc(
    *,
    base: Base = "ict",
    share: float = 0.5,
    share_end: float | None = None,
    predictor: Literal["ema", "student", "teacher"] = "ema",
    bound: float = 3.0,
    sigma_data: float = 0.5,
) -> core.Method:
    """Generator-induced coupling: in a share of the rows x_t and x_r are mixed from x0 = D(x_r, r).

    Source: GC, arXiv 2406.09570, eq. 13-15 and 21: iCT with mu = 0.5 and the average as predictor.

    Args:
        base: the method whose coupling it is
        share: probability of a generated row, the paper's mu (its code's mixing value is 1 - mu)
        share_end: what it changes to, linearly over the run; left out it stays
        predictor: whose endpoints they are: ema, student, or teacher, a trained consistency model
        bound: endpoints are clipped to this many standard deviations of the data, at least to 1
        sigma_data: standard deviation of the data, for the bound and for a base of ours
    """
    base = method_of(base, sigma_data)
    _check_gc(base, share, share if share_end is None else share_end, bound)
    fits = predictor != "teacher" or "teacher" not in base.needs
    require(fits, "predictor", predictor, "ema or student: the base's pairs ask the one teacher")
    mu = share if share_end is None else core.curricula.Ramp(share, share_end)
    network = core.targets.retarget(base.target, core.targets.by_name(predictor))
    # Data about [-1, 1] may lie far from 0.
    b = max(bound * sigma_data, 1.0)
    return replace(base, coupling=core.couplings.GeneratorInduced(mu, network, b, base.coupling))


def _check_gc(base: core.Method, share: float, share_end: float, bound: float) -> None:
    """Raises UserError for a base that GC cannot change, and for options out of range."""
    for name, value in (("share", share), ("share_end", share_end)):
        require(0 <= value <= 1, name, value, "the probability of a generated row, in 0 .. 1")
    require(bound > 0, "bound", bound, "above 0; 1e30 for none")
    own = core.sampling.sampler(base.sampler)
    fits = not own.only or own.default == 1
    require(fits, "base", own.default, "a method whose students jump to the data: K = 1")
    fits = not isinstance(base.coupling, core.couplings.GeneratorInduced)
    expected = "pairs of another kind, since those are chosen alike"
    require(fits, "base", type(base.coupling).__name__, expected)
    expected = "a method with a target: others have no pairs"
    require(base.target is not None, "base", type(base.times).__name__, expected)
