"""Scores a generator: disjoint draws of the held-out size against a reference, beside held-out data
itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.analysis.metrics.extractors import Extractor
from fewstep.analysis.metrics.moments import Statistics
from fewstep.analysis.metrics.prepared import Meter, Prepared, Spaces, meters_of
from fewstep.analysis.metrics.protocol import Result, estimate
from fewstep.base.conditions import Cond, masked
from fewstep.base.errors import NonFiniteError, UserError, require, unknown
from fewstep.base.randomness import block_seed, shuffled_indices
from fewstep.data import Arrays, Dataset, each
from fewstep.run.checkpoint import fingerprint
from fewstep.run.generator import Generator

_WARM = 4096  # samples of the pass that is not timed
_MOST_DRAWS, _FEW = 100, 50  # more draws sharpen nothing; fewer held-out samples make no floor

log = logging.getLogger("fewstep")


def _held_out(
    generator: Generator, dataset: Dataset, split: str, n: int, draw: int | None
) -> tuple[Arrays, int]:
    """The split that is scored against, and how many samples a draw has."""
    if dataset.fingerprint() != generator.facts.data:
        raise UserError(
            f"data {dataset.name!r} is not what this generator was trained on: scores would mean"
            " nothing"
        )
    if split not in ("test", "validation"):
        raise unknown("split", split, ("test", "validation"))
    held_out: Arrays = getattr(dataset, split)
    size = min(len(held_out.x0), n) if draw is None else draw
    if size < 2:
        raise UserError(
            f"n = {n} samples against {len(held_out.x0)} held-out ones: expected at least 2 of each"
        )
    require(size <= n, "draw", size, f"at most n = {n}")
    if len(held_out.x0) < _FEW:
        log.warning(
            "fewstep: %d samples are held out: so few say little of a distance", len(held_out.x0)
        )
    return held_out, size


_ERRORS = {
    "error": "standard error of the mean over draws, given the reference",
    "interval": "nominal 95 %, Student's t widened by Hall's",
}


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
    prepared: Prepared | None = None,
) -> tuple[list[Result], list[dict[str, float]]]:
    """Scores at each number of network evaluations, and samples per second (first pass not
    counted).

    n samples are cut into disjoint draws of `draw` samples: as many as the held-out split has (n,
    if that is less), so that model and floor have equally many; labels follow the training split's
    frequencies.
    metrics: names as the results have them. extractor: in place of the data set's classifier.
    reference: in place of the training split. candidates: how many models were scored on this split
    before one was chosen.
    prepared: in place of metrics, extractor and reference, where they were prepared for this data
    before.
    Raises UserError where the data set is not the one of the run, or fewer than 2 samples are left
    to compare.
    """
    held_out, size = _held_out(generator, dataset, split, n, draw)
    require(candidates >= 1, "candidates", candidates, "1 or more")
    n = min(n, _MOST_DRAWS * size)
    told = {"split": split, "n": size, "draws": n // size, "seed": seed, "candidates": candidates}
    protocol = {
        **told,
        "generator": fingerprint({"denoiser": generator.denoiser.state_dict()}),
        **_ERRORS,
    }
    drawn = (
        seed if split == "test" else block_seed(seed, "eval validation", 0)
    )  # what is chosen is scored anew
    cond = dataset.train.rows(shuffled_indices(drawn, "eval", 0, n, len(dataset.train.x0))).cond
    warm = min(size, _WARM)
    few = each(lambda rows: rows[:warm], cond)
    for count in steps:  # warms up, and refuses what cannot be sampled before anything takes long
        generator.sample(warm, steps=count, seed=drawn, cond=few)
    if prepared is not None and (prepared.split, prepared.size) != (split, size):
        raise UserError(
            f"prepared for {prepared.size} of {prepared.split}: expected {size} of {split}"
        )
    meters, spaces = (
        meters_of(
            dataset, held_out, size, metrics=metrics, extractor=extractor, reference=reference
        )
        if prepared is None
        else prepared[:2]
    )
    results, speeds = [], []
    for count in steps:
        x, speed = _sampled(generator, count, n, drawn, cond)
        speeds.append({"steps": count, "samples_per_second": speed})
        draws = masked(dataset.units.to_model(x), cond).split(size)[: n // size]
        results += _scored(meters, spaces, draws, count, protocol)
    return results, speeds


def _sampled(
    generator: Generator, steps: int, n: int, seed: int, cond: Cond
) -> tuple[Tensor, float]:
    """n finite samples, and how many came per second."""
    begun = time.perf_counter()
    x = generator.sample(n, steps=steps, seed=seed, cond=cond)
    speed = n / (time.perf_counter() - begun)
    if not bool(torch.isfinite(x).all()):
        raise NonFiniteError(
            f"the samples of {steps} steps hold NaN or infinity: there is nothing to score"
        )
    return x, speed


def _scored(
    meters: list[Meter],
    spaces: Spaces,
    draws: Sequence[Tensor],
    steps: int,
    protocol: dict[str, Any],
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
