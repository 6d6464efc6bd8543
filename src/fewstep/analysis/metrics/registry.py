"""The table of metrics: one row says everything the package knows of a metric.

A new metric is a new row of `METRICS`. `eval`, `frontier` and `--metrics help` read the row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from fewstep.analysis.metrics import (
    distances,
    kernels,
    manifolds,
    marginals,
    structure,
    transport,
    twosample,
)
from fewstep.analysis.metrics.clues import MOST_ROWS
from fewstep.analysis.metrics.detector import Detection, detect
from fewstep.analysis.metrics.layout import CATEGORIES, COLUMNS, ORDERED, SET, TABLE
from fewstep.analysis.metrics.metric import CLUES, VALUES, Measure, Metric, Reference
from fewstep.analysis.metrics.moments import Statistics, moments
from fewstep.analysis.metrics.protocol import Estimate
from fewstep.base.errors import UserError

# As published: k of precision and recall, k of density and coverage.
_NEIGHBOURS = 3
_BALLS = 5
_PROJECTIONS = 128


def _frechet(statistics: Statistics) -> Measure:
    return Measure(
        lambda x: distances.frechet(x, statistics),
        of_few=lambda x: distances.frechet_of_few(x, statistics),
    )


def _energy(reference: Reference) -> Measure:
    spread = distances.spread(reference.train)
    return Measure(
        lambda x: distances.energy(x, reference.train, spread),
        p_value=lambda x, y, pairs: twosample.energy_p_value(x, y, pairs=pairs),
    )


def _nearest_ratio(reference: Reference) -> Measure:
    if not len(reference.held_out):
        raise UserError(
            "nearest_ratio is relative to held-out data, and this data set has none: leave it out"
        )
    usual = distances.to_nearest(reference.held_out, reference.train)
    return Measure(lambda x: distances.ratio(distances.to_nearest(x, reference.train), usual))


def _kid(reference: Reference) -> Measure:
    within = kernels.within(reference.train, kernels.cubic)
    settings = {"kernel": "(x.y / F + 1)^3, all pairs"}
    return Measure(lambda x: kernels.kid(x, reference.train, within), settings)


def _mmd(reference: Reference) -> Measure:
    bandwidth = kernels.median_distance(reference.train)
    kernel = kernels.gaussian(bandwidth)
    within = kernels.within(reference.train, kernel)
    settings = {
        "kernel": "gaussian",
        "bandwidth": bandwidth,
        "bandwidth_rule": "median distance in the reference",
    }
    return Measure(lambda x: kernels.mmd2(x, reference.train, kernel, within), settings)


def _by_balls(
    share: Callable[[Tensor, Tensor, Tensor], float], k: int
) -> Callable[[Reference], Measure]:
    """`share(x, train, radii)` with the radii of the training samples' balls."""

    def prepare(reference: Reference) -> Measure:
        radii = manifolds.radii(reference.train, k)
        return Measure(lambda x: share(x, reference.train, radii), {"k": k})

    return prepare


def _recall(reference: Reference) -> Measure:
    def value(x: Tensor) -> float:
        return manifolds.recall(x, reference.train, manifolds.radii(x, _NEIGHBOURS))

    return Measure(value, {"k": _NEIGHBOURS})


def _density(x: Tensor, y: Tensor, radii: Tensor) -> float:
    return manifolds.density(x, y, radii, _BALLS)


def _sliced_w2(reference: Reference) -> Measure:
    def value(x: Tensor) -> float:
        return transport.sliced_w2(x, reference.train, projections=_PROJECTIONS, seed=0)

    return Measure(value, {"projections": _PROJECTIONS, "projection_seed": 0})


