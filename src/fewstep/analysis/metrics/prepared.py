"""Metrics made ready: which there are for a data set, each with its reference, its floor and its
protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.analysis.metrics.extractors import Extractor
from fewstep.analysis.metrics.features import classifier
from fewstep.analysis.metrics.moments import Statistics
from fewstep.analysis.metrics.protocol import Estimate, estimate, jackknifed
from fewstep.analysis.metrics.registry import STATISTICS, Reference, Statistic, frechet_to
from fewstep.base.errors import UserError, unknown
from fewstep.data import Arrays, Dataset

PIXEL = "pixel"  # the data's own values, where no extractor looks at them
_GROUPS = 10  # of the jackknife


@dataclass(frozen=True)
class Meter:
    """One metric, ready to measure draws that its space has seen, with its floor and its part of
    the protocol.
    """

    metric: str
    space: str
    statistic: Statistic
    floor: Estimate | None
    protocol: dict[str, Any]


@dataclass(frozen=True)
class Spaces:
    """What looks at samples: each space's name with its features, and the extractor behind the one
    that has it.
    """

    seen: dict[str, Callable[[Tensor], Tensor]]
    extractor: Extractor | None

    def named(self) -> dict[str, tuple[str, str]]:
        """Every metric's name -> (space, statistic), the data's own space last."""
        names = {}
        for space in self.seen:
            for statistic in STATISTICS:
                plain = space == PIXEL and statistic in ("energy", "nearest_ratio")
                published = (
                    self.extractor.published() if self.extractor and space != PIXEL else None
                )
                name = published if published and statistic == "frechet" else f"{space}_{statistic}"
                names[statistic if plain else name] = (space, statistic)
        return names


def spaces_of(dataset: Dataset, extractor: Extractor | None) -> Spaces:
    """The extractor's space, or that of the data set's own classifier where it has labels; and the
    data's own.
    """
    if extractor is None and dataset.classes:
        judge = classifier(dataset)
        extractor = Extractor("feature", judge.features, judge.fingerprint)
    if extractor is not None and extractor.name == PIXEL:
        raise UserError(
            "an extractor named 'pixel': choose another name, for that is the data's own space"
        )
    seen: dict[str, Callable[[Tensor], Tensor]] = (
        {} if extractor is None else {extractor.name: extractor.features}
    )
    return Spaces({**seen, PIXEL: lambda x: x}, extractor)


def _chosen(
    asked: Sequence[str] | None, spaces: Spaces, reference: Statistics | None
) -> dict[str, tuple[str, str]]:
    """The metrics to score: by default Fréchet distances, energy and nearest ratio; the reference
    knows but one.
    """
    named = spaces.named()
    if reference is not None:
        if spaces.extractor is None:
            raise UserError(
                "reference statistics are of features: name the extractor that made them"
            )
        named = {
            name: pair for name, pair in named.items() if pair == (spaces.extractor.name, "frechet")
        }
    if asked is None:
        return {
            name: pair
            for name, pair in named.items()
            if pair[1] == "frechet" or name in ("energy", "nearest_ratio")
        }
    for name in asked:
        if name not in named:
            raise unknown("metric", name, named)
    return {name: named[name] for name in asked}


def floor_of(statistic: Statistic, held_out: Tensor, n: int) -> Estimate | None:
    """Held-out data in the model's place: mean over its disjoint draws of n; of a single draw,
    jackknifed.

    None where there are fewer than n.
    """
    draws = held_out.split(n)[: len(held_out) // n]
    values = [statistic.measure(draw) for draw in draws]
    if len(draws) != 1 or n < 2 * _GROUPS:
        return estimate(values) if values else None
    group = torch.arange(n) % _GROUPS
    return jackknifed(values[0], [statistic.measure(draws[0][group != g]) for g in range(_GROUPS)])


def meters_of(
    dataset: Dataset,
    held_out: Arrays,
    n: int,
    *,
    metrics: Sequence[str] | None = None,
    extractor: Extractor | None = None,
    reference: Statistics | None = None,
) -> tuple[list[Meter], Spaces]:
    """The metrics, prepared against the training split or the reference statistics, for draws of n."""
    spaces = spaces_of(dataset, extractor)
    chosen = _chosen(metrics, spaces, reference)
    known = spaces.extractor.sha256 if spaces.extractor else None
    if reference is not None and reference.extractor not in (None, known):
        raise UserError(
            f"the reference statistics are of extractor {reference.extractor}, and this one is"
            f" {known}"
        )
    rows = held_out.rows(torch.arange(len(held_out.x0) // n * n or len(held_out.x0))).x0
    facts = {
        "reference": dataset.fingerprint(),
        "n_reference": len(dataset.train.x0),
        "dtype": "float64",
    }
    if reference is not None:
        facts |= {"reference": reference.sha256, "n_reference": reference.n}
    prepared: dict[str, Reference] = {}
    meters = []
    for name, (space, kind) in chosen.items():
        if space not in prepared:
            see = spaces.seen[space]
            train = see(dataset.train.x0) if reference is None else rows
            prepared[space] = Reference(train, see(rows) if len(rows) else rows, n)
        statistic = (
            STATISTICS[kind](prepared[space]) if reference is None else frechet_to(reference)
        )
        told = spaces.extractor.facts() if spaces.extractor and space != PIXEL else {}
        floor = floor_of(statistic, prepared[space].held_out, n)
        told = {**facts, "space": space, "statistic": kind, **told, **statistic.settings}
        meters.append(Meter(name, space, statistic, floor, told))
    return meters, spaces


class Prepared(NamedTuple):
    """Metrics ready for draws of `size` samples against a split: for many calls of `evaluate` with
    the same data.
    """

    meters: list[Meter]
    spaces: Spaces
    split: str
    size: int
