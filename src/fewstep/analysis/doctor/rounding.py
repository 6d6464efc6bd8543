"""Whether the difference that a run learns between neighbours survives its precision."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from fewstep.analysis.doctor.levels import rows_of, trained_levels
from fewstep.analysis.doctor.subject import Subject
from fewstep.analysis.doctor.verdicts import Measure, Verdict, judge
from fewstep.core.rounding import compares, ratio_without, rounding
from fewstep.training.precision import PASSES, SMALL, advice

ROWS = 64  # of the training split at each level


def rounding_of_gaps(subject: Subject) -> Measure:
    """The table by level and the verdict on the run's own precision."""
    definition = (
        "rms of the rounding error of D(x_t, t) - D(x_r, r) over that difference's own rms, at the"
        " pairs that the run trains on, by the precision of the passes; the truth is a float64 copy"
    )
    if not compares(subject.method):
        reason = "it learns no difference between neighbours a step apart"
        return Measure("rounding", definition, missing=reason)
    names = list(dict.fromkeys(("fp32", "bf16", subject.run.precision)))
    table, ratios = shares(subject, names)
    columns = ("level", "r / t", "difference", *names)
    return Measure("rounding", definition, columns, table, (judge_rounding(subject, ratios),))


def shares(
    subject: Subject, names: Sequence[str]
) -> tuple[list[tuple[float, ...]], dict[str, float]]:
    """A row of each level, and of each precision the root mean square ratio over trained rows."""
    net = subject.ema if subject.student is None else subject.student
    rows = rows_of(subject.dataset, "train", subject.seed, ROWS, device=subject.device)
    passes = [PASSES[name] for name in names]
    table, sums, weight = [], [0.0] * len(names), 0.0
    for one in trained_levels(subject):
        t = torch.full((len(rows),), one.t, dtype=torch.float64)
        times = subject.method.times.at(t, subject.progress)
        r = float(times.r[0])
        if r <= float(times.a[0]):  # the target is the data itself
            continue
        process = subject.method.process
        parts = rounding(net, process, rows.x0, rows.z, times, rows.cond, passes)
        ratios = parts.ratios()
        table.append((one.level, r / one.t, float(parts.gap.mean()) ** 0.5, *ratios))
        sums = [total + one.share * ratio**2 for total, ratio in zip(sums, ratios, strict=True)]
        weight += one.share
    roots = [(total / weight) ** 0.5 if weight else 0.0 for total in sums]
    return table, dict(zip(names, roots, strict=True))


def bf16_ratio(subject: Subject) -> float:
    """What bf16 would round of the differences; infinite where that is unknown."""
    if not compares(subject.method):
        return ratio_without(subject.method)
    return shares(subject, ["bf16"])[1]["bf16"]


def judge_rounding(subject: Subject, ratios: dict[str, float]) -> Verdict:
    """A warning at most: rounding that outweighs the difference may still average out."""
    own, bf16 = subject.run.precision, ratios["bf16"]
    choice = "which would do" if bf16 <= SMALL else "too much to train in"
    beside = "" if own == "bf16" else f"; bf16 rounds {bf16:.2g}, {choice}"
    return judge(
        "rounding",
        ratios[own],
        SMALL,
        math.inf,
        against="a tenth of the difference that is learned, root mean square over trained rows",
        ok=(
            f"{own} rounds {ratios[own]:.2g} of the difference between neighbours that is learned"
            f"{beside}"
        ),
        fault=(
            f"{own} rounds {ratios[own]:.2g} of the difference between neighbours that is learned:"
            f" {advice(own, bf16)}"
        ),
    )
