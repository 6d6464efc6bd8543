"""One-step answers against the end of the true trajectory, by the level that it starts from."""

from __future__ import annotations

import torch

from fewstep.analysis.doctor.levels import fresh, up_to_the_top
from fewstep.analysis.doctor.linear_bound import linear_of
from fewstep.analysis.doctor.subject import Subject
from fewstep.analysis.doctor.verdicts import Measure, Verdict, judged
from fewstep.core.distances import mse
from fewstep.core.sampling import sampler

ROWS = 128  # exact trajectories are dear


def teacher_gap(subject: Subject) -> Measure:
    """rms of D(x_t, t) minus the solution of the ODE from x_t, beside what a Gaussian's flow is
    off.
    """
    process = subject.method.process
    own = sampler(subject.method.sampler)
    definition = (
        f"rms of D(x_t, t) minus the end of the trajectory from x_t by {subject.solved_by};"
        " Gaussian: the same of the flow of a Gaussian with the data's mean and covariance"
    )
    reason = (
        "nobody knows the trajectories: name a --teacher"
        if subject.truth is subject.teacher is None
        else ""
    )
    if subject.denoises or (own.only and own.default > 1):
        reason = "its answers are not ends of trajectories"
    if reason:
        return Measure("teacher gap", definition, missing=reason)
    rows = fresh(subject, ROWS)
    linear = linear_of(subject.dataset.train.x0)
    table = []
    for level, t in up_to_the_top(subject):
        with torch.no_grad():
            x_t = rows.at(process, t)
            end = subject.solution(x_t, t, rows.cond)
            assert end is not None
            found = [
                mse(guess, end).mean()
                for guess in (subject.ema(x_t, t, rows.cond), linear.flow(process, x_t, t))
            ]
        gap, plain = (float(part) ** 0.5 for part in found)
        table.append((level, gap, plain, gap / max(plain, 1e-300)))
    return Measure(
        "teacher gap", definition, ("level", "gap", "Gaussian", "ratio"), table, (judge_gap(table),)
    )


def judge_gap(table: list[tuple[float, float, float, float]]) -> Verdict:
    """At the levels that sampling starts from: the highest."""
    level, gap, plain, ratio = table[-1]
    return judged(
        "teacher-gap",
        ratio,
        1.0,
        1.5,
        against="1 is the flow of a Gaussian with the data's covariance, which took no training",
        fine=(
            f"from noise {level:.3g} it ends {gap:.2g} from the trajectory's end, a Gaussian's flow"
            f" {plain:.2g}"
        ),
        ill=(
            f"it does not follow the trajectories: from noise {level:.3g} it ends {gap:.2g} from"
            f" where they do, and the flow of a Gaussian only {plain:.2g}: distil longer, or with"
            " smaller moves of the teacher (n, solver)"
        ),
    )
