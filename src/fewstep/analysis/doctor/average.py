"""The average of the weights against the student: too slow, without effect, or needed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fewstep.analysis.doctor.levels import held_out_rows, trained_levels
from fewstep.analysis.doctor.subject import Subject
from fewstep.analysis.doctor.verdicts import Measure, Verdict, judge
from fewstep.base.conditions import apply_mask
from fewstep.base.randomness import block_seed, shuffled_indices
from fewstep.core.distances import mse
from fewstep.data import each
from fewstep.statistics.distances import energy, spread

DRAWS, SIZE = 8, 128  # groups of samples that a network is scored by, and samples of each
MOST = 1000  # real rows that they are compared with
LAGS, NOISY = (1.25, 2.0), (2.0, 4.0)  # factors between distances of samples: to watch, broken
LOSS = 1.1, 1.5  # likewise between errors of denoisers, of which most is the data's own uncertainty


class Score(NamedTuple):
    """The scores by group of samples; lower is better."""

    average: Tensor
    student: Tensor
    real: Tensor  # of real rows instead of samples: their scatter is the floor


def draw_samples(subject: Subject, net: nn.Module) -> Tensor:
    """Samples `[DRAWS * SIZE, ...]` in the model's units, with the training split's labels."""
    count, train = DRAWS * SIZE, subject.dataset.train
    index = shuffled_indices(subject.seed, "doctor labels", 0, count, len(train))
    cond = each(lambda part: part[index], train.cond)
    seed = block_seed(subject.seed, "doctor samples", 0)
    user_cond = subject.dataset.user_cond(cond)
    x = subject.generator(net).sample(count, seed=seed, cond=user_cond, batch=subject.batch)
    return apply_mask(subject.dataset.units.to_model(x), cond)


def sample_scores(subject: Subject, average: Tensor, student: Tensor) -> Score:
    """Energy distances to held-out rows of samples from the same noise, and of training rows."""
    train, real = subject.dataset.train.x0, subject.dataset.validation.x0
    real = (real if len(real) else train)[:MOST]
    distance_within = spread(real)
    count = min(DRAWS * SIZE, len(train))
    others = train[shuffled_indices(subject.seed, "doctor real", 0, count, len(train))]

    def distances(x: Tensor) -> Tensor:
        groups = [group for group in x.split(SIZE) if len(group) > 1]
        values = [energy(group, real, distance_within) for group in groups]
        return torch.tensor(values, dtype=torch.float64)

    return Score(distances(average), distances(student), distances(others))


def error_scores(subject: Subject) -> Score:
    """Of a denoiser: its held-out error over all levels, each in units of the student's mean."""
    rows = held_out_rows(subject)
    process, by_level = subject.method.process, []
    assert subject.student is not None
    for level in trained_levels(subject):
        x_t = rows.at(process, level.t)
        with torch.no_grad():
            errors = [
                mse(net(x_t, level.t, rows.cond), rows.x0).double().cpu()
                for net in (subject.ema, subject.student)
            ]
        by_level.append(torch.stack(errors) / errors[1].mean().clamp_min(1e-300))
    average, student = torch.stack(by_level).mean(0)

    def means(errors: Tensor) -> Tensor:
        return torch.stack([part.mean() for part in errors.chunk(DRAWS)])

    return Score(means(average), means(student), torch.zeros(DRAWS, dtype=torch.float64))


def average_gap(subject: Subject, samples: tuple[Tensor, Tensor] | None) -> Measure:
    """Both scores with the floor, and which of the two is better."""
    definition = (
        "energy distance of samples to held-out rows (of a denoiser its held-out error), of the"
        " average and of the raw student from the same noise; floor: training rows instead of"
        " samples"
    )
    if subject.student is None:
        return Measure("average", definition, missing="the folder holds only the average")
    score = error_scores(subject) if samples is None else sample_scores(subject, *samples)
    floor = float(score.real.abs().max())
    rows = [
        (name, float(part.mean()), float(part.std()) / len(part) ** 0.5)
        for name, part in zip(("average", "student", "floor"), score, strict=True)
    ]
    verdicts = (
        judge_slow(subject, score, floor),
        judge_noisy(subject, score, floor),
        judge_idle(subject),
    )
    return Measure("average", definition, ("weights", "score", "its error"), rows, verdicts)


def _ratio(worse: Tensor, better: Tensor, floor: float) -> tuple[float, bool]:
    """How many times worse, with the floor added to both, and whether the difference is certain."""
    difference = worse - better
    error = float(difference.std()) / len(difference) ** 0.5
    above, below = (max(float(part.mean()), 0.0) + floor for part in (worse, better))
    return above / max(below, 1e-300), float(difference.mean()) > 4 * error


def judge_slow(subject: Subject, score: Score, floor: float) -> Verdict:
    ratio, certain = _ratio(score.average, score.student, floor)
    memory = 1 / (1 - subject.run.ema)
    return judge(
        "average-lags",
        ratio,
        *(LOSS if subject.denoises else LAGS),
        against="1 is the raw student's score, 4 standard errors of the paired difference",
        ok=f"the average is as good as the student or better ({ratio:.2f} of its score)",
        fault=(
            f"the average lags: it scores {ratio:.2f} times the raw student's distance, and"
            f" averages over {memory:.4g} of {subject.step} steps: lower --ema (or train longer);"
            " until then sample from --ema student"
        ),
        condition=certain,
    )


def judge_noisy(subject: Subject, score: Score, floor: float) -> Verdict:
    ratio, certain = _ratio(score.student, score.average, floor)
    return judge(
        "student-noisy",
        ratio,
        *(LOSS if subject.denoises else NOISY),
        against="1 is the average's score, 4 standard errors of the paired difference",
        ok=f"the student is not noisy around its average ({ratio:.2f} of its score)",
        fault=(
            f"the student is noisy: it scores {ratio:.2f} times its average's distance, and its"
            " answers are the targets: lower the learning rate, anneal it (final), raise the"
            " batch, or take an averaged target"
        ),
        condition=certain,
    )


def judge_idle(subject: Subject) -> Verdict:
    """Whether the average is over too few steps while the learning rate is still high.

    Too few are under 10, or a thousandth of the run.
    """
    memory = 1 / (1 - subject.run.ema)
    rates = [row["lr"] for row in subject.log or () if isinstance(row.get("lr"), float)]
    least = max(10.0, subject.run.iterations / 1000)
    return judge(
        "average-idle",
        least / memory,
        1.0,
        1e9,
        against=(
            f"{least:g} steps, a thousandth of the run and 10 at least, where the learning rate is"
            " not annealed"
        ),
        ok=f"the average is over {memory:.4g} steps",
        fault=(
            f"the average has no effect: it is over {memory:.3g} steps of"
            f" {subject.run.iterations}, and the learning rate is still high: raise --ema"
        ),
        condition=bool(rates) and rates[-1] > 0.1 * max(rates),
    )
