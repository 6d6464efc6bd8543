"""A number with its error and its protocol; numbers of different protocols are not compared.

Errors and intervals (`fewstep.statistics.intervals`) are given the reference set and the weights:
other training data or another training run would score differently.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from fewstep.base.errors import UserError
from fewstep.statistics.intervals import Ends, Estimate, around, estimate

FREE = ("seed", "draws", "generator", "detail")  # comparable numbers may differ in these


@dataclass(frozen=True)
class Result:
    """One number with its error, the floor that held-out data reaches, and its protocol."""

    metric: str
    steps: int
    value: float  # mean over the draws: an estimate of E[metric of n samples], given the reference
    error: float | None  # standard error of that mean; None of a single draw
    floor: float | None  # the same for held-out data; None where the split has fewer than n samples
    protocol: dict[str, Any]
    interval: Ends | None = None
    floor_error: float | None = None
    floor_interval: Ends | None = None
    values: tuple[float, ...] = ()  # of each draw
    p_value: float | None = None  # P(as far from held-out data | one law); None: not tested

    @staticmethod
    def from_json(row: dict[str, Any]) -> Result:
        """The result that `fewstep eval --json` printed as `row`."""
        row = {"p_value": None, **row}  # older versions had none
        missing = [f.name for f in fields(Result) if f.name not in row]
        if missing:
            raise UserError(
                f"a result without {', '.join(missing)}: expected what 'fewstep eval --json' prints"
            )
        values = {f.name: row[f.name] for f in fields(Result)}
        for key in ("interval", "floor_interval", "values"):
            if values[key] is not None:
                values[key] = tuple(values[key])
        return Result(**values)


def result_of(
    metric: str,
    steps: int,
    score: Estimate,
    floor: Estimate | None,
    protocol: dict[str, Any],
    values: Sequence[float],
    p_value: float | None = None,
) -> Result:
    """The result of a score and its floor, None where there is none."""
    none = Estimate(score.value, None, None)
    return Result(
        metric=metric,
        steps=steps,
        value=score.value,
        error=score.error,
        floor=floor.value if floor else None,
        protocol=protocol,
        interval=score.interval,
        floor_error=(floor or none).error,
        floor_interval=(floor or none).interval,
        values=tuple(values),
        p_value=p_value,
    )


class Difference(NamedTuple):
    """a - b with standard error and 95 % interval, None where a or b is a single draw."""

    metric: str
    value: float
    error: float | None
    interval: Ends | None
    paired: bool


def compare(a: Result, b: Result) -> Difference:
    """a - b, for two results of one metric and one protocol; a UserError names what differs.

    With one sampling seed and equally many draws, draw i of both starts from the same noise: then
    the differences of the draws are independent. Otherwise the errors add as in Welch's test.
    """
    if a.metric != b.metric:
        raise UserError(f"{a.metric} and {b.metric} are two metrics: there is nothing to compare")
    for field in sorted((a.protocol.keys() | b.protocol.keys()) - {*FREE}):
        x, y = a.protocol.get(field), b.protocol.get(field)
        if x != y:
            raise UserError(
                f"{a.metric}: the protocols differ in {field} ({x} and {y}): measure both alike"
            )
    is_paired = a.protocol.get("seed") == b.protocol.get("seed") and len(a.values) == len(b.values)
    if is_paired and len(a.values) > 1:
        value, error, _ = estimate([x - y for x, y in zip(a.values, b.values, strict=True)])
        assert error is not None
        return Difference(a.metric, value, error, around(value, error, len(a.values) - 1), True)
    value = a.value - b.value
    if a.error is None or b.error is None or min(len(a.values), len(b.values)) < 2:
        return Difference(a.metric, value, None, None, False)
    parts = [a.error**2, b.error**2]
    error = math.sqrt(sum(parts))
    scale = sum(part**2 / (len(r.values) - 1) for part, r in zip(parts, (a, b), strict=True))
    freedom = sum(parts) ** 2 / scale if scale else 1.0
    return Difference(a.metric, value, error, around(value, error, freedom), False)
