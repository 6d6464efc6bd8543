"""The chain of targets: how fast they move, and whether the data reach the highest level."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from fewstep.adapters.rows import Rows
from fewstep.analysis.doctor.levels import (
    Level,
    held_out_rows,
    levels_to_the_top,
    rows_of,
    trained_levels,
)
from fewstep.analysis.doctor.subject import Subject
from fewstep.analysis.doctor.verdicts import Measure, Verdict, judge
from fewstep.core import abilities
from fewstep.core.distances import mse
from fewstep.core.sampling import sampler
from fewstep.core.times import Limit

DRIFT = 3.0, 10.0  # gaps between neighbours that targets may move
LEAK = 0.1, 0.5  # share of the data's spread that may be lost up to the highest level


def target_drift(subject: Subject) -> Measure:
    """How far the target's answer at r has moved, beside the gap that a training step closes."""
    earlier, when = _earlier(subject)
    definition = (
        f"rms of the student's answers at r, now against {when}; beside it the rms of"
        " D(x_t, t) - D(x_r, r) over the pairs that it is trained on"
    )
    if reason := _no_drift(subject):
        return Measure("target drift", definition, missing=reason)
    rows = rows_of(subject.dataset, "train", subject.seed, device=subject.device)
    results = [(one, *drift_at(subject, rows, one, earlier)) for one in trained_levels(subject)]
    table = [(one.level, drift, gap, drift / max(gap, 1e-300)) for one, drift, gap in results]
    columns = ("level", "drift", "pair's gap", "ratio")
    return Measure("target drift", definition, columns, table, (judge_drift(results, when),))


def _no_drift(subject: Subject) -> str:
    """Why this run has no drift to measure; "" if it has."""
    method = subject.method
    if subject.denoises:
        return "its target is the data itself"
    if method.target is None or abilities.at_anchor(method.times):
        return "its targets are a teacher's solutions, not its own answers"
    if method.ends or isinstance(method.times, Limit):
        return "its targets lead to many ends, or its pairs are infinitely near: there is no gap"
    return "" if subject.student is not None else "the folder holds only the average"


def _earlier(subject: Subject) -> tuple[nn.Module, str]:
    """The network that the student is compared with, and its name."""
    if subject.earlier is not None:
        return subject.earlier, f"those of step {subject.earlier_step}"
    return subject.ema, "those of its average"


def drift_at(subject: Subject, rows: Rows, level: Level, earlier: nn.Module) -> tuple[float, float]:
    """(rms of the drift, rms of the pair's gap) at one level."""
    process = subject.method.process
    t = torch.full((len(rows),), level.t, dtype=torch.float64)
    times = subject.method.times.at(t, subject.progress)
    assert subject.student is not None
    with torch.no_grad():
        x_t, x_r = rows.at(process, times.t), rows.at(process, times.r)
        answer = subject.student(x_r, times.r, rows.cond)
        drift = mse(answer, earlier(x_r, times.r, rows.cond))
        gap = mse(subject.student(x_t, times.t, rows.cond), answer)
    return float(drift.mean()) ** 0.5, float(gap.mean()) ** 0.5


def judge_drift(results: list[tuple[Level, float, float]], when: str) -> Verdict:
    """Over the rows that it trains on: root of the mean square drift over that of the gap."""
    drift = sum(level.share * drift**2 for level, drift, _ in results) ** 0.5
    gap = sum(level.share * gap**2 for level, _, gap in results) ** 0.5
    return judge(
        "target-drift",
        drift / max(gap, 1e-300),
        *DRIFT,
        against="the gap between neighbours that training closes; 3 and 10 of it",
        ok=(
            f"targets moved {drift:.2g} against {when}; neighbours are {gap:.2g} apart,"
            f" {DRIFT[0]:g} times it is fine"
        ),
        fault=(
            f"targets run away: they moved {drift:.2g} against {when}, and neighbours are {gap:.2g}"
            " apart: lower the learning rate towards the end (final), take a larger batch, or an"
            " averaged target"
        ),
    )


def loose_chain(subject: Subject) -> Measure:
    """Whether D(x_t, t) has the data's law at every level, as a map to the data has."""
    definition = (
        "squared Fréchet distance between D(x_t, t) of held-out rows and the training split, less"
        " that of the held-out rows themselves, as a share of the data's variance; kept is the"
        " variance of D(x_t, t) over the data's"
    )
    own = sampler(subject.method.sampler)
    if subject.denoises or (own.only and own.default > 1):
        reason = "its answers are means of the data, not samples of it"
        return Measure("chain", definition, missing=reason)
    rows = held_out_rows(subject)
    process, train = subject.method.process, subject.dataset.train.x0
    floor = law_distance(rows.x0, train)
    total = total_variance(train)
    table = []
    for level, t in levels_to_the_top(subject):
        with torch.no_grad():
            answers = subject.ema(rows.at(process, t), t, rows.cond)
        loss = (law_distance(answers, train) - floor) / total
        table.append((level, loss, total_variance(answers) / total))
    return Measure("chain", definition, ("level", "lost", "kept"), table, (judge_chain(table),))


def total_variance(x: Tensor) -> float:
    return float(x.flatten(1).double().var(0, correction=0).sum())


def law_distance(x: Tensor, y: Tensor) -> float:
    """Squared Fréchet distance of Gaussians, with diagonal covariances beyond 1024 elements."""
    from fewstep.statistics.distances import frechet

    x, y = x.flatten(1).cpu().double(), y.flatten(1).cpu().double()
    if x.shape[1] <= 1024:
        return frechet(x, y)
    means = (x.mean(0) - y.mean(0)).square().sum()
    return float(means + (x.std(0) - y.std(0)).square().sum())


def judge_chain(table: list[tuple[float, float, float]]) -> Verdict:
    loss = table[-1][1]
    steps = [(high[1] - low[1], low[0], high[0]) for low, high in pairwise(table)]
    _, low, high = max(steps) if steps else (0.0, table[0][0], table[0][0])
    return judge(
        "loose-chain",
        loss,
        *LEAK,
        against="the data's own variance",
        ok=(
            "the data's law reaches the highest level: there the answers are"
            f" {max(loss, 0):.1%} of the data's variance from it"
        ),
        fault=(
            f"the chain has come loose: at the highest level its answers are {loss:.0%} of the"
            " data's variance from the data's law (squared Fréchet distance), most of that from"
            f" level {low:.3g} to {high:.3g}: smaller steps (more stages, q, s1), or begin again"
            " from a diffusion model (--init)"
        ),
    )
