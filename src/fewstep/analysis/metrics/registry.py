"""What can be measured: each statistic is prepared once for a reference and then measures draws of
samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fewstep.analysis.metrics import distances, kernels, manifolds, transport, twosample
from fewstep.analysis.metrics.moments import Statistics, moments
from fewstep.base.errors import UserError
from fewstep.base.randomness import permutation

_NEIGHBOURS, _BALLS, _PROJECTIONS = (
    3,
    5,
    128,
)  # k of precision and recall, k of density and coverage: as published


@dataclass(frozen=True)
class Reference:
    """Features `[N, ...]` of the training split and of held-out data; n: samples of a draw."""

    train: Tensor
    held_out: Tensor
    n: int

    def sized(self) -> Tensor:
        """n rows of the training split, for statistics of two sets of one size."""
        if len(self.train) < self.n:
            raise UserError(
                f"{len(self.train)} training samples for draws of {self.n}: choose smaller draws"
            )
        return self.train[permutation(0, "reference rows", 0, len(self.train))[: self.n]]


@dataclass(frozen=True)
class Statistic:
    """A prepared statistic: `measure` features of a draw `[n, ...]`, and the settings that its
    numbers depend on.
    """

    measure: Callable[[Tensor], float]
    settings: dict[str, Any] = field(default_factory=dict)


def frechet_to(statistics: Statistics) -> Statistic:
    return Statistic(lambda x: distances.frechet(x, statistics))


def _energy(reference: Reference) -> Statistic:
    spread = distances.spread(reference.train)
    return Statistic(lambda x: distances.energy(x, reference.train, spread))


def _nearest_ratio(reference: Reference) -> Statistic:
    if not len(reference.held_out):
        raise UserError(
            "nearest_ratio is relative to held-out data, and this data set has none: leave it out"
        )
    usual = distances.to_nearest(reference.held_out, reference.train)
    return Statistic(lambda x: distances.ratio(distances.to_nearest(x, reference.train), usual))


def _kid(reference: Reference) -> Statistic:
    within = kernels.within(reference.train, kernels.cubic)
    return Statistic(
        lambda x: kernels.kid(x, reference.train, within), {"kernel": "(x.y / F + 1)^3, all pairs"}
    )


def _mmd(reference: Reference) -> Statistic:
    bandwidth = kernels.median_distance(reference.train)
    kernel = kernels.gaussian(bandwidth)
    within = kernels.within(reference.train, kernel)
    settings = {
        "kernel": "gaussian",
        "bandwidth": bandwidth,
        "bandwidth_rule": "median distance in the reference",
    }
    return Statistic(lambda x: kernels.mmd2(x, reference.train, kernel, within), settings)


def _manifold(
    measure: Callable[[Tensor, Tensor, Tensor], float], k: int
) -> Callable[[Reference], Statistic]:
    def prepare(reference: Reference) -> Statistic:
        radii = manifolds.radii(reference.train, k)
        return Statistic(lambda x: measure(x, reference.train, radii), {"k": k})

    return prepare


def _recall(reference: Reference) -> Statistic:
    def measure(x: Tensor) -> float:
        return manifolds.recall(x, reference.train, manifolds.radii(x, _NEIGHBOURS))

    return Statistic(measure, {"k": _NEIGHBOURS})


def _sliced_w2(reference: Reference) -> Statistic:
    settings = {"projections": _PROJECTIONS, "projection_seed": 0}
    return Statistic(
        lambda x: transport.sliced_w2(x, reference.train, projections=_PROJECTIONS, seed=0),
        settings,
    )


def _w2(reference: Reference) -> Statistic:
    rows = reference.sized()
    return Statistic(lambda x: transport.w2(x, rows[: len(x)]), {"n_reference": reference.n})


def _c2st(reference: Reference) -> Statistic:
    rows = reference.sized()
    return Statistic(
        lambda x: twosample.c2st(x, rows[: len(x)]).accuracy,
        {"n_reference": reference.n, "test_seed": 0},
    )


STATISTICS: dict[str, Callable[[Reference], Statistic]] = {
    "frechet": lambda reference: frechet_to(moments(reference.train)),
    "energy": _energy,
    "nearest_ratio": _nearest_ratio,
    "kid": _kid,
    "mmd": _mmd,
    "precision": _manifold(manifolds.precision, _NEIGHBOURS),
    "recall": _recall,
    "density": _manifold(lambda x, y, radii: manifolds.density(x, y, radii, _BALLS), _BALLS),
    "coverage": _manifold(manifolds.coverage, _BALLS),
    "sliced_w2": _sliced_w2,
    "w2": _w2,
    "c2st": _c2st,
}
