"""The chain of targets: how fast they move, and whether what is handed up it still has the law of
the data.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from fewstep.analysis.doctor.levels import (
    Level,
    Rows,
    fresh,
    place_of,
    rows_of,
    trained_levels,
    up_to_the_top,
)
from fewstep.analysis.doctor.subject import Subject
from fewstep.analysis.doctor.verdicts import Measure, Verdict, judged
from fewstep.core import abilities
from fewstep.core.distances import mse
from fewstep.core.sampling import sampler
from fewstep.core.times import Limit

DRIFT = 3.0, 10.0  # gaps between neighbours that targets may move
LEAK = 0.1, 0.5  # of the data's spread that may be lost on the way up


def target_drift(subject: Subject) -> Measure:
    """How far the target's answer at r is from what it was, beside the gap that a step of training
    closes.
    """
    columns = ("level", "drift", "pair's gap", "ratio")
    then, told = _then(subject)
    definition = f"rms of the student's answers at r, now against {told}; beside it the "
    definition += "rms of D(x_t, t) - D(x_r, r) over the pairs that it is trained on"
    if reason := _no_drift(subject, then):
        return Measure("target drift", definition, missing=reason)
    rows = rows_of(subject.dataset, "train", subject.seed, device=place_of(subject))
    assert then is not None
    found = [(level, *drift_at(subject, rows, level, then)) for level in trained_levels(subject)]
    table = [(one.level, drift, gap, drift / max(gap, 1e-300)) for one, drift, gap in found]
    return Measure("target drift", definition, columns, table, (judge_drift(found, told),))


def _no_drift(subject: Subject, then: torch.nn.Module | None) -> str:
    """Why this run has no drift to measure; "" where it has."""
    method = subject.method
    if subject.denoises:
        return "its target is the data itself"
    if method.target is None or abilities.at_anchor(method.times):
        return "its targets are a teacher's solutions, not its own answers"
    if isinstance(method.times, Limit):
        return "its pairs are infinitely near: there is no gap to compare with"
    return "" if then is not None else "the folder holds only the average"


def _then(subject: Subject) -> tuple[torch.nn.Module | None, str]:
    """What the student was, and how that is told."""
    if subject.student is None:
        return None, "what they were"
    if subject.earlier is not None:
        return subject.earlier, f"those of step {subject.earlier_step}"
    return subject.ema, "those of its average"


def drift_at(
    subject: Subject, rows: Rows, level: Level, then: torch.nn.Module
) -> tuple[float, float]:
    process = subject.method.process
    times = subject.method.times.at(
        torch.full((len(rows.x0),), level.t, dtype=torch.float64), subject.progress
    )
    assert subject.student is not None
    with torch.no_grad():
        x_t, x_r = rows.at(process, times.t), rows.at(process, times.r)
        now = subject.student(x_r, times.r, rows.cond)
        moved = mse(now, then(x_r, times.r, rows.cond))
        gap = mse(subject.student(x_t, times.t, rows.cond), now)
    return float(moved.mean()) ** 0.5, float(gap.mean()) ** 0.5


def judge_drift(found: list[tuple[Level, float, float]], told: str) -> Verdict:
    """Over the rows that it trains on: root of the mean square drift over that of the gap."""
    drift = sum(level.share * moved**2 for level, moved, _ in found) ** 0.5
    gap = sum(level.share * apart**2 for level, _, apart in found) ** 0.5
    return judged(
        "target-drift",
        drift / max(gap, 1e-300),
        *DRIFT,
        against="the gap between neighbours that training closes; 3 and 10 of it",
        fine=(
            f"targets moved {drift:.2g} against {told}; neighbours are {gap:.2g} apart,"
            f" {DRIFT[0]:g} times it is fine"
        ),
        ill=(
            f"targets run away: they moved {drift:.2g} against {told}, and neighbours are {gap:.2g}"
            " apart: lower the learning rate towards the end (final), take a larger batch, or an"
            " averaged target"
        ),
    )


def loose_chain(subject: Subject) -> Measure:
    """Whether D(x_t, t) still has the data's law at every level, which a map to the data has at all
    of them.
    """
    own = sampler(subject.method.sampler)
    definition = (
        "squared Fréchet distance between D(x_t, t) of held-out rows and the training split, less"
        " that of the held-out rows themselves, as a share of the data's variance; kept is the"
        " variance of D(x_t, t) over the data's"
    )
    if subject.denoises or (own.only and own.default > 1):
        return Measure(
            "chain", definition, missing="its answers are means of the data, not samples of it"
        )
    rows = fresh(subject)
    process, train = subject.method.process, subject.dataset.train.x0
    floor, total = (
        apart_of(rows.x0, train),
        float(train.flatten(1).double().var(0, correction=0).sum()),
    )
    table = []
    for level, t in up_to_the_top(subject):
        with torch.no_grad():
            out = subject.ema(rows.at(process, t), t, rows.cond)
        kept = float(out.flatten(1).double().var(0, correction=0).sum()) / total
        table.append((level, (apart_of(out, train) - floor) / total, kept))
    return Measure("chain", definition, ("level", "lost", "kept"), table, (judge_chain(table),))


def apart_of(x: Tensor, y: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians; beyond 1024 elements of those with the same
    diagonals.
    """
    from fewstep.analysis.metrics.distances import frechet

    x, y = x.flatten(1).cpu().double(), y.flatten(1).cpu().double()
    if x.shape[1] <= 1024:
        return frechet(x, y)
    means = (x.mean(0) - y.mean(0)).square().sum()
    return float(means + (x.std(0) - y.std(0)).square().sum())


def judge_chain(table: list[tuple[float, float, float]]) -> Verdict:
    lost = table[-1][1]
    steps = [(high[1] - low[1], low[0], high[0]) for low, high in pairwise(table)]
    _, low, high = max(steps) if steps else (0.0, table[0][0], table[0][0])
    return judged(
        "loose-chain",
        lost,
        *LEAK,
        against="the data's own variance",
        fine=(
            "the law of the data is handed up to the highest level: there the answers are "
            f"{max(lost, 0):.1%} of the data's variance from it"
        ),
        ill=(
            f"the chain has come loose: at the highest level its answers are {lost:.0%} of the"
            " data's variance from the data's law (squared Fréchet distance), most of that from"
            f" level {low:.3g} to {high:.3g}: smaller steps (more stages, q, s1), or begin again"
            " from a diffusion model (--init)"
        ),
    )
