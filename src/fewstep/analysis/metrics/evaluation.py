"""Scores a generator: disjoint draws against a reference, beside held-out data itself."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fewstep.analysis.metrics.calibration import calibrate, choose
from fewstep.analysis.metrics.extractors import Extractor
from fewstep.analysis.metrics.moments import Statistics
from fewstep.analysis.metrics.prepared import Meter, Prepared, meters_of
from fewstep.analysis.metrics.protocol import Result, estimate
from fewstep.base.conditions import Cond, apply_mask
from fewstep.base.errors import NonFiniteError, UserError, require, unknown
from fewstep.base.options import plain
from fewstep.base.randomness import block_seed, shuffled_indices
from fewstep.base.surroundings import surroundings
from fewstep.data import Arrays, Dataset, each, from_tensors
from fewstep.run import datasets
from fewstep.run.checkpoint import fingerprint
from fewstep.run.generator import Generator

_WARM_UP = 4096  # most samples of the pass that is not timed
_MOST_DRAWS = 100  # more draws hardly narrow an interval
_ERRORS = {
    "error": "standard error of the mean over draws, given the reference",
    "interval": "nominal 95 %, Student's t widened by Hall's",
}


def split_of(dataset: Dataset, name: str) -> Arrays:
    """The validation or the test split. Raises UserError for another name."""
    splits = {"validation": dataset.validation, "test": dataset.test}
    if name not in splits:
        raise unknown("split", name, splits)
    return splits[name]


def _held_out(
    generator: Generator, dataset: Dataset, split: str, n: int, draw: int | None
) -> tuple[Arrays, int]:
    """The split that gives the floor, and how many samples a draw has. Raises UserError."""
    facts = generator.facts
    is_own = dataset.fingerprint() == facts.data
    if not is_own and dataset.held_out_of != facts.data:
        raise UserError(
            f"data {dataset.name!r} is not what this generator was trained on: scores would mean"
            " nothing; pass rows that it did not learn as an array"
        )
    held_out = split_of(dataset, split)
    if is_own and not len(held_out.x0) and draw is None:
        raise UserError(
            f"the run learned all {len(dataset.train.x0)} rows of data {dataset.name!r}, and none"
            " are left to compare with: give rows that it did not learn (--data with another file)"
        )
    size = min(len(held_out.x0), n) if draw is None else draw
    if size < 2:
        raise UserError(
            f"n = {n} samples against {len(held_out.x0)} held-out ones: expected at least 2 of each"
        )
    require(size <= n, "draw", size, f"at most n = {n}")
    return held_out, size


@surroundings(grad=True)
def evaluate(
    generator: Generator,
    dataset: Dataset | Any,
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
    batch: int | None = None,
) -> tuple[list[Result], list[dict[str, float]]]:
    """Scores at each number of network evaluations, and samples per second.

    n samples are cut into disjoint draws of `draw` samples: as many as the held-out split has (n,
    if that is less), so that model and floor have equally many. Labels follow the training split's
    frequencies. The speed leaves out a first pass.

    dataset: the one that the run learned; or an array, or {"x0", "cond"}, with rows that it did not
    learn: half of them are the reference then, and half the floor.
    metrics: names as the results have them.
    extractor: in place of the data set's classifier.
    reference: in place of the training split.
    candidates: how many models were scored on this split before one was chosen.
    prepared: metrics, extractor and reference made ready for this data, in place of these three.
    batch: samples at once, as for `Generator.sample`; one draw at a time is in memory.

    Raises UserError where the data set is not the one of the run, or fewer than 2 samples are left
    to compare.
    """
    n, seed, candidates, draw = map(plain, (n, seed, candidates, draw))
    steps = tuple(map(plain, steps))
    if not isinstance(dataset, Dataset):
        facts = generator.facts
        own = from_tensors(dataset, datasets.reading_of(generator.run, facts))
        dataset = datasets.held_out(own if generator.run.labels else own.without_labels(), facts)
    held_out, size = _held_out(generator, dataset, split, n, draw)
    require(candidates >= 1, "candidates", candidates, "1 or more")
    n = min(n, _MOST_DRAWS * size)
    # The test split has other noise than the validation split: what was chosen is scored anew.
    sample_seed = seed if split == "test" else block_seed(seed, "eval validation", 0)
    order = shuffled_indices(sample_seed, "eval", 0, n, len(dataset.train.x0))
    cond = dataset.user_cond(each(lambda part: part[order], dataset.train.cond))
    options: dict[str, Any] = {"seed": sample_seed, "batch": batch}
    for count in steps:
        # Not timed; it also raises for impossible steps before anything takes long.
        first = min(size, _WARM_UP)
        few = _rows(cond, slice(first))
        next(_at(generator, count).sample_parts(first, steps=count, cond=few, **options))
    calibration: list[str] = []
    if prepared is None:
        metrics, calibration = choose(metrics, dataset, held_out)
        meters = meters_of(
            dataset, held_out, size, metrics=metrics, extractor=extractor, reference=reference
        )
        prepared = Prepared(*meters, split, size)
    prepared.check(split, size)
    protocol: dict[str, Any] = {"split": split, "n": size, "draws": n // size, "seed": seed}
    digest = fingerprint({"denoiser": generator.denoiser.state_dict()})
    protocol |= {"candidates": candidates, "generator": digest, **_ERRORS}
    results = []
    speeds = []
    for count in steps:
        sample = _at(generator, count).sample_parts
        parts = _Clock(sample(n, steps=count, cond=cond, **options))
        draws = (
            apply_mask(dataset.units.to_model(x), _rows(cond, slice(i * size, (i + 1) * size)))
            for i, x in enumerate(_draws(parts, size, count))
        )
        results += _score(prepared, draws, count, protocol)
        about = (_at(generator, count), dataset, held_out, calibration)
        results += calibrate(*about, steps=count, n=n, protocol=protocol, **options)
        speeds.append({"steps": count, "samples_per_second": n / parts.seconds})
    return results, speeds


def _at(generator: Generator, steps: int) -> Generator:
    """The generator for so many steps: one step needs no levels, also where some were asked for."""
    return replace(generator, has_own_levels=generator.has_own_levels and steps != 1)


def _rows(cond: Cond, rows: slice) -> Cond:
    return each(lambda part: part[rows], cond)


class _Clock:
    """Parts as they come, and the seconds that they took to come."""

    def __init__(self, parts: Iterator[Tensor]) -> None:
        self.parts = parts
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        start = time.perf_counter()
        try:
            return next(self.parts)
        finally:
            self.seconds += time.perf_counter() - start


def _draws(parts: Iterable[Tensor], size: int, steps: int) -> Iterator[Tensor]:
    """The samples of the parts in whole draws of `size`. Raises NonFiniteError."""
    draw = torch.empty(0)
    full = size  # rows of the draw that are there
    for part in parts:
        if not bool(torch.isfinite(part).all()):
            raise NonFiniteError(
                f"the samples of {steps} steps hold NaN or infinity: there is nothing to score"
            )
        rest = part
        while len(rest):
            if full == size:
                draw, full = rest.new_empty(size, *rest.shape[1:]), 0
            count = min(len(rest), size - full)
            draw[full : full + count] = rest[:count]
            rest, full = rest[count:], full + count
            if full == size:
                yield draw


def _score(
    prepared: Prepared, draws: Iterable[Tensor], steps: int, protocol: dict[str, Any]
) -> list[Result]:
    """One result for each metric; each space computes the features of a draw once."""
    meters, spaces = prepared.meters, prepared.spaces
    values: dict[str, list[float]] = {meter.metric: [] for meter in meters}
    for draw in draws:
        features = {
            space: spaces.features[space](draw) for space in {meter.space for meter in meters}
        }
        for meter in meters:
            values[meter.metric].append(meter.measure.value(features[meter.space]))
    return [_result(meter, values[meter.metric], steps, protocol) for meter in meters]


def _result(meter: Meter, values: list[float], steps: int, protocol: dict[str, Any]) -> Result:
    score = estimate(values)
    floor = meter.floor
    return Result(
        metric=meter.metric,
        steps=steps,
        value=score.value,
        error=score.error,
        floor=floor.value if floor else None,
        protocol={**protocol, **meter.protocol},
        interval=score.interval,
        floor_error=floor.error if floor else None,
        floor_interval=floor.interval if floor else None,
        values=tuple(values),
    )
