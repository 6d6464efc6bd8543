"""Scores a generator: disjoint draws of the held-out size against a reference, beside held-out data itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.checkpoint import fingerprint
from fewstep.data import Arrays, Dataset, each
from fewstep.denoiser import Cond, masked
from fewstep.errors import NonFiniteError, UserError, require, unknown
from fewstep.generator import Generator
from fewstep.metrics.extractors import Extractor
from fewstep.metrics.features import classifier
from fewstep.metrics.menu import STATISTICS, Reference, Statistic, frechet_to
from fewstep.metrics.protocol import Estimate, Result, estimate, jackknifed
from fewstep.metrics.statistics import Statistics
from fewstep.randomness import block_seed, shuffled

PIXEL = "pixel"  # the data's own values, where no extractor looks at them
_GROUPS = 10  # of the jackknife
_WARM = 4096  # samples of the pass that is not timed
_MOST_DRAWS, _FEW = 100, 50  # more draws sharpen nothing; fewer held-out samples make no floor

log = logging.getLogger("fewstep")


@dataclass(frozen=True)
class Meter:
    """One metric, ready to measure draws that its space has seen, with its floor and its part of the protocol."""

    metric: str
    space: str
    statistic: Statistic
    floor: Estimate | None
    protocol: dict[str, Any]


@dataclass(frozen=True)
class Spaces:
    """What looks at samples: each space's name with its features, and the extractor behind the one that has it."""

    seen: dict[str, Callable[[Tensor], Tensor]]
    extractor: Extractor | None

    def named(self) -> dict[str, tuple[str, str]]:
        """Every metric's name -> (space, statistic), the data's own space last."""
        names = {}
        for space in self.seen:
            for statistic in STATISTICS:
                plain = space == PIXEL and statistic in ("energy", "nearest_ratio")
                published = self.extractor.published() if self.extractor and space != PIXEL else None
                name = published if published and statistic == "frechet" else f"{space}_{statistic}"
                names[statistic if plain else name] = (space, statistic)
        return names


def spaces_of(dataset: Dataset, extractor: Extractor | None) -> Spaces:
    """The extractor's space, or that of the data set's own classifier where it has labels; and the data's own."""
    if extractor is None and dataset.classes:
        judge = classifier(dataset)
        extractor = Extractor("feature", judge.features, judge.fingerprint)
    if extractor is not None and extractor.name == PIXEL:
        raise UserError("an extractor named 'pixel': choose another name, for that is the data's own space")
    seen: dict[str, Callable[[Tensor], Tensor]] = {} if extractor is None else {extractor.name: extractor.features}
    return Spaces({**seen, PIXEL: lambda x: x}, extractor)


def _chosen(asked: Sequence[str] | None, spaces: Spaces, reference: Statistics | None) -> dict[str, tuple[str, str]]:
    """The metrics to score: by default Fréchet distances, energy and nearest ratio; the reference knows but one."""
    named = spaces.named()
    if reference is not None:
        if spaces.extractor is None:
            raise UserError("reference statistics are of features: name the extractor that made them")
        named = {name: pair for name, pair in named.items() if pair == (spaces.extractor.name, "frechet")}
    if asked is None:
        return {
            name: pair for name, pair in named.items() if pair[1] == "frechet" or name in ("energy", "nearest_ratio")
        }
    for name in asked:
        if name not in named:
            raise unknown("metric", name, named)
    return {name: named[name] for name in asked}


