"""Metrics made ready for a data set, each with its reference, its floor and its protocol."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.analysis.metrics.calibration import CALIBRATION
from fewstep.analysis.metrics.extractors import Extractor
from fewstep.analysis.metrics.metric import (
    CLASSES,
    CLUES,
    JOINT,
    OWN_SPACES,
    PIXEL,
    VALUES,
    Measure,
    Metric,
    Reference,
)
from fewstep.analysis.metrics.registry import METRICS
from fewstep.base.errors import UserError, unknown
from fewstep.base.randomness import permutation
from fewstep.data import Arrays, Dataset
from fewstep.statistics.clues import MOST_ROWS, clues_of
from fewstep.statistics.intervals import Estimate, estimate, jackknife
from fewstep.statistics.layout import (
    Features,
    Layout,
    condition_numbers,
    joint_of,
    layout_of,
    values_of,
)
from fewstep.statistics.moments import Statistics
from fewstep.training.classifier import classifier

log = logging.getLogger("fewstep")

_GROUPS = 10  # of the jackknife
_FEW = 50  # fewer held-out samples make a poor floor
PAIRED = (JOINT, CLUES)  # spaces whose metrics look at the condition


@dataclass(frozen=True)
class Meter:
    """One metric in one space, ready to measure draws, with its floor and part of the protocol."""

    metric: str  # the full name
    row: Metric
    space: str
    measure: Measure
    floor: Estimate | None
    protocol: dict[str, Any]


@dataclass(frozen=True)
class Spaces:
    """The features that samples are compared by: space -> function, and the extractor of one."""

    features: dict[str, Features]
    extractor: Extractor | None
    layout: Layout

    def extractor_in(self, space: str) -> Extractor | None:
        """The space's extractor; None for the data's own spaces."""
        return None if space in OWN_SPACES else self.extractor

    def metrics(self) -> dict[str, tuple[str, Metric]]:
        """Every metric's full name -> (space, row), where it has a meaning."""
        return {
            row.name_in(self.extractor_in(space), space): (space, row)
            for space in self.features
            for row in METRICS.values()
            if row.is_of(space, self.layout)
        }

    def features_of(self, rows: Arrays, meters: Sequence[Meter]) -> dict[str, Tensor]:
        """The features of rows in each space of these metrics, computed once."""
        return {space: self.features[space](rows) for space in {meter.space for meter in meters}}


def spaces_of(dataset: Dataset, extractor: Extractor | None) -> Spaces:
    """The space of the extractor, or of the labelled data's classifier; and the data's own.

    Raises UserError for an extractor with the name of one of these.
    """
    if extractor is None and dataset.classes:
        judge = classifier(dataset)
        extractor = Extractor(
            "feature", judge.features, judge.fingerprint, classes=judge.probabilities
        )
    layout = layout_of(dataset)
    features: dict[str, Features] = {}
    if extractor is not None:
        if extractor.name in (*OWN_SPACES, CLASSES):
            raise UserError(
                f"an extractor named {extractor.name!r}: choose another name, for that is one of"
                " the data's own spaces"
            )
        own = extractor
        features[own.name] = lambda rows: own.features(rows.x0)
        if own.classes is not None:
            features[CLASSES] = lambda rows: own.probabilities(rows.x0)
    features[PIXEL] = lambda rows: rows.x0
    numbers = condition_numbers(dataset)
    if numbers is not None:
        features[JOINT] = joint_of(dataset, numbers)
    features[VALUES] = values_of(dataset)
    clues = cache(lambda: clues_of(dataset, layout))  # not before they are asked for
    features[CLUES] = lambda rows: clues()(rows)
    return Spaces(features, extractor, layout)


def _choose(
    names: Sequence[str] | None, spaces: Spaces, reference: Statistics | None
) -> dict[str, tuple[str, Metric]]:
    """The metrics to score: those with these names, by default each row's own choice.

    Reference statistics leave the metrics of the extractor's space that need moments alone, and
    those of class probabilities, which are compared with nothing.
    """
    choices = spaces.metrics()
    if reference is not None:
        if spaces.extractor is None:
            raise UserError(
                "reference statistics are of features: name the extractor that made them"
            )
        choices = {
            name: (space, row)
            for name, (space, row) in choices.items()
            if (space == spaces.extractor.name and row.from_moments) or space == CLASSES
        }
    if names is None:
        return {
            name: (space, row) for name, (space, row) in choices.items() if row.is_default(space)
        }
    for name in names:
        if name not in choices:
            raise unknown("metric", name, (*choices, *CALIBRATION))
    return {name: choices[name] for name in names}


