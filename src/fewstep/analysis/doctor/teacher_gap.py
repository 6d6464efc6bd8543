"""One-step answers against the end of the true trajectory, by the level that it starts from."""

from __future__ import annotations

import torch

from fewstep.adapters.linear_bound import linear_of
from fewstep.analysis.doctor.levels import held_out_rows, levels_to_the_top
from fewstep.analysis.doctor.subject import Subject
from fewstep.analysis.doctor.verdicts import Measure, Verdict, judge
from fewstep.core.distances import mse
from fewstep.core.sampling import sampler

ROWS = 128  # exact trajectories are expensive


def teacher_gap(subject: Subject) -> Measure:
    """rms of D(x_t, t) minus the ODE's solution from x_t, beside that of a Gaussian's flow."""
    solver = "the data's law" if subject.truth is not None else "the teacher"
    definition = (
        f"rms of D(x_t, t) minus the end of the trajectory from x_t by {solver};"
        " Gaussian: the same of the flow of a Gaussian with the data's mean and covariance"
    )
    if reason := _no_gap(subject):
        return Measure("teacher gap", definition, missing=reason)
    process = subject.method.process
    rows = held_out_rows(subject, ROWS)
    linear = linear_of(subject.dataset.train.x0)
    table = []
    for level, t in levels_to_the_top(subject):
        with torch.no_grad():
            x_t = rows.at(process, t)
            end = subject.solution(x_t, t, rows.cond)
            assert end is not None
            gap = float(mse(subject.ema(x_t, t, rows.cond), end).mean()) ** 0.5
            gaussian = float(mse(linear.flow(process, x_t, t), end).mean()) ** 0.5
        table.append((level, gap, gaussian, gap / max(gaussian, 1e-300)))
    columns = ("level", "gap", "Gaussian", "ratio")
    return Measure("teacher gap", definition, columns, table, (judge_gap(table),))


def _no_gap(subject: Subject) -> str:
    """Why this run has no gap to measure; "" if it has."""
    own = sampler(subject.method.sampler)
    if subject.denoises or (own.only and own.default > 1):
        return "its answers are not ends of trajectories"
    if subject.truth is None and subject.teacher is None:
        return "the true trajectories are not known: name a --teacher"
    return ""


def judge_gap(table: list[tuple[float, float, float, float]]) -> Verdict:
    """At the level that sampling starts from, the highest."""
    level, gap, gaussian, ratio = table[-1]
    return judge(
        "teacher-gap",
        ratio,
        1.0,
        1.5,
        against="1 is the flow of a Gaussian with the data's covariance, which took no training",
        ok=(
            f"from noise {level:.3g} it ends {gap:.2g} from the trajectory's end, a Gaussian's flow"
            f" {gaussian:.2g}"
        ),
        fault=(
            f"it does not follow the trajectories: from noise {level:.3g} it ends {gap:.2g} from"
            f" their end, and the flow of a Gaussian only {gaussian:.2g}: distil longer, or with"
            " smaller moves of the teacher (n, solver)"
        ),
    )
