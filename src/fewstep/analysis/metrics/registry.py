"""The table of metrics: one row says everything the package knows of a metric.

A new metric is a new row of `METRICS`. `eval`, `frontier` and `--metrics help` read the row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from fewstep.analysis.metrics import distances, kernels, manifolds, transport, twosample
from fewstep.analysis.metrics.extractors import Extractor
from fewstep.analysis.metrics.moments import Statistics, moments
from fewstep.base.errors import UserError
from fewstep.base.randomness import permutation

PIXEL = "pixel"  # the space of the data's own values

# As published: k of precision and recall, k of density and coverage.
_NEIGHBOURS = 3
_BALLS = 5
_PROJECTIONS = 128


@dataclass(frozen=True)
class Reference:
    """Features `[N, ...]` of the training split and of held-out data; n: samples of a draw."""

    train: Tensor
    held_out: Tensor
    n: int

    def draw_of_train(self) -> Tensor:
        """n rows of the training split, for metrics of two sets of one size."""
        if len(self.train) < self.n:
            raise UserError(
                f"{len(self.train)} training samples for draws of {self.n}: choose smaller draws"
            )
        return self.train[permutation(0, "reference rows", 0, len(self.train))[: self.n]]


@dataclass(frozen=True)
class Measure:
    """A metric with its reference: `value` of a draw `[n, ...]`, and the settings it depends on."""

    value: Callable[[Tensor], float]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One row: a number that compares a draw of samples with a reference.

    Floor and error are the same for all: the floor is held-out data in the model's place, the error
    comes from the spread of disjoint draws (protocol.py).
    """

    name: str  # in the protocol: `statistic`
    meaning: str  # one sentence, with what it needs beyond torch
    prepare: Callable[[Reference], Measure]  # the costly part, once for a reference
    from_moments: Callable[[Statistics], Measure] | None = None  # where moments are enough
    better: Literal["lower", "higher", "one"] = "lower"  # "one": nothing can be chosen by it
    default: Literal["all", "pixel", "none"] = "none"  # the spaces in which it is always scored
    has_short_name: bool = False  # of the data's own values it is called `name` alone
    has_published_name: bool = False  # takes the name that known weights give it, such as FID
    shows_ratio: bool = False  # value over floor means something: the floor lies well above 0

    def name_in(self, extractor: Extractor | None) -> str:
        """Its full name in an extractor's space; None: in the space of the data's own values."""
        if extractor is None:
            return self.name if self.has_short_name else f"{PIXEL}_{self.name}"
        published_name = extractor.published() if self.has_published_name else None
        return published_name or f"{extractor.name}_{self.name}"

    def is_default(self, space: str) -> bool:
        """Whether it is scored in this space when no metrics are named."""
        return self.default == "all" or (self.default == "pixel" and space == PIXEL)


def _frechet(statistics: Statistics) -> Measure:
    return Measure(lambda x: distances.frechet(x, statistics))


def _energy(reference: Reference) -> Measure:
    spread = distances.spread(reference.train)
    return Measure(lambda x: distances.energy(x, reference.train, spread))


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
    distance: Callable[[Tensor, Tensor], float], **settings: Any
) -> Callable[[Reference], Measure]:
    """`distance(x, y)` with as many training samples y as the draw x has."""

    def prepare(reference: Reference) -> Measure:
        rows = reference.draw_of_train()
        facts = {"n_reference": reference.n, **settings}
        return Measure(lambda x: distance(x, rows[: len(x)]), facts)

    return prepare


def _accuracy(x: Tensor, y: Tensor) -> float:
    return twosample.c2st(x, y).accuracy


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
        default="pixel",
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
        prepare=_at_one_size(_accuracy, test_seed=0),
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ROWS}
