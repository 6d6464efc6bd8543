"""Calibration: are the samples for a condition spread as the truth with that condition is?

For each of R held-out rows (x0, condition) the generator draws an ensemble of samples for the
condition, and x0 is the truth (ensembles.py). Padding and constants are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.analysis.metrics.drawing import Clock, Source
from fewstep.analysis.metrics.protocol import Result, result_of
from fewstep.analysis.metrics.scores import Scores
from fewstep.base.conditions import LABELS, apply_mask, each, kind_of, leaves, mask_of
from fewstep.base.errors import NonFiniteError, UserError
from fewstep.base.randomness import block_seed, permutation
from fewstep.data import Arrays, Dataset
from fewstep.statistics import ensembles, rank_test
from fewstep.statistics.intervals import Estimate, estimate, wilson

SIZE = 50  # samples of an ensemble
MOST_ROWS = 500
LEVELS = (50, 80, 95)  # of coverage, in percent

_AT_ONCE = 2**22  # numbers of samples and conditions
_MOST_NAMES = 100  # variables whose values are told


class Score(NamedTuple):
    """A number about all ensembles, its values `[R]` and `[V]`, and how far off the latter are."""

    estimate: Estimate
    rows: Tensor | None = None
    variables: Tensor | None = None
    off: Tensor | None = None
    counts: Tensor | None = None
    p_value: float | None = None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A row of the table; `better` says in what direction, or which value is right."""

    name: str
    meaning: str
    better: str
    score: Callable[[Scores], Score]
    ideal: float | None = None
    has_units: bool = False


def _coverage(level: float, scores: Scores) -> Score:
    inside = ensembles.share_inside(scores.below, scores.equal, SIZE, level)
    rows, variables = scores.by_row(inside), scores.by_variable(inside)
    value, error, _ = estimate(rows)
    interval = wilson(value, error or 0.0, len(rows))
    return Score(Estimate(value, error, interval), rows, variables, (variables - level).abs())


def _ranks(scores: Scores) -> Score:
    """The exact p-value that all ranks are uniform; of a variable the smooth test's, by Holm."""
    ranks = ensembles.ranks_of(scores.below, scores.equal, 0)
    p = ensembles.holm(ensembles.uniformity(ranks, SIZE, mask=scores.mask))
    counts = ranks[scores.mask].bincount(minlength=SIZE + 1)
    value = rank_test.p_value(scores.members)
    return Score(Estimate(value, None, None), None, p, -p, counts, value)


def _spread_skill(scores: Scores) -> Score:
    """sqrt(q) of q = mean a / mean b; a and b are the spread and the skill of a row.

    Its error is that of its linear part, the mean of sqrt(q) + (a - q b) / (2 sqrt(q) mean b).
    """
    a, b = scores.by_row(scores.spread), scores.by_row(scores.skill)
    root = (a.mean() / b.mean()).sqrt()
    rows = root + (a - root.square() * b) / (2 * root * b.mean())
    variables = (scores.by_variable(scores.spread) / scores.by_variable(scores.skill)).sqrt()
    return Score(estimate(rows), rows, variables, variables.log().abs())


def _crps(scores: Scores) -> Score:
    rows = scores.by_row(scores.crps)
    return Score(estimate(rows), rows, scores.by_variable(scores.crps))


def _energy_score(scores: Scores) -> Score:
    return Score(estimate(scores.energy), scores.energy)


_ROWS = (
    *(
        Calibration(
            name=f"coverage_{level}",
            meaning=f"share of held-out numbers in the central {level} % of the samples for their"
            " condition",
            better=f"{level / 100:.2f}",
            score=partial(_coverage, level / 100),
            ideal=level / 100,
        )
        for level in LEVELS
    ),
    Calibration(
        name="ranks",
        meaning="p-value of uniform ranks of held-out numbers among the samples for their condition"
        " (simulation-based calibration), of all variables together",
        better="above 0.05",
        score=_ranks,
    ),
    Calibration(
        name="spread_skill",
        meaning="deviation of the samples for a condition over the error of their mean; below 1 is"
        " overconfident",
        better="1",
        score=_spread_skill,
        ideal=1.0,
    ),
    Calibration(
        name="crps",
        meaning="continuous ranked probability score of the samples for a condition, unbiased",
        better="lower",
        score=_crps,
        has_units=True,
    ),
    Calibration(
        name="energy_score",
        meaning="the same of whole samples: dependence between their numbers counts too",
        better="lower",
        score=_energy_score,
        has_units=True,
    ),
)

CALIBRATION: dict[str, Calibration] = {row.name: row for row in _ROWS}


def choose(
    names: Sequence[str] | None, dataset: Dataset, held_out: Arrays
) -> tuple[list[str] | None, list[str]]:
    """The names of other metrics, and those of this table; None chooses by the data.

    The default is all of them where the data have a condition besides label and mask. Raises
    UserError where fewer than 2 rows are held out.
    """
    if names is None:
        kind = kind_of(dataset.train.cond)
        others = kind.keys() - {"label", "mask"} if isinstance(kind, Mapping) else kind != LABELS
        is_default = kind is not None and bool(others) and len(held_out) > 1
        return None, [*CALIBRATION] if is_default else []
    own = [name for name in names if name in CALIBRATION]
    if own and len(held_out) < 2:
        raise UserError(
            f"{own[0]} compares with held-out rows, and there are {len(held_out)}: leave it out"
        )
    return [name for name in names if name not in CALIBRATION], own


