"""Loss and denoising error by noise level, on rows that were trained on and rows that were not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fewstep.analysis.doctor.levels import Level, Rows, bound, place_of, rows_of, trained_levels
from fewstep.analysis.doctor.linear_bound import Linear, linear_of
from fewstep.analysis.doctor.subject import Subject
from fewstep.analysis.doctor.verdicts import Measure, Verdict, judged
from fewstep.base.randomness import SAMPLING_BLOCK, uniform
from fewstep.core.distances import mse

SURE = 4.0  # standard errors that a difference must have to be one


class Seen(NamedTuple):
    """What one level shows, on the host: the method's loss on both splits, errors of x0_hat and
    their bound.
    """

    level: Level
    train: Tensor  # [n] the method's loss, weighed as it weighs it
    held: Tensor
    error_train: Tensor  # [n] ||D(x_t, t) - x0||^2 / d
    error: Tensor
    bound: Tensor


def loss_rows(subject: Subject, student: torch.nn.Module, rows: Rows, t: float) -> Tensor:
    """The method's own loss `[n]` at one time, with this network in the student's place; nothing is
    dropped.
    """
    count = len(rows.x0)
    times = subject.method.times.at(torch.full((count,), t, dtype=torch.float64), subject.progress)
    u = uniform(subject.seed, "doctor pairs", 0, count, 2, SAMPLING_BLOCK)
    times = times._replace(u=u, progress=subject.progress)
    found = subject.method.loss(subject.models(student), rows.x0, rows.z, times, rows.cond)
    return found.detach().double().cpu()


def at_level(subject: Subject, level: Level, train: Rows, held: Rows, linear: Linear) -> Seen:
    process, net = subject.method.process, subject.ema
    with torch.no_grad():
        errors = [
            mse(net(rows.at(process, level.t), level.t, rows.cond), rows.x0)
            for rows in (train, held)
        ]
        losses = [loss_rows(subject, net, rows, level.t) for rows in (train, held)]
        limit = bound(linear, process, held, level.t)
    return Seen(level, *losses, *(part.double().cpu() for part in (*errors, limit)))


def loss_by_level(subject: Subject) -> Measure:
    """The table, whether it learns its training rows by heart, and whether a level is out of hand."""
    place = place_of(subject)
    train, held = (
        rows_of(subject.dataset, split, subject.seed, device=place)
        for split in ("train", "validation")
    )
    linear = linear_of(subject.dataset.train.x0)
    seen = [at_level(subject, level, train, held, linear) for level in trained_levels(subject)]
    total = sum(one.level.share * float(one.held.mean()) for one in seen) or 1.0
    rows = [
        (
            one.level.level,
            one.level.share,
            float(one.train.mean()),
            float(one.held.mean()),
            one.level.share * float(one.held.mean()) / total,
            float(one.error_train.mean()),
            float(one.error.mean()),
            float(one.bound.mean()),
        )
        for one in seen
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
        (learnt_by_heart(seen), out_of_hand(subject, seen)),
    )


def learnt_by_heart(seen: list[Seen]) -> Verdict:
    """The held-out error over the training error, levels weighed by 1 / bound so that each counts."""
    trained, held = (
        torch.stack([errors / one.bound.mean() for one, errors in zip(seen, found, strict=True)])
        for found in zip(*((one.error_train, one.error) for one in seen), strict=True)
    )
    return overfitting(trained, held, [one.level.level for one in seen])


def overfitting(trained: Tensor, held: Tensor, levels: Sequence[float]) -> Verdict:
    """Of errors `[L, n]` in units of each level's bound, on training rows and on held-out ones."""
    ratio = float(held.mean() / trained.mean().clamp_min(1e-300))
    noise = sum(
        float(part.mean(0).var()) / part.shape[1] for part in (trained, held)
    ) ** 0.5 / float(trained.mean())
    watch = 1 + SURE * noise
    most = levels[int((held.mean(1) / trained.mean(1).clamp_min(1e-300)).argmax())]
    return judged(
        "overfitting",
        ratio,
        max(watch, 1.1),
        max(watch, 1.5),
        against=f"1 and {SURE:g} standard errors, 1.1 at least",
        fine=(
            f"rows it was not trained on are as easy: error {ratio:.2f} times that of training rows"
        ),
        ill=(
            f"it knows its training rows: error on held-out rows is {ratio:.2f} times that on them,"
            f" most at level {most:.2g}: more data, dropout, a smaller network or fewer steps"
        ),
    )


def out_of_hand(subject: Subject, seen: list[Seen]) -> Verdict:
    """The worst level's error over what theory gives: the bound of a denoiser, twice that of a jump
    to the data.

    A sample of the posterior has twice the error of its mean, which is at most the bound; on skewed
    mixtures the end of the trajectory was nearer than that (1.5 to 2 times the mean's error):
    measured, not proved.
    """
    limit = 1.0 if subject.denoises else 2.0
    ratios = [float(one.error.mean() / one.bound.mean().clamp_min(1e-300)) / limit for one in seen]
    at = max(range(len(seen)), key=lambda i: math.inf if math.isnan(ratios[i]) else ratios[i])
    scatter = (
        float(seen[at].error.std()) / len(seen[at].error) ** 0.5 / float(seen[at].error.mean())
    )
    watch = 1.1 * (1 + SURE * scatter)
    ratio, worst, error = ratios[at], seen[at].level.level, float(seen[at].error.mean())
    kind = (
        "the best simple denoiser"
        if limit == 1
        else "twice the best simple denoiser, the error of a guess at it"
    )
    return judged(
        "level-out-of-hand",
        ratio,
        watch,
        max(2.0, watch),
        against=f"1 is {kind}, on the same rows; 1.1 and {SURE:g} standard errors",
        fine=(
            f"no level is worse than theory allows: the worst, {worst:.3g}, is at {ratio:.2f} of it"
        ),
        ill=(
            f"at noise level {worst:.3g} its error is {error:.3g}, {ratio:.2f} times what theory"
            " allows: train more there (p_mean, p_std), weigh it more, or look for a fault in what"
            " the network is told of it"
        ),
    )
