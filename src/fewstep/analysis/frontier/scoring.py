"""Scores by `metrics.evaluate`: candidates on the validation split, choices on the test split."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from fewstep.analysis.frontier.points import Judge
from fewstep.analysis.frontier.store import Store
from fewstep.analysis.metrics import (
    METRICS,
    Extractor,
    Prepared,
    Result,
    Statistics,
    evaluate,
    meters_of,
    spaces_of,
)
from fewstep.analysis.metrics.evaluation import split_of
from fewstep.base.conditions import Cond, examples, kind_of
from fewstep.base.errors import UserError, require, unknown
from fewstep.base.randomness import block_seed
from fewstep.core.denoiser import Truncated
from fewstep.data import Dataset
from fewstep.run.generator import Generator

log = logging.getLogger("fewstep")

_KEY_FACTS = ("statistic", "extractor", "reference")  # of a metric, beside its name


def default_metric(extractor: Extractor | None) -> str:
    """energy, unbiased at every n and 0 for equal laws alone; an extractor's Fréchet distance."""
    row = METRICS["energy"] if extractor is None else METRICS["frechet"]
    return row.name_in(extractor)


def search_seed(seed: int) -> int:
    """The seed of the candidates' samples: another than that of the test."""
    return block_seed(seed, "frontier search", 0)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The size of a study."""

    steps: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    teacher_steps: tuple[int, ...] = (1, 2, 4, 8, 16, 35)
    metric: str | None = None
    n: int = 10_000
    search_n: int = 3000
    draw: int | None = None
    candidates: int = 24
    seed: int = 0
    batch: int = 256
    at_once: int | None = None  # samples; None: what memory takes
    repeats: int = 15
    gain: float = 0.05

    def __post_init__(self) -> None:
        for name, counts in (("steps", self.steps), ("teacher_steps", self.teacher_steps)):
            is_valid = len(counts) > 0 and all(count >= 1 for count in counts)
            require(is_valid, name, counts, "numbers from 1 on")
            object.__setattr__(self, name, tuple(sorted(set(counts))))
        for name, value, least in (
            ("n", self.n, 2),
            ("search_n", self.search_n, 2),
            ("candidates", self.candidates, 1),
            ("seed", self.seed, 0),
            ("batch", self.batch, 1),
            ("repeats", self.repeats, 3),
        ):
            require(value >= least, name, value, f"{least} or more")
        require(self.at_once is None or self.at_once >= 1, "at_once", self.at_once, "1 or more")
        require(0 <= self.gain < 1, "gain", self.gain, "a share in 0 .. 1, below 1")


@dataclass(frozen=True)
class Bench:
    """A data set with its metrics ready for both splits, and a store of scores."""

    dataset: Dataset
    plan: Plan
    metric: str
    store: Store
    splits: dict[str, Prepared]
    tick: Callable[[], None] = lambda: None

    def judge(self, metric: str | None = None) -> Judge:
        """Compares points by this metric of the test split; left out, by the one that chooses."""
        name = metric or self.metric
        rows = {meter.metric: meter.row for meter in self.splits["test"].meters}
        sign = -1.0 if rows[name].better == "higher" else 1.0
        return Judge(name, sign, self.plan.gain)

    @property
    def sign(self) -> float:
        """1 where lower is better, -1 where higher is."""
        return self.judge().sign

    def conditions(self, n: int) -> Cond:
        """n conditions of held-out rows in turn, as `Generator.sample` takes them.

        None where there are none, or labels alone, which take turns by themselves.
        """
        cond = self.dataset.validation.cond
        return self.dataset.user_cond(examples(cond, kind_of(cond), n))

    def candidate(self, generator: Generator, steps: int, number: int) -> Result:
        """The score of the `number`-th candidate on the validation split."""
        seed = search_seed(self.plan.seed)
        (result,) = self._score(generator, steps, "validation", self.plan.search_n, seed, number)
        return result

    def final(self, generator: Generator, steps: int) -> dict[str, Result]:
        """Every metric on the test split, which chooses nothing."""
        results = self._score(generator, steps, "test", self.plan.n, self.plan.seed, 1)
        return {result.metric: result for result in results}

    def _score(
        self, generator: Generator, steps: int, split: str, n: int, seed: int, candidates: int
    ) -> list[Result]:
        measures = self.splits[split]
        metrics = [
            [meter.metric, *(meter.protocol.get(fact) for fact in _KEY_FACTS)]
            for meter in measures.meters
        ]
        key = {
            "weights": sample_facts(generator),
            "steps": steps,
            "split": split,
            "n": n,
            "size": measures.size,
            "seed": seed,
            "metrics": metrics,
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
                prepared=measures,
                batch=self.plan.at_once,
            )[0]

        results = self.store.get(key, measure)
        self.tick()
        return results


def sample_facts(generator: Generator) -> dict[str, Any]:
    """What the samples depend on, beside seed and steps."""
    sampler = generator.method.sampler
    return {
        "denoiser": generator.fingerprint,
        "sampler": sampler if isinstance(sampler, str) else repr(generator.method),
        "levels": generator.run.later_sigmas,
        "composite": isinstance(generator.denoiser, Truncated),
    }


def with_validation(dataset: Dataset) -> Dataset:
    """Rows that no run learned (`run.datasets.held_out`), half of the test split to choose by."""
    if not dataset.held_out_of or len(dataset.validation):
        return dataset
    test, count = dataset.test, len(dataset.test)
    choose, score = torch.arange(count).split([count // 2, count - count // 2])
    log.warning("fewstep: of these %d, %d choose and %d score", count, len(choose), len(score))
    return replace(dataset, validation=test.rows(choose), test=test.rows(score))


def held_out(dataset: Dataset) -> dict[str, str]:
    """SHA-256 of both held-out splits."""
    splits = {"validation": dataset.validation.x0, "test": dataset.test.x0}
    return {
        name: hashlib.sha256(x0.contiguous().numpy().tobytes()).hexdigest()
        for name, x0 in splits.items()
    }


def prepare(
    dataset: Dataset,
    plan: Plan,
    extractor: Extractor | None = None,
    reference: Statistics | None = None,
) -> tuple[str, dict[str, Prepared]]:
    """The metric of the search, and the metrics of both splits: that one alone, and all.

    Raises UserError for an unknown metric and for one that cannot choose.
    """
    metric = default_metric(extractor) if plan.metric is None else plan.metric
    choices = spaces_of(dataset, extractor).metrics()
    if metric not in choices:
        raise unknown("metric", metric, choices)
    row = choices[metric][1]
    if row.better == "one":
        raise UserError(
            f"metric {metric}: its best value is 1 ({row.meaning}); expected one such as energy"
        )
    options: dict[str, Any] = {"extractor": extractor, "reference": reference}
    splits = {}
    for split, n in (("validation", plan.search_n), ("test", plan.n)):
        arrays = split_of(dataset, split)
        if not len(arrays):
            raise UserError(
                f"data {dataset.name!r} has no {split} split, since the runs learned all its"
                f" {len(dataset.train)} rows: name a file with others, --data FILE"
            )
        size = min(len(arrays), n) if plan.draw is None else plan.draw
        if size < 2:
            raise UserError(
                f"data {dataset.name!r} has {len(arrays)} {split} samples: expected at least 2"
                " to score"
            )
        names = [metric] if split == "validation" else None
        meters, spaces = meters_of(dataset, arrays, size, metrics=names, **options)
        if metric not in [meter.metric for meter in meters]:
            meters = [*meters_of(dataset, arrays, size, metrics=[metric], **options)[0], *meters]
        splits[split] = Prepared(meters, spaces, split, size)
    return metric, splits
