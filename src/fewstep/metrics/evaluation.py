"""Scores a generator: disjoint draws of the held-out size against the training split, beside held-out data itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.data import Arrays, Dataset
from fewstep.errors import NonFiniteError, UserError, unknown
from fewstep.generator import Generator
from fewstep.metrics import distances
from fewstep.metrics.features import classifier
from fewstep.randomness import shuffled

Metric = Callable[[Tensor], float]  # samples in the data's own range -> a distance to the training split


@dataclass(frozen=True)
class Result:
    """One number: its value and error, the floor that real held-out data reaches, and how it was measured."""

    metric: str
    steps: int
    value: float  # mean over the draws
    error: float | None  # standard deviation of one draw, as the floor is one draw; None of a single one
    floor: float
    protocol: dict[str, Any]


def metrics_of(dataset: Dataset, held_out: Arrays) -> tuple[dict[str, Metric], dict[str, Any]]:
    """The metrics that fit this data set, against its training split, and what they depend on."""
    train = dataset.train.x0
    metrics: dict[str, Metric] = {}
    facts: dict[str, Any] = {"reference": dataset.fingerprint(), "n_reference": len(train), "dtype": "float64"}
    if dataset.classes:
        judge = classifier(dataset)
        seen = judge.features(train)
        metrics["feature_frechet"] = lambda x: distances.frechet(judge.features(x), seen)
        facts["extractor"] = judge.fingerprint
    metrics["pixel_frechet"] = lambda x: distances.frechet(x, train)
    spread = distances.spread(train)
    metrics["energy"] = lambda x: distances.energy(x, train, spread)
    metrics["nearest_ratio"] = lambda x: distances.nearest_ratio(x, held_out.x0, train)
    return metrics, facts


def evaluate(
    generator: Generator,
    dataset: Dataset,
    *,
    steps: tuple[int, ...] = (1, 2),
    n: int = 10_000,
    seed: int = 0,
    split: str = "test",
) -> tuple[list[Result], list[dict[str, float]]]:
    """Scores at each number of network evaluations, and samples per second (first pass not counted).

    n samples are cut into disjoint draws as large as the held-out split (n, if that is less), so that model and
    floor have equally many samples; labels follow the training split's frequencies. Raises UserError where the
    data set is not the one of the run, or fewer than 2 samples are left to compare.
    """
    if dataset.fingerprint() != generator.facts.data:
        raise UserError(f"data {dataset.name!r} is not what this generator was trained on: scores would mean nothing")
    if split not in ("test", "validation"):
        raise unknown("split", split, ("test", "validation"))
    held_out: Arrays = getattr(dataset, split)
    size = min(len(held_out.x0), n)
    if size < 2:
        raise UserError(f"n = {n} samples against {len(held_out.x0)} held-out ones: expected at least 2 of each")
    held_out = held_out.rows(torch.arange(size))
    metrics, facts = metrics_of(dataset, held_out)
    floors = {name: metric(held_out.x0) for name, metric in metrics.items()}
    cond = (
        None if dataset.train.cond is None else dataset.train.cond[shuffled(seed, "eval", 0, n, len(dataset.train.x0))]
    )
    results, speeds = [], []
    for count in steps:
        generator.sample(size, steps=count, seed=seed, cond=None if cond is None else cond[:size])  # warms up
        begun = time.perf_counter()
        x = generator.sample(n, steps=count, seed=seed, cond=cond)
        speeds.append({"steps": count, "samples_per_second": n / (time.perf_counter() - begun)})
        if not bool(torch.isfinite(x).all()):
            raise NonFiniteError(f"the samples of {count} steps hold NaN or infinity: there is nothing to score")
        draws = dataset.units.to_model(x).split(size)[: n // size]
        protocol = {**facts, "split": split, "n": size, "draws": len(draws), "seed": seed, "error": "std of a draw"}
        for name, metric in metrics.items():
            values = torch.tensor([metric(draw) for draw in draws], dtype=torch.float64)
            error = values.std().item() if len(values) > 1 else None
            results.append(Result(name, count, values.mean().item(), error, floors[name], protocol))
    return results, speeds
