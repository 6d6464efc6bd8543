"""What metrics.jsonl tells of the training: spikes, gradients that grow, steps that failed, how it
ended.
"""

from __future__ import annotations

import math
from statistics import median
from typing import Any

import torch

from fewstep.analysis.doctor.subject import Subject
from fewstep.analysis.doctor.verdicts import Measure, Verdict, judged
from fewstep.base.randomness import SAMPLING_BLOCK, uniform

REACH = 10  # lines before and after that a spike is compared with
LEAST = 20  # lines that are needed


def logbook(subject: Subject) -> Measure:
    """Verdicts on the log's lines."""
    definition = (
        "the lines of metrics.jsonl: each loss against the median of its neighbours, the gradient's"
        " norm late "
    )
    definition += (
        "against early, lines without a finite number, and the learning rate at the end over its"
        " peak"
    )
    if subject.log is None:
        return Measure("training log", definition, missing="the folder holds no metrics.jsonl")
    lines = [
        row
        for row in subject.log
        if row["step"] <= subject.step and row.get("stage", 1) == subject.stage
    ]
    losses = [row.get("loss") for row in lines]
    norms = [row.get("grad_norm") for row in lines]
    rows: list[tuple[str, float]] = [("lines", len(lines)), ("last step", subject.step)]
    verdicts = [judge_end(subject)]
    if lines:  # an empty log says nothing of losses and rates
        verdicts = [judge_finite(subject, lines), *verdicts, judge_rate(subject)]
    if len(lines) >= LEAST:
        verdicts += [
            judge_spikes(losses, [row["step"] for row in lines]),
            judge_norms(subject, norms),
        ]
    return Measure("training log", definition, ("what", "number"), rows, verdicts)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def judge_finite(subject: Subject, lines: list[dict[str, Any]]) -> Verdict:
    bad = [
        row["step"]
        for row in lines
        if not (_finite(row.get("loss")) and _finite(row.get("grad_norm")))
    ]
    share = len(bad) / max(len(lines), 1)
    return judged(
        "non-finite",
        share,
        0.0,
        0.02,
        against="no line; fp16 skips a few steps at its start, 2 % of the lines",
        fine="every logged loss and gradient is finite",
        ill=(
            f"{len(bad)} of {len(lines)} lines hold no finite number, the first at step"
            f" {bad[0] if bad else 0}: lower the learning rate, clip harder, or train in bf16 or"
            " fp32"
        ),
    )


def judge_end(subject: Subject) -> Verdict:
    left = subject.run.iterations - subject.step
    return judged(
        "unfinished",
        left / subject.run.iterations,
        0.0,
        1.0,
        against="the run's own iterations",
        fine=f"it ran all its {subject.run.iterations} steps",
        ill=(
            f"it stopped at step {subject.step} of {subject.run.iterations}: continue it with"
            " --resume; if it stops there again, its loss or gradient is not finite"
        ),
    )


def judge_rate(subject: Subject) -> Verdict:
    rates = [
        row["lr"]
        for row in subject.log or ()
        if _finite(row.get("lr")) and row["step"] <= subject.step
    ]
    share = rates[-1] / max(max(rates), 1e-300) if rates else 0.0
    by_design = subject.run.decay != "cosine"
    return judged(
        "not-annealed",
        share,
        0.1,
        2.0,
        against=(
            "a tenth of the peak; the recipes end at a fiftieth (an inverse square root is left to"
            " the average)"
        ),
        fine=f"the learning rate ended at {share:.2g} of its peak",
        ill=(
            f"the learning rate is {share:.2g} of its peak at the end: noise stays in the weights;"
            " let it fall (--final 0.02), or lean on the average (--ema)"
        ),
        also=not by_design and subject.step >= subject.run.iterations,
    )


def spikes(losses: list[Any]) -> list[tuple[int, float]]:
    """(line, factor) of losses above 4 times the median of their neighbours and 8 times those'
    median deviation.
    """
    logs = [math.log(value) if _finite(value) and value > 0 else None for value in losses]
    found = []
    for i, here in enumerate(logs):
        near = [
            v
            for j, v in enumerate(logs[max(0, i - REACH) : i + REACH + 1], max(0, i - REACH))
            if j != i
        ]
        around = [v for v in near if v is not None]
        if here is None or len(around) < REACH:
            continue
        middle = median(around)
        scatter = median(abs(v - middle) for v in around)
        if here - middle > max(math.log(4), 8 * scatter):
            found.append((i, math.exp(here - middle)))
    return found


def judge_spikes(losses: list[Any], steps: list[int]) -> Verdict:
    found = spikes(losses)
    worst = max(found, key=lambda one: one[1], default=(0, 1.0))
    return judged(
        "loss-spikes",
        worst[1],
        4.0,
        100.0,
        against=(
            "4 times the median of 10 lines before and after, beyond 8 of their median deviations"
        ),
        fine="no line's loss stands out from its neighbours'",
        ill=(
            f"{len(found)} lines' losses stand out, the worst at step {steps[worst[0]]},"
            f" {worst[1]:.3g} times its neighbours: clip harder (--clip), warm up longer, or look"
            " at what is in the data there"
        ),
    )


def pressure(subject: Subject, progress: float) -> float:
    """How steep the method's pairs make the loss: the median of 1 / (t - r) over its times at this
    progress.
    """
    u = uniform(subject.seed, "doctor time", 0, 1024, 2, SAMPLING_BLOCK)
    times = subject.method.times(u, progress, torch.arange(1024))
    gap = float((times.t - times.r).median())
    return 1 / gap if gap > 0 else 1.0


def judge_norms(subject: Subject, norms: list[Any]) -> Verdict:
    """The last third's median over the middle third's, beside what the narrowing of the pairs
    explains.
    """
    known = [value for value in norms if _finite(value) and value > 0]
    third = max(len(known) // 3, 1)
    late, before = (
        (median(part) for part in (known[-third:], known[third : 2 * third]))
        if len(known) > 2
        else (1, 1)
    )
    explained = max(pressure(subject, 5 / 6) / pressure(subject, 1 / 2), 1.0)
    ratio = late / before / explained
    return judged(
        "growing-gradient",
        ratio,
        3.0,
        30.0,
        against=(
            f"the middle third's median, times {explained:.2g} by which the pairs narrow (1 / (t"
            " - r))"
        ),
        fine=(
            f"the gradient's norm did not run away: late over middle {ratio:.2g} of what the"
            " schedule explains"
        ),
        ill=(
            f"the gradient's norm grew {late / before:.2g} times from the middle to the last third,"
            f" where the schedule explains {explained:.2g}: lower the learning rate, or narrow the"
            " pairs more slowly (q, stages, s1)"
        ),
    )
