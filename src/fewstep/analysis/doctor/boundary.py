"""Where a student is told what to say: at the lowest level, at the starts of segments, at a second
stage's t'.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fewstep.analysis.doctor.levels import Rows, bound, fresh, trained_levels
from fewstep.analysis.doctor.linear_bound import linear_of
from fewstep.analysis.doctor.subject import Subject
from fewstep.analysis.doctor.verdicts import Measure, Verdict, judged
from fewstep.core.distances import mse
from fewstep.core.process import expand
from fewstep.core.times import Segments


@dataclass(frozen=True)
class Edge:
    """A boundary: where, how far from what it should be (rms), and the scale that theory or the run
    gives for that.
    """

    place: str
    level: float
    error: float
    scale: float


def boundary(subject: Subject) -> Measure:
    """The edges that the method has, each with its error over its scale."""
    rows = fresh(subject)
    judge, edges = (
        second_stage(subject, rows) if subject.frozen is not None else first_level(subject, rows)
    )
    starts = segment_starts(subject, rows)
    verdicts = (judge, *((judge_starts(starts),) if starts else ()))
    return Measure(
        "boundary",
        "rms of D(x, t) - x / alpha at the lowest level, over the noise there; at a second stage's"
        " t' rms of student minus first stage, over the first stage's own change of answer in one"
        " step down; at the start of a segment rms of D(x_t, t) - x0, over the best simple"
        " denoiser's",
        ("where", "level", "error", "scale", "ratio"),
        [
            (one.place, one.level, one.error, one.scale, one.error / max(one.scale, 1e-300))
            for one in (*edges, *starts)
        ],
        verdicts,
    )


def first_level(subject: Subject, rows: Rows) -> tuple[Verdict, list[Edge]]:
    """D(x, t) against x / alpha at the lowest level: no further off than the noise that is in x."""
    process = subject.method.process
    t = max(float(process.t_min), float(process.time_at(0.01 * trained_levels(subject)[0].level)))
    with torch.no_grad():
        x_t = rows.at(process, t)
        apart = (
            float(mse(subject.ema(x_t, t, rows.cond), x_t / expand(process.alpha(t), x_t)).mean())
            ** 0.5
        )
    level = float(process.level(t))
    edge = Edge("lowest level", level, apart, level)
    ratio = apart / max(level, 1e-300)
    return judged(
        "boundary",
        ratio,
        1.5,
        3.0,
        against="1 is the noise that is in x: no good guess is further from x than that",
        fine=f"near the data it leaves x alone: {apart:.2g} from it at noise level {level:.2g}",
        ill=(
            f"it lost its boundary: at noise level {level:.2g} its answer is {apart:.2g} from x,"
            f" {ratio:.1f} times the noise there: the scaling does not hold D(x, t_min) = x (its"
            " shift, sigma_data), or the network's output grows where t is small"
        ),
    ), [edge]


def second_stage(subject: Subject, rows: Rows) -> tuple[Verdict, list[Edge]]:
    """The student at t' against the frozen first stage, on held-out rows.

    The scale is the first stage's own error there: how far its answers at t' and one training step
    below, at r, are apart. For a chain of such steps is all that its answer at t' rests on.
    """
    method, process = subject.method, subject.method.process
    t = torch.tensor([method.trained_from], dtype=torch.float64)
    times = method.times.at(t, subject.progress)
    down = float(times.r)
    with torch.no_grad():
        x_t, x_r = rows.at(process, float(t)), rows.at(process, down)
        assert subject.frozen is not None
        first, below = (
            subject.frozen(x_t, float(t), rows.cond),
            subject.frozen(x_r, down, rows.cond),
        )
        own = float(mse(first, below).mean()) ** 0.5
        apart = float(mse(subject.ema(x_t, float(t), rows.cond), first).mean()) ** 0.5
        to_data = float(mse(first, rows.x0).mean()) ** 0.5
    edge = Edge("t' of stage 2", float(process.level(float(t))), apart, own)
    return judged(
        "lost-boundary",
        apart / max(own, 1e-300),
        2.0,
        4.0,
        against="the first stage's own change from t' to r; 2 and 4 of it",
        fine=(
            f"stage 2 holds on to the first: {apart:.2g} from it at t' = {float(t):g}, whose own"
            f" step there is {own:.2g} (and its error to the data {to_data:.2g})"
        ),
        ill=(
            f"stage 2 lost its boundary: at t' = {float(t):g} it is {apart:.2g} from the first"
            f" stage, whose own step there is {own:.2g}: lower the learning rate (--stage-lr) or"
            " raise --method.w-b"
        ),
    ), [edge]


def segment_starts(subject: Subject, rows: Rows) -> list[Edge]:
    """Just above the start of a segment the student is a denoiser: its error over the best simple
    one's.
    """
    times = subject.method.times
    if not isinstance(times, Segments) or times.segments == 1:
        return []
    process, linear = subject.method.process, linear_of(subject.dataset.train.x0)
    inside = times.per_segment(subject.progress)
    edges = []
    for segment in range(1, times.segments):
        t = times.end * (segment * inside + 1) / (times.segments * inside)
        with torch.no_grad():
            found = mse(subject.ema(rows.at(process, t), t, rows.cond), rows.x0).mean()
            limit = bound(linear, process, rows, t).mean()
        edges.append(
            Edge(
                f"segment {segment + 1}",
                float(process.level(t)),
                float(found) ** 0.5,
                float(limit) ** 0.5,
            )
        )
    return edges


def judge_starts(edges: list[Edge]) -> Verdict:
    worst = max(edges, key=lambda one: one.error / one.scale)
    ratio = worst.error / worst.scale
    return judged(
        "segment-start",
        ratio,
        1.1,
        2**0.5,
        against="1 is the best simple denoiser's rms error: a segment begins as a denoiser",
        fine=f"segments begin as denoisers: at most {ratio:.2f} times the best simple one's error",
        ill=(
            f"{worst.place} (level {worst.level:.2g}) does not begin as a denoiser: its error is"
            f" {worst.error:.2g}, {ratio:.2f} times the best simple one's: train longer with few"
            " steps a segment before many (annealed)"
        ),
    )
