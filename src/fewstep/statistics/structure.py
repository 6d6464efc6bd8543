"""Statistics along axes with an order: roughness, power spectrum, autocorrelation.

Values `[N, C, ...]`, each variable with its axes, NaN where a value is missing; each function
prepares a reference and gives a function of other values.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BANDS = 8  # of a spectrum: the lowest frequency alone, the highest half of them together
LEAST = 1e-4  # of the mean power of a variable: what a band with less counts as having

Compare = Callable[[Tensor], float]


def axes_of(values: Tensor) -> list[int]:
    """The axes of `[N, C, ...]` along which values have neighbours."""
    return [axis for axis in range(2, values.ndim) if values.shape[axis] > 1]


def by_variable(numbers: Tensor) -> Tensor:
    """The mean of each variable `[C]` over all that is there, in float64."""
    rows = numbers.transpose(0, 1).flatten(1)
    there = ~rows.isnan()
    return rows.nan_to_num().sum(1, dtype=torch.float64) / there.sum(1).clamp_min(1)


def squared_differences(values: Tensor) -> Tensor:
    """The mean squared difference of neighbours `[C]`, over all axes."""
    means = [by_variable(values.diff(dim=axis).square()) for axis in axes_of(values)]
    return torch.stack(means).mean(0)


def roughness(reference: Tensor) -> Compare:
    """The mean squared difference of neighbours over the reference's, mean over the variables."""
    usual = squared_differences(reference)
    varies = usual > 0

    def compare(values: Tensor) -> float:
        return (squared_differences(values)[varies] / usual[varies]).mean().item()

    return compare


def powers(values: Tensor, axis: int) -> Tensor:
    """The power in bands of frequencies along an axis `[N, C, ..., bands]`, without the mean.

    Band k of `BANDS` ends at the frequency K^(k / BANDS), K the highest one.
    """
    numbers = values.nan_to_num().movedim(axis, -1)
    spectrum = torch.fft.rfft(numbers, norm="ortho")[..., 1:].abs().square()
    count = spectrum.shape[-1]
    ends = sorted({round((count + 1) ** (k / BANDS)) for k in range(1, BANDS + 1)} - {1})
    starts = [1, *ends[:-1]]
    bands = [spectrum[..., a - 1 : b - 1].mean(-1) for a, b in zip(starts, ends, strict=True)]
    return torch.stack(bands, -1)


def _mean_powers(values: Tensor) -> list[Tensor]:
    """The mean power `[C, bands]` along each axis, over rows and all other axes."""
    means = []
    for axis in axes_of(values):
        power = powers(values, axis).transpose(0, 1)
        power = power.reshape(power.shape[0], -1, power.shape[-1])
        means.append(power.mean(1, dtype=torch.float64))
    return means


def spectrum(reference: Tensor) -> Compare:
    """The relative difference of the mean power in the worst band of any variable and axis."""
    usual = _mean_powers(reference)
    scales = [power.maximum(LEAST * power.mean(1, keepdim=True)) for power in usual]

    def compare(values: Tensor) -> float:
        worst = 0.0
        for power, own, scale in zip(_mean_powers(values), usual, scales, strict=True):
            varies = own.sum(1) > 0
            gaps = (power - own)[varies].abs() / scale[varies]
            worst = max(worst, gaps.max().item() if gaps.numel() else 0.0)
        return worst

    return compare


def _correlations(values: Tensor, centre: Tensor) -> Tensor:
    """The correlation of neighbours 1, 2, 4, ... apart along each axis `[C, lags]`."""
    deviations = values - centre.reshape(-1, *[1] * (values.ndim - 2)).to(values)
    variance = by_variable(deviations.square())
    columns = []
    for axis in axes_of(values):
        length = values.shape[axis]
        lag = 1
        while lag < length:
            one = deviations.narrow(axis, lag, length - lag)
            columns.append(by_variable(one * deviations.narrow(axis, 0, length - lag)))
            lag *= 2
    return torch.stack(columns, 1) / variance.clamp_min(1e-30)[:, None]


def autocorrelation(reference: Tensor) -> Compare:
    """The largest difference of correlations with the value 1, 2, 4, ... places on.

    Deviations are from the reference's mean of the variable.
    """
    centre = by_variable(reference)
    usual = _correlations(reference, centre)
    varies = squared_differences(reference) > 0

    def compare(values: Tensor) -> float:
        gaps = (_correlations(values, centre) - usual)[varies].abs()
        return gaps.max().item() if gaps.numel() else 0.0

    return compare
