"""Where a student's answer is known: at the lowest level, at segments' starts, at a stage's t'."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fewstep.adapters.linear_bound import linear_of
from fewstep.adapters.rows import Rows, bound
from fewstep.analysis.doctor.levels import held_out_rows, trained_levels
from fewstep.analysis.doctor.subject import Subject
from fewstep.analysis.doctor.verdicts import Measure, Verdict, judge
from fewstep.core.distances import mse
from fewstep.core.process import expand
from fewstep.core.times import Segments


@dataclass(frozen=True)
class Edge:
    """A boundary: where it is, the rms error there, and the scale of that error."""

    place: str
    level: float
    error: float
    scale: float  # by theory, or from the run itself

    @property
    def ratio(self) -> float:
        return self.error / max(self.scale, 1e-300)


def boundary(subject: Subject) -> Measure:
    """The edges that the method has, each with its error over its scale."""
    rows = held_out_rows(subject)
    if subject.frozen is None or not subject.method.trained_from:
        verdict, edge = first_level(subject, rows)
    else:
        verdict, edge = second_stage(subject, rows)
    starts = segment_starts(subject, rows)
    verdicts = [verdict, judge_starts(starts)] if starts else [verdict]
    return Measure(
        "boundary",
        "rms of D(x, t) - x / alpha at the lowest level, over the noise there; at a second stage's"
        " t' rms of student minus first stage, over the first stage's own change of answer in one"
        " step down; at the start of a segment rms of D(x_t, t) - x0, over the best simple"
        " denoiser's",
        ("where", "level", "error", "scale", "ratio"),
        [(one.place, one.level, one.error, one.scale, one.ratio) for one in (edge, *starts)],
        verdicts,
    )


def first_level(subject: Subject, rows: Rows) -> tuple[Verdict, Edge]:
    """D(x, t) against x / alpha at the lowest level: no further off than the noise that is in x."""
    process = subject.method.process
    t = max(float(process.t_min), float(process.time_at(0.01 * trained_levels(subject)[0].level)))
    with torch.no_grad():
        x_t = rows.at(process, t)
        answer = subject.ema(x_t, t, rows.cond)
        error = float(mse(answer, x_t / expand(process.alpha(t), x_t)).mean()) ** 0.5
    level = float(process.level(t))
    edge = Edge("lowest level", level, error, level)
    verdict = judge(
        "boundary",
        edge.ratio,
        1.5,
        3.0,
        against="1 is the noise that is in x: no good guess is further from x than that",
        ok=f"near the data it leaves x alone: {error:.2g} from it at noise level {level:.2g}",
        fault=(
            f"it lost its boundary: at noise level {level:.2g} its answer is {error:.2g} from x,"
            f" {edge.ratio:.1f} times the noise there: the scaling does not hold D(x, t_min) = x"
            " (its shift, sigma_data), or the network's output grows where t is small"
        ),
    )
    return verdict, edge


def second_stage(subject: Subject, rows: Rows) -> tuple[Verdict, Edge]:
    """The student at t' against the frozen first stage, on held-out rows.

    The scale is the first stage's own error there: the distance of its answers at t' and one
    training step below, at r. Its answer at t' rests on a chain of such steps.
    """
    process, frozen = subject.method.process, subject.frozen
    assert frozen is not None
    t = subject.method.trained_from
    times = subject.method.times.at(torch.tensor([t], dtype=torch.float64), subject.progress)
    r = float(times.r)
    with torch.no_grad():
        x_t, x_r = rows.at(process, t), rows.at(process, r)
        first = frozen(x_t, t, rows.cond)
        own_step = float(mse(first, frozen(x_r, r, rows.cond)).mean()) ** 0.5
        error = float(mse(subject.ema(x_t, t, rows.cond), first).mean()) ** 0.5
        to_data = float(mse(first, rows.x0).mean()) ** 0.5
    edge = Edge("t' of stage 2", float(process.level(t)), error, own_step)
    verdict = judge(
        "lost-boundary",
        edge.ratio,
        2.0,
        4.0,
        against="the first stage's own change from t' to r; 2 and 4 of it",
        ok=(
            f"stage 2 agrees with the first: {error:.2g} from it at t' = {t:g}, whose own step"
            f" there is {own_step:.2g} (and its error to the data {to_data:.2g})"
        ),
        fault=(
            f"stage 2 lost its boundary: at t' = {t:g} it is {error:.2g} from the first stage,"
            f" whose own step there is {own_step:.2g}: lower the learning rate (--stage-lr) or"
            " raise --method.w-b"
        ),
    )
    return verdict, edge


def segment_starts(subject: Subject, rows: Rows) -> list[Edge]:
    """Just above a segment's start the student is a denoiser: its error, and the simple one's."""
    times = subject.method.times
    if not isinstance(times, Segments) or times.segments == 1:
        return []
    process, linear = subject.method.process, linear_of(subject.dataset.train.x0)
    steps = times.per_segment(subject.progress)
    edges = []
    for segment in range(1, times.segments):
        t = times.end * (segment * steps + 1) / (times.segments * steps)
        with torch.no_grad():
            answer = subject.ema(rows.at(process, t), t, rows.cond)
            error = float(mse(answer, rows.x0).mean()) ** 0.5
            limit = float(bound(linear, process, rows, t).mean()) ** 0.5
        edges.append(Edge(f"segment {segment + 1}", float(process.level(t)), error, limit))
    return edges


def judge_starts(edges: list[Edge]) -> Verdict:
    worst = max(edges, key=lambda one: one.ratio)
    return judge(
        "segment-start",
        worst.ratio,
        1.1,
        2**0.5,
        against="1 is the best simple denoiser's rms error: a segment begins as a denoiser",
        ok=(
            f"segments begin as denoisers: at most {worst.ratio:.2f} times the best simple one's"
            " error"
        ),
        fault=(
            f"{worst.place} (level {worst.level:.2g}) does not begin as a denoiser: its error is"
            f" {worst.error:.2g}, {worst.ratio:.2f} times the best simple one's: train longer with"
            " few steps a segment before many (annealed)"
        ),
    )
