"""The scores of a run, which stay in its folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fewstep.analysis.metrics import (
    CALIBRATION,
    METRICS,
    Result,
    evaluate,
    meters_of,
    spaces_of,
)
from fewstep.analysis.metrics.drawing import default_steps
from fewstep.analysis.metrics.prepared import Meters
from fewstep.base import disk
from fewstep.base.conditions import leaves
from fewstep.base.errors import StorageError, UserError, require, storage, unknown
from fewstep.base.json_file import document
from fewstep.base.surroundings import threads
from fewstep.core.sampling import sampler
from fewstep.data import Arrays, Dataset
from fewstep.run.checkpoint import fingerprint
from fewstep.run.datasets import data_of
from fewstep.run.generator import Generator

log = logging.getLogger("fewstep")

NAME = "scores.json"
SPLIT = "validation"  # since the best is chosen: the test split is for what was chosen


@dataclass(frozen=True)
class Scoring:
    """How runs are scored; the defaults are those of `fewstep eval`.

    steps: network evaluations. n: samples, cut into draws of the split's size.
    """

    steps: tuple[int, ...] | None = None
    metrics: tuple[str, ...] | None = None
    n: int = 10_000

    def __post_init__(self) -> None:
        require(self.n >= 2, "n", self.n, "2 or more")
        require(all(k >= 1 for k in self.steps or ()), "steps", self.steps, "numbers from 1 on")

    def check(self, dataset: Dataset) -> None:
        """Raises UserError for a metric that there is not for such data, and without a split."""
        if not len(dataset.validation):
            raise UserError(
                f"data {dataset.name!r} without a validation split: give it one (--holdout 0.1),"
                " or score nothing (--no-eval)"
            )
        choices = spaces_of(dataset, None).metrics().keys() | CALIBRATION.keys()
        for name in self.metrics or ():
            if name not in choices:
                raise unknown("metric", name, choices)


def read(folder: Path, fingerprint: str | None, scoring: Scoring | None = None) -> list[Result]:
    """The scores in a run's folder; none where they are of other weights, or were made otherwise.

    scoring: how they have to be made; None: in any way.
    """
    file = folder / NAME
    if not file.is_file():
        return []
    try:
        facts = document(file.read_bytes(), file)
        fits = scoring is None or facts["scoring"] == _facts(scoring)
        if facts["fingerprint"] != fingerprint or not fits:
            return []
        return [Result.from_json(row) for row in facts["results"]]
    except (OSError, StorageError, UserError, KeyError, TypeError):
        return []  # as if there were none: they are made again


def score(generator: Generator, folder: Path | None, scoring: Scoring) -> list[Result]:
    """Scores a run as `fewstep eval` does, by one thread, and keeps the scores in its folder.

    Numbers of steps that its sampler does not make are left out, with a warning, since other
    methods of a sweep make them. Raises UserError where it makes none of them.
    """
    dataset = data_of(generator.run, generator.facts)
    steps = scoring.steps or default_steps(generator)
    own = sampler(generator.method.sampler)
    others = [k for k in steps if not own.makes(k)]
    steps = tuple(k for k in steps if own.makes(k))
    what = f"numbers that {generator.run.method} makes, such as {own.default}"
    require(len(steps) > 0, "steps", tuple(others), what)
    if others:
        numbers = ", ".join(map(str, others))
        name = generator.run.method
        log.warning("fewstep: %s makes no samples in %s steps: not scored there", name, numbers)
    with threads(1):
        results, _ = evaluate(
            generator,
            dataset,
            steps=steps,
            metrics=None if scoring.metrics is None else [*scoring.metrics],
            n=scoring.n,
            split=SPLIT,
            meters=_meters,
        )
    if folder is not None:
        facts = {
            "fingerprint": generator.fingerprint,
            "scoring": _facts(scoring),
            "results": [asdict(result) for result in results],
        }
        with storage(f"cannot write to {folder}"):
            disk.replace(folder / NAME, (json.dumps(facts) + "\n").encode())
    return results


_memory: dict[str, Meters] = {}  # of the last data of this process


def _meters(dataset: Dataset, held_out: Arrays, n: int, **options: Any) -> Meters:
    """`meters_of`, once for all runs on the same data, since it takes longer than their scores."""
    rows = {"x0": {"x0": held_out.x0}, "cond": dict(leaves(held_out.cond))}
    key = json.dumps([dataset.fingerprint(), fingerprint(rows), n, options["metrics"]])
    if key not in _memory:
        _memory.clear()
        _memory[key] = meters_of(dataset, held_out, n, **options)
    return _memory[key]


def _facts(scoring: Scoring) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(scoring)))


def key_of(result: Result) -> str:
    """How a column is called: feature_frechet@1, the metric and the number of steps."""
    return f"{result.metric}@{result.steps}"


def badness(protocol: Mapping[str, Any], value: float) -> float:
    """What is to be small: the value, its negative, or its distance from what is right."""
    name = protocol["statistic"]
    if name in CALIBRATION:
        row = CALIBRATION[name]
        return value if row.better == "lower" else abs(value - (row.ideal or 1.0))
    better = METRICS[name].better
    return {"lower": value, "higher": -value, "one": abs(value - 1)}[better]