def _at_one_size(
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


def _of_kind(
    statistic: Callable[[Tensor], structure.Compare], *, by_variable: bool = False
) -> Callable[[Reference], Measure]:
    """A statistic of values; by_variable: of `[N, C, ...]`, the variables first."""

    def prepare(reference: Reference) -> Measure:
        arrange = reference.layout.by_variable if by_variable else lambda x: x
        compare = statistic(arrange(reference.train))
        return Measure(lambda x: compare(arrange(x)))

    return prepare


def _categories(reference: Reference) -> Measure:
    return Measure(marginals.categories(reference.train, reference.layout.categories))


def _detection(reference: Reference) -> Measure:
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


def _accuracy(x: Tensor, y: Tensor) -> float:
    return twosample.c2st(x, y).accuracy


def _c2st_p_value(x: Tensor, y: Tensor, pairs: bool) -> float:
    n = min(len(x), len(y))
    return twosample.c2st(x[:n], y[:n]).p_value


_ROWS = (
    Metric(
        name="frechet",
        meaning="squared Fréchet distance of the Gaussians with both sets' moments; falls with n",
        prepare=lambda reference: _frechet(moments(reference.train)),
        from_moments=_frechet,
        default="all",
        has_published_name=True,
        shows_ratio=True,
    ),
    Metric(
        name="energy",
        meaning="energy distance, unbiased at every n",
        prepare=_energy,
        default="joint",
        has_short_name=True,
    ),
    Metric(
        name="nearest_ratio",
        meaning="distance to the nearest training sample, over that of held-out data; below 1 is"
        " memorisation",
        prepare=_nearest_ratio,
        better="one",
        default="pixel",
        has_short_name=True,
        shows_ratio=True,
    ),
    Metric(
        name="kid",
        meaning="kernel distance with the cubic kernel of KID, unbiased at every n",
        prepare=_kid,
    ),
    Metric(
        name="mmd",
        meaning="kernel distance with a Gaussian kernel of the median width, unbiased at every n",
        prepare=_mmd,
    ),
    Metric(
        name="precision",
        meaning=f"share of samples near the training data (k = {_NEIGHBOURS}); depends on n",
        prepare=_by_balls(manifolds.precision, _NEIGHBOURS),
        better="higher",
    ),
    Metric(
        name="recall",
        meaning=f"share of training data near the samples (k = {_NEIGHBOURS}); depends on n",
        prepare=_recall,
        better="higher",
    ),
    Metric(
        name="density",
        meaning=f"how densely training data surrounds the samples (k = {_BALLS}); depends on n",
        prepare=_by_balls(_density, _BALLS),
        better="higher",
    ),
    Metric(
        name="coverage",
        meaning=f"share of training data with a sample nearby (k = {_BALLS}); depends on n",
        prepare=_by_balls(manifolds.coverage, _BALLS),
        better="higher",
    ),
    Metric(
        name="sliced_w2",
        meaning=f"Wasserstein-2 distance over {_PROJECTIONS} directions, as a length; falls with n",
        prepare=_sliced_w2,
        shows_ratio=True,
    ),
    Metric(
        name="w2",
        meaning="exact Wasserstein-2 distance of up to 5000 samples, as a length; falls with n;"
        " needs scipy",
        prepare=_at_one_size(transport.w2),
        shows_ratio=True,
    ),
    Metric(
        name="c2st",
        meaning="accuracy of a small network that tells samples from data; 1/2 is the best",
        prepare=_at_one_size(_accuracy, _c2st_p_value, test_seed=0),
    ),
    Metric(
        name="detection",
        meaning="share of pairs, a sample and a row of held-out data, in which a trained detector"
        " picks the sample; it looks at values, structure and condition; 1/2 is the best",
        prepare=_detection,
        default="all",
        space=CLUES,
    ),
    Metric(
        name="roughness",
        meaning="mean squared difference of neighbours, over that of the training data",
        prepare=_of_kind(structure.roughness, by_variable=True),
        better="one",
        default="all",
        space=VALUES,
        kinds=ORDERED,
        shows_ratio=True,
    ),
    Metric(
        name="spectrum",
        meaning="relative difference of the mean power in the worst band of frequencies; falls"
        " with n",
        prepare=_of_kind(structure.spectrum, by_variable=True),
        default="all",
        space=VALUES,
        kinds=ORDERED,
        shows_ratio=True,
    ),
    Metric(
        name="autocorrelation",
        meaning="largest difference of the correlations with the value 1, 2, 4, ... places on;"
        " falls with n",
        prepare=_of_kind(structure.autocorrelation, by_variable=True),
        default="all",
        space=VALUES,
        kinds=ORDERED,
        shows_ratio=True,
    ),
    Metric(
        name="pair_distance",
        meaning="Kolmogorov distance of the laws of the distance of two elements of a set",
        prepare=_of_kind(marginals.of_pairs),
        default="all",
        space=VALUES,
        kinds=(SET,),
        shows_ratio=True,
    ),
    Metric(
        name="neighbour_distance",
        meaning="Kolmogorov distance of the laws of the distance to the nearest element of a set",
        prepare=_of_kind(marginals.of_neighbours),
        default="all",
        space=VALUES,
        kinds=(SET,),
        shows_ratio=True,
    ),
    Metric(
        name="marginal",
        meaning="Kolmogorov distance of the laws of a column, of the worst one; falls with n",
        prepare=_of_kind(marginals.kolmogorov),
        default="all",
        space=VALUES,
        kinds=(TABLE,),
        shows_ratio=True,
    ),
    Metric(
        name="correlation",
        meaning="largest difference of the correlations of two columns; falls with n",
        prepare=_of_kind(marginals.correlation),
        default="all",
        space=VALUES,
        kinds=(COLUMNS,),
        shows_ratio=True,
    ),
    Metric(
        name="categories",
        meaning="total variation of the frequencies of a category, of the worst one; falls with n",
        prepare=_categories,
        default="all",
        space=VALUES,
        kinds=(CATEGORIES,),
        shows_ratio=True,
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ROWS}
