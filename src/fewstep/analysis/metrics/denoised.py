"""How well one evaluation denoises: distances of denoised held-out data to data, by noise level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.analysis.metrics.drawing import Source
from fewstep.analysis.metrics.prepared import Prepared, floor_of
from fewstep.analysis.metrics.protocol import Result, result_of
from fewstep.base.conditions import Cond, apply_mask, each
from fewstep.base.errors import UserError, require
from fewstep.base.randomness import SAMPLING_BLOCK, normal
from fewstep.core.denoiser import Denoiser
from fewstep.core.process import Process, Time
from fewstep.data import Arrays
from fewstep.statistics.distances import frechet
from fewstep.statistics.moments import Statistics, moments

NAME = "denoised_"


@torch.no_grad()
def denoise(
    denoiser: Denoiser, process: Process, x0: Tensor, z: Tensor, t: Time, cond: Cond = None
) -> Tensor:
    """D(mix(x0, z, t), t): data under noise at time t after one evaluation, 0 in the padding."""
    return apply_mask(denoiser(process.mix(x0, z, t), t, cond), cond)


def denoised_frechet(
    denoiser: Denoiser,
    process: Process,
    x0: Tensor,
    z: Tensor,
    t: Time,
    *,
    cond: Cond = None,
    reference: Statistics | None = None,
    features: Callable[[Tensor], Tensor] = lambda x: x,
) -> float:
    """dFID_t: the squared Fréchet distance of denoised data to data, of their features.

    Data N(m, s^2) have denoised ones N(m, s^4 / (s^2 + t^2)) on edm by the ideal denoiser: a mean
    guess is narrower than the data. The ideal consistency model keeps the law: its distance is 0.

    Args:
        denoiser: (x_t, t, cond) -> x0_hat
        process: of its times
        x0: data `[N, ...]`, in the model's units
        z: unit noise like x0
        t: a time of the process
        cond: of the rows
        reference: moments of features of data; None: of x0
        features: `[N, ...] -> [N, F]`; by default the values

    Source: TCM, arXiv 2410.14895, section 3.1.
    """
    x = denoise(denoiser, process, x0, z, t, cond)
    return frechet(features(x), reference or moments(features(x0)))


def denoised_results(
    source: Source,
    prepared: Prepared | None,
    held_out: Arrays,
    levels: Sequence[float],
    protocol: dict[str, Any],
) -> list[Result]:
    """The Fréchet distances of denoised held-out rows to the reference, at each noise level.

    The rows are the floor's, and the floor is the distance without noise. Raises UserError where
    there are fewer rows than a draw has, or no Fréchet distance among the metrics.
    """
    if not levels:
        return []
    meters = [m for m in prepared.meters if m.row.from_moments is not None] if prepared else []
    if prepared is None or not meters:
        raise UserError("denoised: there is no Fréchet distance among the metrics: name one")
    size, count = prepared.size, len(held_out)
    require(size <= count, "denoised: draw", size, f"at most the {count} held-out rows")
    rows = held_out.rows(torch.arange(count // size * size))
    results = []
    for level in levels:
        x = Arrays(_denoised(source, rows, level), rows.cond)
        for meter in meters:
            features = prepared.spaces.features[meter.space](x)
            score = floor_of(meter.measure, features, size)
            assert score is not None
            own = {**protocol, **meter.protocol, "draws": len(rows) // size, "level": level}
            own["time"] = process_time(source.generator.method.process, level)
            own["statistic"] = NAME + meter.row.name
            own["trained_from"] = source.generator.answers_from
            name = f"{NAME}{meter.metric}@{level:g}"
            results.append(result_of(name, 1, score, meter.floor, own, [score.value]))
    return results


def check_denoised(process: Process, levels: Sequence[float]) -> None:
    """Raises UserError for a noise level where nothing can be asked."""
    top = process.level(process.t_max).item()
    for level in levels:
        require(0 < level <= top * (1 + 1e-9), "denoised", level, f"above 0, at most {top:.4g}")


def process_time(process: Process, level: float) -> float:
    """The time of a noise level, t_max at most."""
    return min(process.time_at(level).item(), process.t_max)


def _denoised(source: Source, rows: Arrays, level: float) -> Tensor:
    """The rows after one evaluation at a noise level; at all levels under the same noise."""
    generator = source.generator
    process, device, shape = generator.method.process, generator.device, generator.facts.shape
    t = process_time(process, level)

    def work(part: range) -> Tensor:
        index = torch.arange(part.start, part.stop)
        own = rows.rows(index)
        z = normal(source.seed, "denoised", part.start, len(part), shape, SAMPLING_BLOCK)
        z = apply_mask(z, own.cond)
        cond = each(lambda one: one.to(device), own.cond)
        x = denoise(generator.denoiser, process, own.x0.to(device), z.to(device), t, cond)
        return x.cpu()

    parts = generator.room.parts(len(rows), work, source.batch, device)
    return torch.cat(list(parts))
