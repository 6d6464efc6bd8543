"""The average of the weights against the student it averages: too slow, too fast, or needed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fewstep.analysis.doctor.levels import fresh, trained_levels
from fewstep.analysis.doctor.subject import Subject
from fewstep.analysis.doctor.verdicts import Measure, Verdict, judged
from fewstep.analysis.metrics.distances import energy, spread
from fewstep.base.conditions import masked
from fewstep.base.randomness import block_seed, shuffled_indices
from fewstep.core.distances import mse
from fewstep.data import each

DRAWS, SIZE = 8, 128  # samples that a network is scored by
MOST = 1000  # real rows that they are compared with
LAGS, NOISY = (1.25, 2.0), (2.0, 4.0)  # factors between distances of samples: to watch, broken
LOSS = 1.1, 1.5  # likewise between errors of denoisers, of which most is the data's own uncertainty


class Score(NamedTuple):
    """What a network scores, draw by draw: lower is better."""

    average: Tensor
    student: Tensor
    real: Tensor  # real rows in the samples' place, whose scatter is the floor


def drawn(subject: Subject, net: nn.Module) -> Tensor:
    """Samples `[DRAWS * SIZE, ...]` in the model's units, with the training split's labels."""
    count, train = DRAWS * SIZE, subject.dataset.train
    index = shuffled_indices(subject.seed, "doctor labels", 0, count, len(train.x0))
    cond = each(lambda part: part[index], train.cond)
    seed = block_seed(subject.seed, "doctor samples", 0)
    x = subject.generator(net).sample(count, seed=seed, cond=cond)
    return masked(subject.dataset.units.to_model(x), cond)


def sample_scores(subject: Subject, average: Tensor, student: Tensor) -> Score:
    """Energy distances to held-out rows, of both from the same noise, and of training rows."""
    train, held = subject.dataset.train.x0, subject.dataset.validation.x0
    held = (held if len(held) else train)[:MOST]
    own = spread(held)
    real = train[
        shuffled_indices(subject.seed, "doctor real", 0, min(DRAWS * SIZE, len(train)), len(train))
    ]
    return Score(*(torch.tensor([energy(part, held, own) for part in x.split(SIZE) if len(part) > 1],
                                dtype=torch.float64) for x in (average, student, real)))  # fmt: skip


def error_scores(subject: Subject) -> Score:
    """Of a denoiser: its error on held-out rows over all levels, each in units of the student's
    mean error there.
    """
    rows = fresh(subject)
    process, found = subject.method.process, []
    assert subject.student is not None
    for level in trained_levels(subject):
        x_t = rows.at(process, level.t)
        with torch.no_grad():
            errors = [
                mse(net(x_t, level.t, rows.cond), rows.x0).double().cpu()
                for net in (subject.ema, subject.student)
            ]
        found.append(torch.stack(errors) / errors[1].mean().clamp_min(1e-300))
    both = torch.stack(found).mean(0)
    parts = [part.mean() for one in both for part in one.chunk(DRAWS)]
    average, student = torch.stack(parts[: len(parts) // 2]), torch.stack(parts[len(parts) // 2 :])
    return Score(average, student, torch.zeros(DRAWS, dtype=torch.float64))


def average_gap(subject: Subject, samples: tuple[Tensor, Tensor] | None) -> Measure:
    """Both scores with the floor, and which way the gap goes."""
    definition = (
        "energy distance of samples to held-out rows (of a denoiser its held-out error), of the"
        " average and of the raw student from the same noise; floor: training rows in the samples'"
        " place"
    )
    if subject.student is None:
        return Measure("average", definition, missing="the folder holds only the average")
    score = error_scores(subject) if samples is None else sample_scores(subject, *samples)
    floor = float(score.real.abs().max())
    rows = [(name, float(part.mean()), float(part.std()) / len(part) ** 0.5) for name, part in
            zip(("average", "student", "floor"), score, strict=True)]  # fmt: skip
    verdicts = (
        judge_slow(subject, score, floor),
        judge_noisy(subject, score, floor),
        judge_idle(subject),
    )
    return Measure("average", definition, ("weights", "score", "its error"), rows, verdicts)


def _ratio(worse: Tensor, better: Tensor, floor: float) -> tuple[float, bool]:
    """How many times worse, counting what the floor's scatter hides as nothing; and whether that is
    certain.
    """
    apart = worse - better
    sure = float(apart.mean()) > 4 * float(apart.std()) / len(apart) ** 0.5
    return (max(float(worse.mean()), 0.0) + floor) / max(
        max(float(better.mean()), 0.0) + floor, 1e-300
    ), sure


def judge_slow(subject: Subject, score: Score, floor: float) -> Verdict:
    ratio, sure = _ratio(score.average, score.student, floor)
    memory = 1 / (1 - subject.run.ema)
    return judged(
        "average-lags",
        ratio,
        *(LOSS if subject.denoises else LAGS),
        against="1 is the raw student's score, 4 standard errors of the paired difference",
        fine=f"the average is as good as the student or better ({ratio:.2f} of its score)",
        ill=(
            f"the average lags: it scores {ratio:.2f} times the raw student's distance, and"
            f" remembers {memory:.4g} of {subject.step} steps: lower --ema (or train longer); until"
            " then sample from --ema student"
        ),
        also=sure,
    )


def judge_noisy(subject: Subject, score: Score, floor: float) -> Verdict:
    ratio, sure = _ratio(score.student, score.average, floor)
    return judged(
        "student-noisy",
        ratio,
        *(LOSS if subject.denoises else NOISY),
        against="1 is the average's score, 4 standard errors of the paired difference",
        fine=f"the student is no noise around its average ({ratio:.2f} of its score)",
        ill=(
            f"the student is noisy: it scores {ratio:.2f} times its average's distance, and its"
            " answers are the targets: lower the learning rate, anneal it (final), raise the"
            " batch, or take an averaged target"
        ),
        also=sure,
    )


def judge_idle(subject: Subject) -> Verdict:
    """Whether the average remembers under 10 steps, or a thousandth of the run, while the learning
    rate is still up.
    """
    memory = 1 / (1 - subject.run.ema)
    rates = [row["lr"] for row in subject.log or () if isinstance(row.get("lr"), float)]
    up = bool(rates) and rates[-1] > 0.1 * max(rates)
    least = max(10.0, subject.run.iterations / 1000)
    return judged(
        "average-idle",
        least / memory,
        1.0,
        1e9,
        against=(
            f"{least:g} steps, a thousandth of the run and 10 at least, where the learning rate is"
            " not annealed"
        ),
        fine=f"the average remembers {memory:.4g} steps",
        ill=(
            f"the average averages nothing: it remembers {memory:.3g} steps of"
            f" {subject.run.iterations}, and the learning rate is still up: raise --ema"
        ),
        also=up,
    )