def calibrate(
    source: Source,
    held_out: Arrays,
    names: Sequence[str],
    *,
    steps: int,
    n: int,
    clock: Clock,
    protocol: Mapping[str, Any],
) -> list[Result]:
    """The results of these names by n samples: 50 for each of n / 50 rows, 500 rows at most.

    protocol: what all results of this evaluation have. Raises NonFiniteError.
    """
    if not names:
        return []
    dataset = source.dataset
    there = _mask(dataset, held_out).any(1).nonzero().flatten()
    order = there[permutation(0, "calibration rows", 0, len(there))]
    rows = held_out.rows(order[: min(MOST_ROWS, max(n // SIZE, 2))])
    width = sum(part[0].numel() for part in (rows.x0, *dict(leaves(rows.cond)).values()))
    parts = torch.arange(len(rows)).split(_AT_ONCE // (SIZE * width) + 1)
    sample = partial(source.ensembles, steps=steps, clock=clock)
    scores = Scores.concat(
        [
            _scores(
                sample, dataset, rows.rows(part), block_seed(source.seed, "calibration", number)
            )
            for number, part in enumerate(parts)
        ]
    )
    facts = {
        **protocol,
        "reference": dataset.fingerprint(),
        "n": SIZE,
        "draws": len(rows),
        "error": "standard error of the mean over held-out rows",
    }
    return [_result(CALIBRATION[name], scores, dataset, steps, facts) for name in names]


def _mask(dataset: Dataset, rows: Arrays) -> Tensor:
    """The numbers `[R, V]` of the rows that are neither padding nor constants."""
    mask, varies = mask_of(rows.x0, rows.cond), dataset.units.scales(dataset.shape) != 0
    return (varies if mask is None else mask & varies).expand_as(rows.x0).flatten(1)


def _scores(sample: Callable[..., Tensor], dataset: Dataset, rows: Arrays, seed: int) -> Scores:
    """The scores of the samples for these rows' conditions."""
    cond = each(lambda part: part.repeat_interleave(SIZE, 0), rows.cond)
    x = sample(cond, SIZE * len(rows), seed=seed)
    if not bool(x.isfinite().all()):
        raise NonFiniteError(
            "the samples for held-out conditions hold NaN or infinity: there is nothing to score"
        )
    x = apply_mask(dataset.units.to_model(x), cond).double()
    y = apply_mask(rows.x0, rows.cond).double().flatten(1)
    return Scores.of(x.reshape(len(y), SIZE, -1), y, _mask(dataset, rows), seed)


def _result(
    row: Calibration, scores: Scores, dataset: Dataset, steps: int, protocol: Mapping[str, Any]
) -> Result:
    """A row's result. The variables are `detail` in the protocol, which `compare` leaves out.

    A mean over variables of unlike scales is in the model's units, a variable's value in its own.
    """
    real = scores.mask.any(0)
    scales = dataset.units.scales(dataset.shape).flatten()[real]
    is_one = bool((scales == scales[0]).all())
    unit = scales[0].item() if is_one else 1.0
    scores = scores.numbers(real)
    scores = replace(scores, crps=unit * scores.crps, energy=unit * scores.energy)
    score = row.score(scores)
    facts = {**protocol, "statistic": row.name, "ideal": row.ideal}
    if row.has_units:
        facts["units"] = "data" if is_one else "model"
    if score.variables is not None:
        names = [name for name, is_real in zip(_names(dataset), real, strict=True) if is_real]
        values = score.variables * (scales / unit if row.has_units else 1)
        facts["detail"] = _detail(names, values, score)
    floor = None if row.ideal is None else Estimate(row.ideal, None, None)
    own = [] if score.rows is None else score.rows.tolist()
    return result_of(row.name, steps, score.estimate, floor, facts, own, score.p_value)


def _names(dataset: Dataset) -> list[str]:
    """The name of each number of a sample: its column's, or its place."""
    columns = dataset.names.columns
    if len(columns) == math.prod(dataset.shape):
        return [column.name for column in columns]
    return [",".join(map(str, place)) for place in product(*map(range, dataset.shape))]


def _detail(names: list[str], values: Tensor, score: Score) -> dict[str, Any]:
    """The variables' values, where they are not many; the worst one; how often each rank is."""
    detail: dict[str, Any] = {}
    if len(names) <= _MOST_NAMES:
        detail["variables"] = dict(zip(names, values.tolist(), strict=True))
    if score.off is not None:
        worst = int(score.off.nan_to_num(-math.inf).argmax())
        detail["worst"] = [names[worst], values[worst].item()]
    if score.counts is not None:
        detail["counts"] = score.counts.tolist()
    return detail
