"""A number with its error and its protocol; numbers of different protocols are not compared.

The error of a mean over R independent draws is std / sqrt(R). Its nominal 95 % interval is
Student's t with R - 1 degrees of freedom, each end moved out to Hall's where that is farther:
distances of few samples are skewed, and t alone then covers 90 to 93 %. All are given the reference
set and the weights: other training data or another training run would score differently.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewstep.base.errors import UserError

FREE = ("seed", "draws", "generator", "detail")  # comparable numbers may differ in these

Interval = tuple[float, float]


class Estimate(NamedTuple):
    """A mean, its standard error and 95 % interval; the last two are None of a single draw."""

    value: float
    error: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Result:
    """One number with its error, the floor that held-out data reaches, and its protocol."""

    metric: str
    steps: int
    value: float  # mean over the draws: an estimate of E[metric of n samples], given the reference
    error: float | None  # standard error of that mean; None of a single draw
    floor: float | None  # the same for held-out data; None where the split has fewer than n samples
    protocol: dict[str, Any]
    interval: Interval | None = None
    floor_error: float | None = None
    floor_interval: Interval | None = None
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
    interval: Interval | None
    paired: bool


@lru_cache(maxsize=256)
def students_t(freedom: float, level: float = 0.95) -> float:
    """t with P(|T| <= t) = level, by bisection.

    With t = sqrt(f) tan(a) the density is cos(a)^(f - 1), integrated by Gauss's rule.
    """
    nodes, weights = np.polynomial.legendre.leggauss(200)
    gammas = math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2))
    total = gammas * math.sqrt(math.pi) / 2
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        powers = np.cos(angle / 2 * (nodes + 1)) ** (freedom - 1)
        inside = angle / 2 * float(weights @ powers) / total
        if inside < level:
            low = angle
        else:
            high = angle
    return math.sqrt(freedom) * math.tan(low)


def around(value: float, error: float, freedom: float) -> Interval:
    """The 95 % interval of Student's t."""
    half = students_t(freedom) * error
    return value - half, value + half


def estimate(values: Sequence[float] | Tensor) -> Estimate:
    """Mean, standard error and interval of independent draws."""
    draws = torch.as_tensor(values, dtype=torch.float64)
    value = draws.mean().item()
    if len(draws) < 2:
        return Estimate(value, None, None)
    error = draws.std().item() / math.sqrt(len(draws))
    student = around(value, error, len(draws) - 1)
    hall = _hall(draws)
    return Estimate(value, error, (min(student[0], hall[0]), max(student[1], hall[1])))


def _hall(draws: Tensor) -> Interval:
    """Hall's interval of the mean of R draws of skewness g, with a = g / (3 sqrt(R)).

    Its ends are mean - T error, where T + a T^2 + a^2 T^3 / 3 + a / 2 = +-t, with Student's t in
    place of the normal quantile.
    Source: Hall, "On the removal of skewness by transformation", 1992.
    """
    count = len(draws)
    mean = draws.mean().item()
    std = draws.std().item()
    error = std / math.sqrt(count)
    t = students_t(count - 1)
    third = (draws - mean).pow(3).sum().item() * count / max((count - 1) * (count - 2), 1)
    a = third / std**3 / (3 * math.sqrt(count)) if std > 0 else 0.0
    if abs(a) < 1e-9:
        return mean - t * error, mean + t * error
    low, high = ((math.cbrt(1 + 3 * a * (q - a / 2)) - 1) / a for q in (-t, t))
    return mean - high * error, mean - low * error


def jackknife(value: float, without: Sequence[float]) -> Estimate:
    """A single draw's error from the values `without` each of its G groups.

    sqrt((G-1)/G sum (v_g - mean)^2); on average too large rather than too small.
    Source: Efron & Stein, "The jackknife estimate of variance", 1981.
    """
    values = torch.tensor(without, dtype=torch.float64)
    error = math.sqrt((len(values) - 1) * (values - values.mean()).square().mean().item())
    return Estimate(value, error, around(value, error, len(values) - 1))


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
