"""The uncertainty of a mean: standard errors and nominal 95 % intervals.

The error of a mean over R independent draws is std / sqrt(R), its interval Student's t with R - 1
degrees of freedom. Of distances of few samples, which are skewed, t alone covers 90 to 93 %: for
them `estimate` moves each end out to Hall's where that is farther.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from statistics import fmean, median, stdev
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewstep.base.errors import require

Ends = tuple[float, float]


class Estimate(NamedTuple):
    """A mean, its standard error and 95 % interval; the last two are None of a single draw."""

    value: float
    error: float | None
    interval: Ends | None


class Interval(NamedTuple):
    """A mean over seeds and its 95 % interval; unbounded for a single seed."""

    mean: float
    low: float
    high: float


class Median(NamedTuple):
    """A median and its 95 % interval; unbounded of fewer than six values."""

    value: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """mean +- t std / sqrt(n), Student's t with n - 1 degrees of freedom.

    Raises UserError without values.
    """
    require(len(values) > 0, "values", list(values), "at least one")
    mean, count = fmean(values), len(values)
    if count == 1:
        return Interval(mean, -math.inf, math.inf)
    return Interval(mean, *around(mean, stdev(values) / math.sqrt(count), count - 1))


def median_interval(values: Sequence[float]) -> Median:
    """The median, between two of the values that it lies between with 95 % at least.

    Of n in order the j-th and (n + 1 - j)-th, j the largest with 2 P(Binomial(n, 1/2) < j) <= 5 %;
    unbounded below six. Raises UserError without values.
    """
    require(len(values) > 0, "values", list(values), "at least one")
    in_order, count = sorted(values), len(values)
    below, j = Fraction(0), 0
    while (below := below + Fraction(math.comb(count, j), 2**count)) <= Fraction(1, 40):
        j += 1
    ends = (in_order[j - 1], in_order[-j]) if j else (-math.inf, math.inf)
    return Median(median(in_order), *ends)


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


def around(value: float, error: float, freedom: float) -> Ends:
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


def _hall(draws: Tensor) -> Ends:
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


def wilson(share: float, error: float, rows: int) -> Ends:
    """The 95 % interval of a share with that standard error, of so many independent rows.

    Wilson's with Student's t, for as many numbers as would have that error were they independent,
    but no fewer than rows. Where all are inside it is no point, as share -+ t error would be.
    Sources: Wilson, "Probable inference", 1927; Korn & Graubard, "Confidence intervals for
    proportions with small expected number of positive counts", 1998.
    """
    variance = max(share * (1 - share), 0.0)
    n = max(variance / error**2, rows) if error else rows
    t = students_t(rows - 1)
    centre = (share + t**2 / (2 * n)) / (1 + t**2 / n)
    half = t / (1 + t**2 / n) * math.sqrt(variance / n + t**2 / (4 * n**2))
    return centre - half, centre + half


def number(value: float) -> str:
    """Four digits, with an exponent only below 1e-4."""
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.4g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.2e}"


def pm(values: Sequence[float]) -> str:
    """Mean ± half of the 95 % interval, to two digits of the latter."""
    mean, low, high = interval(values)
    half = (high - low) / 2
    if half in (0, math.inf):
        return number(mean)
    places = min(8, max(0, 1 - int(f"{half:e}".partition("e")[2])))
    return f"{mean:.{places}f} ± {half:.{places}f}"
