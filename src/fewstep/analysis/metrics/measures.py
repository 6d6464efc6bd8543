"""How each metric measures: its formula made ready for a reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from fewstep.analysis.metrics.detector import Detection, detect
from fewstep.analysis.metrics.metric import Measure, Reference
from fewstep.base.errors import UserError
from fewstep.statistics import (
    distances,
    kernels,
    manifolds,
    marginals,
    structure,
    transport,
    twosample,
)
from fewstep.statistics.clues import MOST_ROWS
from fewstep.statistics.intervals import Estimate
from fewstep.statistics.moments import Statistics, moments

# As published: k of precision and recall, k of density and coverage.
NEIGHBOURS = 3
BALLS = 5
PROJECTIONS = 128


def frechet(reference: Reference) -> Measure:
    return frechet_from(moments(reference.train))


def frechet_from(statistics: Statistics) -> Measure:
    # Of few rows its bias is larger than what samples and data differ by, and falls with the spread
    # of the rows: so groups of them would hide samples that are too narrow.
    return Measure(lambda x: distances.frechet(x, statistics), p_value=_of_rows)


def energy(reference: Reference) -> Measure:
    spread = distances.spread(reference.train)
    return Measure(lambda x: distances.energy(x, reference.train, spread), p_value=_of_rows)


def _of_rows(x: Tensor, y: Tensor, pairs: bool) -> float:
    """The p-value of the energy distance in the metric's own space."""
    return twosample.energy_p_value(x, y, pairs=pairs)


def nearest_ratio(reference: Reference) -> Measure:
    if not len(reference.held_out):
        raise UserError(
            "nearest_ratio is relative to held-out data, and this data set has none: leave it out"
        )
    usual = distances.to_nearest(reference.held_out, reference.train)
    return Measure(lambda x: distances.ratio(distances.to_nearest(x, reference.train), usual))


def kid(reference: Reference) -> Measure:
    within = kernels.within(reference.train, kernels.cubic)
    settings = {"kernel": "(x.y / F + 1)^3, all pairs"}
    return Measure(lambda x: kernels.kid(x, reference.train, within), settings)


def mmd(reference: Reference) -> Measure:
    bandwidth = kernels.median_distance(reference.train)
    kernel = kernels.gaussian(bandwidth)
    within = kernels.within(reference.train, kernel)
    settings = {
        "kernel": "gaussian",
        "bandwidth": bandwidth,
        "bandwidth_rule": "median distance in the reference",
    }
    return Measure(lambda x: kernels.mmd2(x, reference.train, kernel, within), settings)


def by_balls(
    share: Callable[[Tensor, Tensor, Tensor], float], k: int
) -> Callable[[Reference], Measure]:
    """`share(x, train, radii)` with the radii of the training samples' balls."""

    def prepare(reference: Reference) -> Measure:
        radii = manifolds.radii(reference.train, k)
        return Measure(lambda x: share(x, reference.train, radii), {"k": k})

    return prepare


def recall(reference: Reference) -> Measure:
    def value(x: Tensor) -> float:
        return manifolds.recall(x, reference.train, manifolds.radii(x, NEIGHBOURS))

    return Measure(value, {"k": NEIGHBOURS})


def sliced_w2(reference: Reference) -> Measure:
    def value(x: Tensor) -> float:
        return transport.sliced_w2(x, reference.train, projections=PROJECTIONS, seed=0)

    return Measure(value, {"projections": PROJECTIONS, "projection_seed": 0})


def at_one_size(
    distance: Callable[[Tensor, Tensor], float],
    p_value: Callable[[Tensor, Tensor, bool], float] | None = None,
    **settings: Any,
) -> Callable[[Reference], Measure]:
    """`distance(x, y)` with as many training samples y as the draw x has."""

    def prepare(reference: Reference) -> Measure:
        rows = reference.draw_of_train()
        facts = {"n_reference": reference.n, **settings}
        return Measure(lambda x: distance(x, rows[: len(x)]), facts, p_value=p_value)

    return prepare


def of_kind(
    statistic: Callable[[Tensor], structure.Compare], *, by_variable: bool = False
) -> Callable[[Reference], Measure]:
    """A statistic of values; by_variable: of `[N, C, ...]`, the variables first."""

    def prepare(reference: Reference) -> Measure:
        arrange = reference.layout.by_variable if by_variable else lambda x: x
        compare = statistic(arrange(reference.train))
        return Measure(lambda x: compare(arrange(x)))

    return prepare


def categories(reference: Reference) -> Measure:
    return Measure(marginals.categories(reference.train, reference.layout.categories))


def detection(reference: Reference) -> Measure:
    if not len(reference.held_out):
        raise UserError(
            "detection is tested on held-out data, and this data set has none: leave it out"
        )
    blocks = [block[:MOST_ROWS] for block in reference.held_out.split(reference.n)]
    error = 0.5 / math.sqrt(sum(map(len, blocks)))
    floor = Estimate(0.5, error, (0.5 - 1.96 * error, 0.5 + 1.96 * error))

    def tell(learn: Sequence[Tensor], draws: Sequence[Tensor]) -> Detection:
        return detect(learn, reference.train, draws, blocks)

    def of_one(x: Tensor) -> float:
        half = len(x) // 2
        return tell([x[:half]], [x[half:]]).accuracy[0]

    return Measure(of_one, detect=tell, floor=floor)


def accuracy(x: Tensor, y: Tensor) -> float:
    return twosample.c2st(x, y).accuracy


def c2st_p_value(x: Tensor, y: Tensor, pairs: bool) -> float:
    n = min(len(x), len(y))
    return twosample.c2st(x[:n], y[:n]).p_value
