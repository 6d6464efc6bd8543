"""Loss and denoising error by noise level, on training rows and on held-out ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fewstep.adapters.linear_bound import Linear, linear_of
from fewstep.adapters.rows import Rows, bound
from fewstep.analysis.doctor.levels import Level, rows_of, trained_levels
from fewstep.analysis.doctor.subject import Subject
from fewstep.analysis.doctor.verdicts import Measure, Verdict, judge
from fewstep.base.randomness import SAMPLING_BLOCK, uniform
from fewstep.core.distances import mse

SURE = 4.0  # standard errors from which on a difference counts


class AtLevel(NamedTuple):
    """The numbers of one level, on the host, of training rows and of held-out ones."""

    level: Level
    loss_train: Tensor  # [n] the method's loss, with its weight
    loss: Tensor
    error_train: Tensor  # [n] ||D(x_t, t) - x0||^2 / d
    error: Tensor
    bound: Tensor  # of the held-out error


def loss_rows(subject: Subject, student: torch.nn.Module, rows: Rows, t: float) -> Tensor:
    """The method's own loss `[n]` at one time with this student, without dropout."""
    count = len(rows)
    same = torch.full((count,), t, dtype=torch.float64)
    u = uniform(subject.seed, "doctor pairs", 0, count, subject.method.uniforms, SAMPLING_BLOCK)
    times = subject.method.times.at(same, subject.progress)
    times = times._replace(u=u, progress=subject.progress)
    loss = subject.method.loss(subject.models(student), rows.x0, rows.z, times, rows.cond)
    return loss.detach().double().cpu()


def at_level(
    subject: Subject, level: Level, train: Rows, held_out: Rows, linear: Linear
) -> AtLevel:
    process, net = subject.method.process, subject.ema
    with torch.no_grad():
        errors = [
            mse(net(rows.at(process, level.t), level.t, rows.cond), rows.x0)
            for rows in (train, held_out)
        ]
        losses = [loss_rows(subject, net, rows, level.t) for rows in (train, held_out)]
        limit = bound(linear, process, held_out, level.t)
    return AtLevel(level, *losses, *(part.double().cpu() for part in (*errors, limit)))


def loss_by_level(subject: Subject) -> Measure:
    """The table, whether it overfits, and whether a level is worse than theory allows."""
    train, held_out = (
        rows_of(subject.dataset, split, subject.seed, device=subject.device)
        for split in ("train", "validation")
    )
    linear = linear_of(subject.dataset.train.x0)
    results = [
        at_level(subject, level, train, held_out, linear) for level in trained_levels(subject)
    ]
    total = sum(one.level.share * float(one.loss.mean()) for one in results) or 1.0
    rows = [
        (
            one.level.level,
            one.level.share,
            float(one.loss_train.mean()),
            float(one.loss.mean()),
            one.level.share * float(one.loss.mean()) / total,
            float(one.error_train.mean()),
            float(one.error.mean()),
            float(one.bound.mean()),
        )
        for one in results
    ]
    return Measure(
        "loss by noise level",
        "rows: share of the training rows nearest to the level; the method's weighted loss of the"
        " average on training and held-out rows, and the level's share of it; error is E||D(x_t, t)"
        " - x0||^2 / d; bound is the least of three simple denoisers on the same held-out rows: the"
        " noise left in, the data's mean, the best linear one",
        (
            "level",
            "rows",
            "loss train",
            "loss held out",
            "of loss",
            "error train",
            "error held out",
            "bound",
        ),
        rows,
        (judge_overfitting(results), judge_levels(subject, results)),
    )


def judge_overfitting(results: list[AtLevel]) -> Verdict:
    """The held-out error over the training error, with weight 1 / bound so that levels count."""
    train = torch.stack([one.error_train / one.bound.mean() for one in results])
    held_out = torch.stack([one.error / one.bound.mean() for one in results])
    return overfitting(train, held_out, [one.level.level for one in results])


def overfitting(train: Tensor, held_out: Tensor, levels: Sequence[float]) -> Verdict:
    """Of errors `[L, n]` in units of each level's bound, on training rows and on held-out ones."""
    ratio = float(held_out.mean() / train.mean().clamp_min(1e-300))
    variance = sum(float(part.mean(0).var()) / part.shape[1] for part in (train, held_out))
    watch = 1 + SURE * (variance**0.5 / float(train.mean()))
    by_level = held_out.mean(1) / train.mean(1).clamp_min(1e-300)
    most = levels[int(by_level.argmax())]
    return judge(
        "overfitting",
        ratio,
        max(watch, 1.1),
        max(watch, 1.5),
        against=f"1 and {SURE:g} standard errors, 1.1 at least",
        ok=f"held-out rows are as easy for it: error {ratio:.2f} times that of training rows",
        fault=(
            f"it overfits: error on held-out rows is {ratio:.2f} times that on training rows,"
            f" most at level {most:.2g}: more data, dropout, a smaller network or fewer steps"
        ),
    )


def judge_levels(subject: Subject, results: list[AtLevel]) -> Verdict:
    """The worst level's error over what theory allows.

    That is the bound for a denoiser, and twice the bound for a jump to the data: a sample of the
    posterior has twice the error of its mean, which is at most the bound. On skewed mixtures the
    end of the trajectory was nearer than that (1.5 to 2 times the mean's error): measured, not
    proved.
    """
    limit = 1.0 if subject.denoises else 2.0
    ratios = [
        float(one.error.mean() / one.bound.mean().clamp_min(1e-300)) / limit for one in results
    ]
    at = max(range(len(ratios)), key=lambda i: math.inf if math.isnan(ratios[i]) else ratios[i])
    ratio, worst = ratios[at], results[at]
    level, error = worst.level.level, float(worst.error.mean())
    scatter = float(worst.error.std()) / len(worst.error) ** 0.5 / error
    watch = 1.1 * (1 + SURE * scatter)
    kind = "the best simple denoiser"
    if limit == 2:
        kind = "twice the best simple denoiser, the error of a guess at it"
    return judge(
        "level-out-of-hand",
        ratio,
        watch,
        max(2.0, watch),
        against=f"1 is {kind}, on the same rows; 1.1 and {SURE:g} standard errors",
        ok=f"no level is worse than theory allows: the worst, {level:.3g}, is at {ratio:.2f} of it",
        fault=(
            f"at noise level {level:.3g} its error is {error:.3g}, {ratio:.2f} times what theory"
            " allows: train more there (p_mean, p_std), weigh it more, or look for a fault in the"
            " noise label"
        ),
    )
