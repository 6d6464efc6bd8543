"""Scores beside a teacher: the distance to its ODE, and its samples in place of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fewstep.analysis.metrics.drawing import Clock, Source
from fewstep.analysis.metrics.protocol import Result, result_of
from fewstep.base.conditions import Cond, apply_mask, each
from fewstep.base.errors import require
from fewstep.base.randomness import block_seed
from fewstep.data import Arrays, Dataset
from fewstep.run.teacher_ode import Teacher
from fewstep.statistics.intervals import Estimate, around

ODE_ERROR = "ode_error"
MOST_ROWS = 4096  # that are solved: more hardly narrow the error


def ode_error(x: Tensor, ends: Tensor, cond: Cond = None) -> Estimate:
    """The rms of x minus the ODE's ends `[N, ...]`, per number, with standard error and interval.

    sqrt(m), m the mean over rows of ||x - end||^2 / d; its error is that of m over 2 sqrt(m).
    Numbers that cond's mask leaves out do not count. Raises UserError for fewer than 2 rows.
    Source: Direct CM, arXiv 2411.08954, whose ODE error is m.
    """
    require(len(x) >= 2, "rows", len(x), "2 or more")
    require(x.shape == ends.shape, "ends of shape", tuple(ends.shape), f"{tuple(x.shape)}")
    real = apply_mask(torch.ones(x.shape, dtype=torch.float64), cond).flatten(1)
    squares = (x.double() - ends.double()).square().flatten(1).cpu() * real
    rows = squares.sum(1) / real.sum(1)
    value = rows.mean().sqrt().item()
    error = rows.std().item() / len(rows) ** 0.5 / (2 * value) if value else 0.0
    return Estimate(value, error, around(value, error, len(rows) - 1))


def ode_errors(
    source: Source,
    teacher: Teacher | None,
    cond: Cond,
    steps: Sequence[int],
    protocol: dict[str, Any],
) -> list[Result]:
    """The ODE error of a student's samples with these conditions, at each number of steps.

    In the model's units, from the noise that both start from. The floor is the solver's own error:
    that of the teacher with half as many moves. None without a teacher.
    """
    if teacher is None:
        return []
    n = min(protocol["n"] * protocol["draws"], MOST_ROWS)
    cond = each(lambda part: part[:n], cond)

    def samples(of: Source, count: int) -> Tensor:
        return next(of.draws(cond, n, n, count, Clock())).whole().x0

    theirs = replace(source, generator=teacher.generator)
    ends = samples(theirs, teacher.steps())
    floor = ode_error(samples(theirs, teacher.steps(teacher.moves // 2)), ends, cond)
    own = {name: protocol[name] for name in ("split", "seed", "candidates", "generator")}
    own |= {"statistic": ODE_ERROR, "n": n, "draws": 1, "reference": teacher.fingerprint}
    own |= {**teacher.facts(), "error": "standard error over rows", "interval": "95 %, Student's t"}
    results = []
    for count in steps:
        score = ode_error(samples(source, count), ends, cond)
        results.append(result_of(ODE_ERROR, count, score, floor, own, [score.value]))
    return results


def in_place_of_data(
    teacher: Teacher, dataset: Dataset, split: str, n: int, seed: int, batch: int | None
) -> Dataset:
    """The data set with samples of the teacher in its splits, for the conditions of its rows.

    At most n rows for training, the reference; the held-out split is another draw, the floor. Their
    noise is their own: no sample of a student starts from it.
    """

    def draw(part: str, rows: Arrays) -> Arrays:
        own = block_seed(seed, f"teacher in place of {part}", 0)
        source, count = Source(teacher.generator, dataset, own, batch), len(rows)
        draws = source.draws(rows.cond, count, count, teacher.steps(), Clock())
        return next(draws).whole() if count else rows

    return replace(
        dataset,
        name=f"samples of {teacher.name}",
        train=draw("train", dataset.train.rows(torch.arange(min(n, len(dataset.train))))),
        validation=draw(split, dataset.validation) if split == "validation" else dataset.validation,
        test=draw(split, dataset.test) if split == "test" else dataset.test,
        held_out_of=teacher.generator.facts.data,
    )