def floor_of(measure: Measure, held_out: Tensor, n: int) -> Estimate | None:
    """Held-out data in the model's place: the mean over its disjoint draws of n samples.

    A single draw has the jackknife's error. None where there are fewer than n samples.
    """
    draws = held_out.split(n)[: len(held_out) // n]
    values = [measure.value(draw) for draw in draws]
    if not values:
        return None
    if len(draws) > 1 or n < 2 * _GROUPS:
        return estimate(values)
    group = torch.arange(n) % _GROUPS
    without = [measure.value(draws[0][group != g]) for g in range(_GROUPS)]
    return jackknife(values[0], without)


Meters = tuple[list[Meter], Spaces]


def meters_of(
    dataset: Dataset,
    held_out: Arrays,
    n: int,
    *,
    metrics: Sequence[str] | None = None,
    extractor: Extractor | None = None,
    reference: Statistics | None = None,
) -> Meters:
    """The metrics, prepared against the training split or reference statistics, for draws of n."""
    if 0 < len(held_out) < _FEW:
        log.warning(
            "fewstep: %d samples are held out: so few say little of a distance", len(held_out)
        )
    spaces = spaces_of(dataset, extractor)
    choices = _choose(metrics, spaces, reference)
    _check_extractor(spaces, reference)
    # Whole draws of held-out samples, or all where there are fewer.
    count = len(held_out) // n * n or len(held_out)
    rows = held_out.rows(torch.arange(count))
    facts = _reference_facts(dataset, reference)
    references: dict[str, Reference] = {}
    meters = []
    for name, (space, row) in choices.items():
        if space not in references:
            features = spaces.features[space]
            is_alone = reference is not None or space == CLASSES
            train = rows.x0 if is_alone else features(_few(dataset.train, space))
            own = features(rows) if len(rows) else rows.x0
            references[space] = Reference(train, own, n, spaces.layout)
        if reference is not None and row.from_moments is not None:
            measure = row.from_moments(reference)
        else:
            measure = row.prepare(references[space])
        floor = measure.floor or floor_of(measure, references[space].held_out, n)
        source = spaces.extractor_in(space)
        protocol = {
            **facts,
            "space": space,
            "statistic": row.name,
            **(source.facts() if source else {}),
            **measure.settings,
        }
        meters.append(Meter(name, row, space, measure, floor, protocol))
    return meters, spaces


def _few(train: Arrays, space: str) -> Arrays:
    """The training split; for the detector at most as many rows as it learns from."""
    if space != CLUES or len(train) <= MOST_ROWS:
        return train
    return train.rows(permutation(0, "detector rows", 0, len(train))[:MOST_ROWS])


def _check_extractor(spaces: Spaces, reference: Statistics | None) -> None:
    """Refuses reference statistics that another extractor made."""
    digest = spaces.extractor.sha256 if spaces.extractor else None
    if reference is not None and reference.extractor not in (None, digest):
        raise UserError(
            f"the reference statistics are of extractor {reference.extractor}, and this one is"
            f" {digest}"
        )


def _reference_facts(dataset: Dataset, reference: Statistics | None) -> dict[str, Any]:
    """What is compared with: its part of the protocol."""
    if reference is None:
        facts = {"reference": dataset.fingerprint(), "n_reference": len(dataset.train)}
    else:
        facts = {"reference": reference.sha256, "n_reference": reference.n}
    return {**facts, "dtype": "float64"}


class Prepared(NamedTuple):
    """Metrics ready for draws of `size` samples of a split, for many calls of `evaluate`."""

    meters: list[Meter]
    spaces: Spaces
    split: str
    size: int

    @property
    def asks_for_conditions(self) -> bool:
        """Whether a metric looks at the condition."""
        return any(meter.space in PAIRED for meter in self.meters)

    def check(self, split: str, size: int) -> None:
        """Raises UserError where they are ready for other draws than these."""
        if (self.split, self.size) != (split, size):
            raise UserError(f"prepared for {self.size} of {self.split}: expected {size} of {split}")
