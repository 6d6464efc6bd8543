"""Scores by `metrics.evaluate`: candidates on the validation split, what was chosen on the test
split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fewstep.analysis.frontier.points import Judge
from fewstep.analysis.frontier.store import Store
from fewstep.analysis.metrics import (
    Extractor,
    Prepared,
    Result,
    Statistics,
    evaluate,
    meters_of,
    spaces_of,
)
from fewstep.base.errors import UserError, require, unknown
from fewstep.base.randomness import block_seed
from fewstep.core.denoiser import Truncated
from fewstep.data import Dataset
from fewstep.run.generator import Generator

HIGHER = ("precision", "recall", "density", "coverage")  # statistics of which more is better
_MEASURED = ("statistic", "extractor", "reference")  # what a metric's name leaves open


def default_metric(extractor: Extractor | None) -> str:
    """energy, which tells any two laws apart and is unbiased at every n; with an extractor its
    Fréchet distance.
    """
    return "energy" if extractor is None else extractor.published() or f"{extractor.name}_frechet"


def search_seed(seed: int) -> int:
    """The seed of the candidates' samples: another than that of the test."""
    return block_seed(seed, "frontier search", 0)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured."""

    steps: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    teacher_steps: tuple[int, ...] = (1, 2, 4, 8, 16, 35)
    metric: str | None = None
    n: int = 10_000
    search_n: int = 3000
    draw: int | None = None
    candidates: int = 24
    seed: int = 0
    batch: int = 256
    repeats: int = 15
    gain: float = 0.05

    def __post_init__(self) -> None:
        for name in ("steps", "teacher_steps"):
            counts = getattr(self, name)
            require(
                len(counts) > 0 and all(c >= 1 for c in counts), name, counts, "numbers from 1 on"
            )
            object.__setattr__(self, name, tuple(sorted(set(counts))))
        least = {"n": 2, "search_n": 2, "candidates": 1, "seed": 0, "batch": 1, "repeats": 3}
        for name, low in least.items():
            require(getattr(self, name) >= low, name, getattr(self, name), f"{low} or more")
        require(0 <= self.gain < 1, "gain", self.gain, "a share in 0 .. 1, below 1")


@dataclass(frozen=True)
class Bench:
    """A data set with its metrics ready for both splits, and a store of what they gave."""

    dataset: Dataset
    plan: Plan
    metric: str
    store: Store
    splits: dict[str, Prepared]
    tick: Callable[[], None] = lambda: None

    def judge(self, metric: str | None = None) -> Judge:
        """How points are compared: by this metric of the test split, or the one that chooses."""
        name = metric or self.metric
        meter = next(m for m in self.splits["test"].meters if m.metric == name)
        return Judge(name, -1.0 if meter.protocol["statistic"] in HIGHER else 1.0, self.plan.gain)

    @property
    def sign(self) -> float:
        """1 where lower is better, -1 where higher is."""
        return self.judge().sign

    def candidate(self, generator: Generator, steps: int, number: int) -> Result:
        """The score of the `number`-th candidate on the validation split."""
        (result,) = self._scored(
            generator, steps, "validation", self.plan.search_n, search_seed(self.plan.seed), number
        )
        return result

    def final(self, generator: Generator, steps: int) -> dict[str, Result]:
        """Every metric on the test split, which chooses nothing."""
        results = self._scored(generator, steps, "test", self.plan.n, self.plan.seed, 1)
        return {result.metric: result for result in results}

    def _scored(
        self, generator: Generator, steps: int, split: str, n: int, seed: int, candidates: int
    ) -> list[Result]:
        prepared = self.splits[split]
        key = {
            "weights": evaluated(generator),
            "steps": steps,
            "split": split,
            "n": n,
            "size": prepared.size,
            "seed": seed,
            "metrics": [
                [m.metric, *(m.protocol.get(part) for part in _MEASURED)] for m in prepared.meters
            ],
        }

        def measure() -> list[Result]:
            return evaluate(
                generator,
                self.dataset,
                steps=(steps,),
                n=n,
                seed=seed,
                split=split,
                draw=self.plan.draw,
                candidates=candidates,
                prepared=prepared,
            )[0]

        results = self.store.get(key, measure)
        self.tick()
        return results


def evaluated(generator: Generator) -> dict[str, Any]:
    """What decides the samples beside seed and steps."""
    sampler = generator.method.sampler
    return {
        "denoiser": generator.fingerprint,
        "sampler": sampler if isinstance(sampler, str) else "own",
        "levels": generator.run.middle_times,
        "composite": isinstance(generator.denoiser, Truncated),
    }


def held_out(dataset: Dataset) -> dict[str, str]:
    """SHA-256 of both held-out splits."""
    parts = {split: getattr(dataset, split).x0 for split in ("validation", "test")}
    return {
        split: hashlib.sha256(x0.contiguous().numpy().tobytes()).hexdigest()
        for split, x0 in parts.items()
    }


def prepare(
    dataset: Dataset,
    plan: Plan,
    extractor: Extractor | None = None,
    reference: Statistics | None = None,
) -> tuple[str, dict[str, Prepared]]:
    """The metric that is searched on, and the metrics of both splits: that one alone, and all.

    Raises UserError for an unknown metric and for one that is no measure of quality.
    """
    metric = default_metric(extractor) if plan.metric is None else plan.metric
    named = spaces_of(dataset, extractor).named()
    if metric not in named:
        raise unknown("metric", metric, named)
    if named[metric][1] == "nearest_ratio":
        raise UserError(
            f"metric {metric}: it tells memorised samples, and its best is 1; expected one such as"
            " energy"
        )
    shared: dict[str, Any] = {"extractor": extractor, "reference": reference}
    found = {}
    for split, n in (("validation", plan.search_n), ("test", plan.n)):
        arrays = getattr(dataset, split)
        size = min(len(arrays.x0), n) if plan.draw is None else plan.draw
        if size < 2:
            raise UserError(
                f"data {dataset.name!r} has {len(arrays.x0)} {split} samples: expected at least 2"
                " to score"
            )
        asked = [metric] if split == "validation" else None
        meters, spaces = meters_of(dataset, arrays, size, metrics=asked, **shared)
        if metric not in [meter.metric for meter in meters]:
            meters = [*meters_of(dataset, arrays, size, metrics=[metric], **shared)[0], *meters]
        found[split] = Prepared(meters, spaces, split, size)
    return metric, found