def floor_of(statistic: Statistic, held_out: Tensor, n: int) -> Estimate | None:
    """Held-out data in the model's place: mean over its disjoint draws of n; of a single draw, jackknifed.

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
        raise UserError(f"the reference statistics are of extractor {reference.extractor}, and this one is {known}")
    rows = held_out.rows(torch.arange(len(held_out.x0) // n * n or len(held_out.x0))).x0
    facts = {"reference": dataset.fingerprint(), "n_reference": len(dataset.train.x0), "dtype": "float64"}
    if reference is not None:
        facts |= {"reference": reference.sha256, "n_reference": reference.n}
    prepared: dict[str, Reference] = {}
    meters = []
    for name, (space, kind) in chosen.items():
        if space not in prepared:
            see = spaces.seen[space]
            train = see(dataset.train.x0) if reference is None else rows
            prepared[space] = Reference(train, see(rows) if len(rows) else rows, n)
        statistic = STATISTICS[kind](prepared[space]) if reference is None else frechet_to(reference)
        told = spaces.extractor.facts() if spaces.extractor and space != PIXEL else {}
        floor = floor_of(statistic, prepared[space].held_out, n)
        told = {**facts, "space": space, "statistic": kind, **told, **statistic.settings}
        meters.append(Meter(name, space, statistic, floor, told))
    return meters, spaces


def _held_out(generator: Generator, dataset: Dataset, split: str, n: int, draw: int | None) -> tuple[Arrays, int]:
    """The split that is scored against, and how many samples a draw has."""
    if dataset.fingerprint() != generator.facts.data:
        raise UserError(f"data {dataset.name!r} is not what this generator was trained on: scores would mean nothing")
    if split not in ("test", "validation"):
        raise unknown("split", split, ("test", "validation"))
    held_out: Arrays = getattr(dataset, split)
    size = min(len(held_out.x0), n) if draw is None else draw
    if size < 2:
        raise UserError(f"n = {n} samples against {len(held_out.x0)} held-out ones: expected at least 2 of each")
    require(size <= n, "draw", size, f"at most n = {n}")
    if len(held_out.x0) < _FEW:
        log.warning("fewstep: %d samples are held out: so few say little of a distance", len(held_out.x0))
    return held_out, size


def evaluate(
    generator: Generator,
    dataset: Dataset,
    *,
    steps: tuple[int, ...] = (1, 2),
    n: int = 10_000,
    seed: int = 0,
    split: str = "test",
    metrics: Sequence[str] | None = None,
    extractor: Extractor | None = None,
    reference: Statistics | None = None,
    candidates: int = 1,
    draw: int | None = None,
) -> tuple[list[Result], list[dict[str, float]]]:
    """Scores at each number of network evaluations, and samples per second (first pass not counted).

    n samples are cut into disjoint draws of `draw` samples: as many as the held-out split has (n, if that is
    less), so that model and floor have equally many; labels follow the training split's frequencies.
    metrics: names as the results have them. extractor: in place of the data set's classifier. reference: in
    place of the training split. candidates: how many models were scored on this split before one was chosen.
    Raises UserError where the data set is not the one of the run, or fewer than 2 samples are left to compare.
    """
    held_out, size = _held_out(generator, dataset, split, n, draw)
    require(candidates >= 1, "candidates", candidates, "1 or more")
    n = min(n, _MOST_DRAWS * size)
    protocol = {
        "split": split,
        "n": size,
        "draws": n // size,
        "seed": seed,
        "candidates": candidates,
        "generator": fingerprint({"denoiser": generator.denoiser.state_dict()}),
        "error": "standard error of the mean over draws, given the reference",
        "interval": "nominal 95 %, Student's t widened by Hall's",
    }
    drawn = seed if split == "test" else block_seed(seed, "eval validation", 0)  # what is chosen is scored anew
    cond = dataset.train.rows(shuffled(drawn, "eval", 0, n, len(dataset.train.x0))).cond
    warm = min(size, _WARM)
    few = each(lambda rows: rows[:warm], cond)
    for count in steps:  # warms up, and refuses what cannot be sampled before anything takes long
        generator.sample(warm, steps=count, seed=drawn, cond=few)
    meters, spaces = meters_of(dataset, held_out, size, metrics=metrics, extractor=extractor, reference=reference)
    results, speeds = [], []
    for count in steps:
        x, speed = _sampled(generator, count, n, drawn, cond)
        speeds.append({"steps": count, "samples_per_second": speed})
        draws = masked(dataset.units.to_model(x), cond).split(size)[: n // size]
        results += _scored(meters, spaces, draws, count, protocol)
    return results, speeds


def _sampled(generator: Generator, steps: int, n: int, seed: int, cond: Cond) -> tuple[Tensor, float]:
    """n finite samples, and how many came per second."""
    begun = time.perf_counter()
    x = generator.sample(n, steps=steps, seed=seed, cond=cond)
    speed = n / (time.perf_counter() - begun)
    if not bool(torch.isfinite(x).all()):
        raise NonFiniteError(f"the samples of {steps} steps hold NaN or infinity: there is nothing to score")
    return x, speed


def _scored(
    meters: list[Meter], spaces: Spaces, draws: Sequence[Tensor], steps: int, protocol: dict[str, Any]
) -> list[Result]:
    """One result for each metric, every space looking at each draw once."""
    values: dict[str, list[float]] = {meter.metric: [] for meter in meters}
    for draw in draws:
        seen = {space: spaces.seen[space](draw) for space in {meter.space for meter in meters}}
        for meter in meters:
            values[meter.metric].append(meter.statistic.measure(seen[meter.space]))
    results = []
    for meter in meters:
        found = estimate(values[meter.metric])
        floor = meter.floor or (None, None, None)
        results.append(
            Result(
                metric=meter.metric,
                steps=steps,
                value=found.value,
                error=found.error,
                floor=floor[0],
                protocol={**protocol, **meter.protocol},
                interval=found.interval,
                floor_error=floor[1],
                floor_interval=floor[2],
                values=tuple(values[meter.metric]),
            )
        )
    return results
