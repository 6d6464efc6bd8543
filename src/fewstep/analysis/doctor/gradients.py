"""The noise of the gradient, by noise level and over the whole law of times."""

from __future__ import annotations

import copy
import math
from functools import partial
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fewstep.adapters.rows import Rows
from fewstep.analysis.doctor.levels import rows_of, trained_levels
from fewstep.analysis.doctor.subject import Subject
from fewstep.analysis.doctor.verdicts import Cell, Measure, Verdict, judge
from fewstep.base.memory import Room
from fewstep.base.randomness import SAMPLING_BLOCK, normal, uniform
from fewstep.core.process import Time
from fewstep.data import each

GROUPS, SIZE = 8, 32  # groups of rows at each level, whose gradients are compared
OVERALL = 32  # groups over all levels
# Numbers of all groups' gradients in memory at once: a large network has fewer groups.
MOST = 2**27


class Noise(NamedTuple):
    """Of the mean loss's gradient: its square, that estimate's error, and tr Cov of a row's."""

    square: float  # |G|^2
    error: float  # of the square
    variance: float  # tr Cov of the gradient of one row

    @property
    def scale(self) -> float:
        """The noise scale tr Cov / |G|^2: the batch whose noise is as long as its gradient."""
        return self.variance / self.square if self.square > 0 else math.inf

    @property
    def at_least(self) -> float:
        """The noise scale with |G|^2 two standard errors longer than it was measured.

        Infinite where that is below 0 too: then the rows say nothing of the gradient.
        """
        longest = self.square + 2 * self.error
        return self.variance / longest if longest > 0 else math.inf


def noise_of(gradients: Tensor, size: int) -> Noise:
    """The noise by the gradients `[G, P]` of G groups of `size` rows, without bias.

    |G|^2 = (|sum g|^2 - sum |g|^2) / (G (G - 1)) is the mean product of different groups, and
    tr Cov = size (mean |g|^2 - |G|^2). The error of |G|^2 is that of a product of independent
    groups; where |G|^2 is above it, that of the groups' mean is added: too large rather than too
    small. Source: McCandlish et al., arXiv 1812.06162, appendix A.
    """
    count = len(gradients)
    products = gradients @ gradients.T
    squares = products.diagonal()
    across = products[~torch.eye(count, dtype=torch.bool)]
    square = float(across.mean())
    error = float(across.var()) ** 0.5 * (2 / (count * (count - 1))) ** 0.5
    if square > error:
        with_others = (products.sum(1) - squares).div(count - 1)
        error += 2 * float(with_others.std()) / count**0.5
    return Noise(square, error, size * max(float(squares.mean()) - square, 0.0))


def gradients_of(
    subject: Subject, net: nn.Module, rows: Rows, t: Time | None, groups: int
) -> Tensor:
    """Gradients `[groups, P]` (float64) of the mean loss of consecutive rows.

    They are taken at t, or at times by the method's own law.
    """
    weights = [p for p in net.parameters() if p.is_floating_point()]
    groups = max(4, min(groups, MOST // sum(p.numel() for p in weights)))
    count = groups * SIZE
    method = subject.method
    u = uniform(subject.seed, "doctor gradient", 0, count, method.uniforms, SAMPLING_BLOCK)
    times = method.times(u, subject.progress, torch.arange(count))
    if t is not None:
        same = torch.full((count,), float(t), dtype=torch.float64)
        times = method.times.at(same, subject.progress)
    models, room = subject.models(net), Room()

    def gradient(first: int, part: range) -> Tensor:
        row = slice(first + part.start, first + part.stop)
        here = times._replace(u=u, progress=subject.progress).at(torch.arange(count)[row])
        cond = each(itemgetter(row), rows.cond)
        losses = method.loss(models, rows.x0[row], rows.z[row], here, cond)
        loss = losses.mean() * (len(losses) / SIZE)
        grads = torch.autograd.grad(loss, weights, materialize_grads=True)
        return torch.cat([grad.flatten() for grad in grads]).double().cpu()

    def group(first: int) -> Tensor:
        work = partial(gradient, first)
        first_part, *others = room.parts(SIZE, work, subject.batch, rows.x0.device)
        return sum(others, first_part)

    return torch.stack([group(first) for first in range(0, count, SIZE)])


def gradient_noise(subject: Subject) -> Measure:
    """The table by level, and whether the batch is far below the noise scale."""
    network = subject.ema if subject.student is None else subject.student
    net = copy.deepcopy(network).requires_grad_(True)
    rows = repeated_rows(subject, OVERALL * SIZE)
    table: list[tuple[Cell, ...]] = []
    for level in trained_levels(subject):
        noise = noise_of(gradients_of(subject, net, rows, level.t, GROUPS), SIZE)
        table.append(_row(level.level, noise))
    overall = noise_of(gradients_of(subject, net, rows, None, OVERALL), SIZE)
    table.append(_row("all", overall))
    return Measure(
        "gradient noise",
        "|G| is the length of the mean gradient of the method's loss, noise the root of the trace"
        " of the covariance of one row's; noise scale is the batch at which the two are equal,"
        " (noise / |G|)^2",
        ("level", "|G|", "noise", "noise scale"),
        table,
        (judge_noise(subject, overall),),
    )


def _row(level: Cell, noise: Noise) -> tuple[Cell, ...]:
    scale = "not resolved" if math.isinf(noise.scale) else noise.scale
    return level, max(noise.square, 0.0) ** 0.5, noise.variance**0.5, scale


def repeated_rows(subject: Subject, count: int) -> Rows:
    """Training rows, repeated with other noise if there are fewer than `count`."""
    rows = rows_of(subject.dataset, "train", subject.seed, count, device=subject.device)
    index = torch.arange(count) % len(rows)
    z = normal(
        subject.seed, "doctor gradient noise", 0, count, subject.dataset.shape, SAMPLING_BLOCK
    )
    return Rows(rows.x0[index], each(lambda part: part[index], rows.cond), z.to(rows.x0))


def judge_noise(subject: Subject, noise: Noise) -> Verdict:
    """The steps that show the gradient once, against those that the average is over, and all."""
    run = subject.run
    steps, memory = noise.at_least / run.batch, 1 / (1 - run.ema)
    if math.isinf(steps):
        text = "noise scale not resolved: with these rows the square of the gradient is below 0"
        return Verdict("gradient-noise", "ok", None, memory, "not measured", text)
    scale = f"{noise.scale:.3g}" if noise.square > 0 else f"above {noise.at_least:.3g}"
    return judge(
        "gradient-noise",
        steps,
        memory,
        max(float(run.iterations), memory),
        against=(
            f"steps that the average is over, 1 / (1 - ema) = {memory:.4g}; broken at the run's"
            f" {run.iterations}"
        ),
        ok=(
            f"noise scale {scale} rows, batch {run.batch}: the average over {memory:.4g} steps can"
            " see the gradient"
        ),
        fault=(
            f"the batch is far below the noise scale: {scale} rows against {run.batch}, so that it"
            f" takes {steps:.3g} steps to see the gradient once: raise --batch (or --accumulate),"
            " or the average's memory (--ema)"
        ),
    )
