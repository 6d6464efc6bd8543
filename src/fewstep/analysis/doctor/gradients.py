"""The noise of the gradient, by noise level and over the whole law of times."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fewstep.analysis.doctor.levels import Rows, place_of, rows_of, trained_levels
from fewstep.analysis.doctor.subject import Subject
from fewstep.analysis.doctor.verdicts import Cell, Measure, Verdict, judged
from fewstep.base.randomness import SAMPLING_BLOCK, normal, uniform
from fewstep.core.process import Time
from fewstep.data import each

GROUPS, SIZE = 8, 32  # groups of rows at each level, whose gradients are compared
OVERALL = 32  # groups over all levels
MOST = (
    2**27
)  # numbers of all groups' gradients that are held at once: fewer groups of a large network


class Noise(NamedTuple):
    """Of the gradient of the mean loss: its square |G|^2 with the error of that estimate, and tr
    Cov of one row's.
    """

    square: float
    error: float
    variance: float

    @property
    def scale(self) -> float:
        """The simple noise scale tr Cov / |G|^2: the batch whose noise is as long as its gradient."""
        return self.variance / self.square if self.square > 0 else math.inf

    @property
    def at_least(self) -> float:
        """The noise scale with |G|^2 two standard errors longer than it was measured."""
        return self.variance / max(self.square + 2 * self.error, 1e-300)


def noise_of(gradients: Tensor, size: int) -> Noise:
    """From the gradients `[G, P]` of G groups of `size` rows: unbiased, by products of different
    groups.

    |G|^2 = (|sum g|^2 - sum |g|^2) / (G (G - 1)), tr Cov = size (mean |g|^2 - |G|^2); the error of |G|^2 is that of a
    product of independent groups, and where |G|^2 stands out from it that of the groups' mean
    besides: too large rather than too small. Source: McCandlish et al., arXiv 1812.06162, appendix
    A.
    """
    count = len(gradients)
    products = gradients @ gradients.T
    each = products.diagonal()
    across = products[~torch.eye(count, dtype=torch.bool)]
    square = float(across.mean())
    error = float(across.var()) ** 0.5 * (2 / (count * (count - 1))) ** 0.5
    error += (
        2 * float((products.sum(1) - each).div(count - 1).std()) / count**0.5
        if square > error
        else 0.0
    )
    return Noise(square, error, size * max(float(each.mean()) - square, 0.0))


def gradients_of(
    subject: Subject, net: nn.Module, rows: Rows, t: Time | None, groups: int
) -> Tensor:
    """Gradients `[groups, P]` (float64) of the mean loss of consecutive rows; at t, or at times as
    they are drawn.
    """
    weights = [p for p in net.parameters() if p.is_floating_point()]
    groups = max(4, min(groups, MOST // sum(p.numel() for p in weights)))
    count = groups * SIZE
    u = uniform(subject.seed, "doctor gradient", 0, count, 2, SAMPLING_BLOCK)
    method, found = subject.method, []
    times = method.times(u, subject.progress, torch.arange(count))
    if t is not None:
        times = method.times.at(
            torch.full((count,), float(t), dtype=torch.float64), subject.progress
        )
    for first in range(0, count, SIZE):
        part = slice(first, first + SIZE)
        here = times._replace(
            **{name: getattr(times, name)[part] for name in ("t", "r", "a", "w")}, u=u[part]
        )
        here = here._replace(progress=subject.progress)
        cond = each(partial(_cut, part), rows.cond)
        loss = method.loss(subject.models(net), rows.x0[part], rows.z[part], here, cond).mean()
        grads = torch.autograd.grad(loss, weights, allow_unused=True)
        found.append(torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten()
                                for p, g in zip(weights, grads, strict=True)]).double().cpu())  # fmt: skip
    return torch.stack(found)


def _cut(part: slice, rows: Tensor) -> Tensor:
    return rows[part]


def gradient_noise(subject: Subject) -> Measure:
    """The table by level, and whether the batch is far below the noise scale."""
    net = copy.deepcopy(
        subject.student if subject.student is not None else subject.ema
    ).requires_grad_(True)
    rows = cycled(subject, OVERALL * SIZE)
    table: list[tuple[Cell, ...]] = []
    for level in trained_levels(subject):
        noise = noise_of(gradients_of(subject, net, rows, level.t, GROUPS), SIZE)
        table.append(
            (level.level, max(noise.square, 0.0) ** 0.5, noise.variance**0.5, _told(noise.scale))
        )
    overall = noise_of(gradients_of(subject, net, rows, None, OVERALL), SIZE)
    table.append(
        ("all", max(overall.square, 0.0) ** 0.5, overall.variance**0.5, _told(overall.scale))
    )
    return Measure(
        "gradient noise",
        "|G| is the length of the mean gradient of the method's loss, noise the root of the trace"
        " of the covariance of one row's; noise scale is the batch at which the two are equal,"
        " (noise / |G|)^2",
        ("level", "|G|", "noise", "noise scale"),
        table,
        (judge_noise(subject, overall),),
    )


def cycled(subject: Subject, count: int) -> Rows:
    """Training rows, gone through again with other noise where there are fewer than `count`."""
    rows = rows_of(subject.dataset, "train", subject.seed, count, device=place_of(subject))
    index = torch.arange(count) % len(rows.x0)
    z = normal(
        subject.seed, "doctor gradient noise", 0, count, subject.dataset.shape, SAMPLING_BLOCK
    )
    return Rows(rows.x0[index], each(lambda part: part[index], rows.cond), z.to(rows.x0))


def _told(scale: float) -> float | str:
    return "not resolved" if math.isinf(scale) else scale


def judge_noise(subject: Subject, noise: Noise) -> Verdict:
    """The steps that it takes to see the gradient once, against those that the average remembers,
    and all there are.
    """
    run = subject.run
    steps, memory = noise.at_least / run.batch, 1 / (1 - run.ema)
    seen = f"{noise.scale:.3g}" if noise.square > 0 else f"above {noise.at_least:.3g}"
    broken = max(float(run.iterations), memory)
    return judged(
        "gradient-noise",
        steps,
        memory,
        broken,
        against=(
            f"steps that the average remembers, 1 / (1 - ema) = {memory:.4g}; broken at the run's"
            f" {run.iterations}"
        ),
        fine=(
            f"noise scale {seen} rows, batch {run.batch}: the average over {memory:.4g} steps can"
            " see the gradient"
        ),
        ill=(
            f"the batch is far below the noise scale: {seen} rows against {run.batch}, so that it"
            f" takes {steps:.3g} steps to see the gradient once: raise --batch (or --accumulate),"
            " or the average's memory (--ema)"
        ),
    )
