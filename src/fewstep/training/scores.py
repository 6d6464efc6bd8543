"""Scores on the validation split while a run trains, by which its best checkpoint is chosen."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from fewstep.base.conditions import Cond, apply_mask
from fewstep.base.data_names import OWN_DATA
from fewstep.base.errors import OutOfMemory, UserError
from fewstep.base.memory import Room
from fewstep.base.randomness import block_seed, permutation
from fewstep.data import Arrays, Dataset
from fewstep.run.checkpoint.best import Best
from fewstep.run.config import AUTO, Run
from fewstep.run.generator import Generator
from fewstep.run.prepare import Prepared
from fewstep.statistics.distances import energy, frechet, spread
from fewstep.training.classifier import classifier
from fewstep.training.log import SCORE
from fewstep.training.loggers import Row
from fewstep.training.state import State

log = logging.getLogger("fewstep")

MOST, FEWEST = 1000, 10  # validation rows that as many samples are compared with
# What may keep the samples of a step from being made: a warning, where no other rank waits.
FAILURES = (OSError, ValueError, MemoryError, torch.OutOfMemoryError, OutOfMemory)

Distance = Callable[[Tensor], float]  # of samples `[N, ...]` in the model's units to the rows


def generator_of(prepared: Prepared, state: State, count: int) -> Generator:
    """The average of this step, for `count` samples; ranks with shards pass the same rows."""
    method = state.position().trained(prepared.method)
    facts = replace(prepared.facts, description={})  # what lies outside is no news here
    generator = Generator(prepared.run, facts, method, state.average, state.step)
    return replace(generator, room=Room(least=count)) if state.is_sharded else generator


def metric_of(run: Run, dataset: Dataset) -> str:
    """The metric that the run is scored by: what it says, or by the data. Raises UserError."""
    if run.eval_metric == AUTO:
        return "feature_frechet" if dataset.classes else "energy"
    if run.eval_metric == "feature_frechet" and not dataset.classes:
        raise UserError(
            f"eval_metric = feature_frechet: data {dataset.name!r} have no classes for the"
            " classifier that it looks through: expected energy"
        )
    return run.eval_metric


@dataclass(frozen=True)
class Scores:
    """Scores the average by samples of always the same noise, with validation rows' conditions."""

    prepared: Prepared
    metric: str
    rows: Arrays  # of the validation split; as many samples
    cond: Cond  # theirs, in the user's units
    distance: Distance | None  # None where another rank has it

    def of(self, state: State) -> float | None:
        """The score of this step, the lower the better; None where there is no finite one.

        By default samples are of 1 step, or of as many as the method's sampler takes.
        """
        dataset = self.prepared.dataset
        if dataset is None or (self.distance is None and not state.is_sharded):
            return None
        seed = block_seed(self.prepared.run.seed, "scores", 0)
        try:
            count = len(self.rows)
            generator = generator_of(self.prepared, state, count)
            x = generator.sample(count, seed=seed, cond=self.cond)
            if self.distance is None or not bool(x.isfinite().all()):
                return None
            value = self.distance(apply_mask(dataset.units.to_model(x), self.rows.cond))
            return value if math.isfinite(value) else None
        except FAILURES as error:
            if state.is_sharded:
                raise  # the others wait for this rank in the middle of a pass
            reason = str(error).partition("\n")[0] or type(error).__name__
            log.warning("fewstep: no score of step %d: %s", state.step, reason)
            return None


def scores_of(prepared: Prepared, main: bool) -> Scores | None:
    """What scores the run; None where it wants no scores.

    main: whether this rank measures. Raises UserError where nothing is held out.
    """
    run, dataset = prepared.run, prepared.dataset
    if not run.eval_every or dataset is None:
        return None
    rows = len(dataset.validation)
    if rows < FEWEST:
        how = "--holdout 0.1, or --validation FILE"
        if dataset.name == OWN_DATA:
            how = "arrays in Python are all learned, so save them as a file and name it as the data"
        raise UserError(
            f"eval_every = {run.eval_every}: {rows} rows are held out for validation, expected"
            f" {FEWEST} or more: {how}"
        )
    metric = metric_of(run, dataset)
    own = dataset.validation.rows(permutation(0, "scores", 0, rows)[:MOST])
    distance = distance_to(own.x0, metric, dataset) if main else None
    return Scores(prepared, metric, own, dataset.user_cond(own.cond), distance)


def distance_to(rows: Tensor, metric: str, dataset: Dataset) -> Distance:
    """The distance of samples to these rows: energy, or Fréchet in a classifier's features."""
    if metric == "energy":
        return partial(energy, y=rows, spread_y=spread(rows))
    judge = classifier(dataset.in_memory())
    goal = judge.features(rows)
    return lambda x: frechet(judge.features(x), goal)


def best_of(rows: Iterable[Row], metric: str, stage: int) -> Best | None:
    """The first of a stage's lowest scores in a log; None where it has none.

    Another stage may be sampled in another number of steps.
    """
    name = SCORE + metric
    own = [row for row in rows if row.get("stage", stage) == stage and row.get(name) is not None]
    values = [Best(row["step"], metric, row[name]) for row in own]
    return min(values, key=lambda best: best.value, default=None)
