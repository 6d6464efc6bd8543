"""The training by its log metrics.jsonl: spikes, growing gradients, failed steps, and its end."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

import torch

from fewstep.analysis.doctor.rounding import bf16_ratio
from fewstep.analysis.doctor.subject import Subject
from fewstep.analysis.doctor.verdicts import Measure, Verdict, judge
from fewstep.base.randomness import SAMPLING_BLOCK, uniform
from fewstep.training.precision import PASSES, advice

REACH = 10  # lines before and after that a spike is compared with
LEAST = 20  # lines that are needed


def training_log(subject: Subject) -> Measure:
    """Verdicts on the log's lines."""
    definition = (
        "the lines of metrics.jsonl: each loss against the median of its neighbours, the gradient's"
        " norm late against early, lines without a finite number, and the learning rate at the end"
        " over its peak"
    )
    if subject.log is None:
        return Measure("training log", definition, missing="the folder holds no metrics.jsonl")
    lines = [
        row
        for row in subject.log
        if row["step"] <= subject.step and row.get("stage", 1) == subject.stage
    ]
    verdicts = [judge_end(subject)]
    if lines:  # an empty log says nothing of losses and rates
        verdicts = [judge_finite(subject, lines), *verdicts, judge_rate(subject)]
    if len(lines) >= LEAST:
        losses = [row.get("loss") for row in lines]
        norms = [row.get("grad_norm") for row in lines]
        steps = [row["step"] for row in lines]
        verdicts += [judge_spikes(losses, steps), judge_norms(subject, norms)]
    rows: list[tuple[str, float]] = [("lines", len(lines)), ("last step", subject.step)]
    return Measure("training log", definition, ("what", "number"), rows, verdicts)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def judge_finite(subject: Subject, lines: list[dict[str, Any]]) -> Verdict:
    bad = [
        row["step"]
        for row in lines
        if not (_finite(row.get("loss")) and _finite(row.get("grad_norm")))
    ]
    remedy = "lower the learning rate or clip harder"
    if bad and PASSES[subject.run.precision] is not None:
        remedy += f", or {advice(subject.run.precision, bf16_ratio(subject))}"
    return judge(
        "non-finite",
        len(bad) / len(lines),
        0.0,
        0.02,
        against="no line; fp16 skips a few steps at its start, 2 % of the lines",
        ok="every logged loss and gradient is finite",
        fault=(
            f"{len(bad)} of {len(lines)} lines hold no finite number, the first at step"
            f" {bad[0] if bad else 0}: {remedy}"
        ),
    )


def judge_end(subject: Subject) -> Verdict:
    iterations = subject.run.steps
    return judge(
        "unfinished",
        (iterations - subject.step) / iterations,
        0.0,
        1.0,
        against="the run's own iterations",
        ok=f"it ran all its {iterations} steps",
        fault=(
            f"it stopped at step {subject.step} of {iterations}: continue it with --resume; if it"
            " stops there again, its loss or gradient is not finite"
        ),
    )


def judge_rate(subject: Subject) -> Verdict:
    rates = [
        row["lr"]
        for row in subject.log or ()
        if _finite(row.get("lr")) and row["step"] <= subject.step
    ]
    share = rates[-1] / max(max(rates), 1e-300) if rates else 0.0
    should_fall = subject.run.decay == "cosine"
    return judge(
        "not-annealed",
        share,
        0.1,
        2.0,
        against=(
            "a tenth of the peak; the recipes end at a fiftieth (an inverse square root is left to"
            " the average)"
        ),
        ok=f"the learning rate ended at {share:.2g} of its peak",
        fault=(
            f"the learning rate is {share:.2g} of its peak at the end: noise stays in the weights;"
            " let it fall (--final 0.02), or use the average (--ema)"
        ),
        condition=should_fall and subject.step >= subject.run.steps,
    )


def spikes(losses: list[Any]) -> list[tuple[int, float]]:
    """(line, factor) of losses that stand out from their neighbours.

    They are above 4 times the neighbours' median, and above 8 times its median deviation.
    """
    logs = [math.log(value) if _finite(value) and value > 0 else None for value in losses]
    results = []
    for i, log in enumerate(logs):
        neighbours = logs[max(0, i - REACH) : i] + logs[i + 1 : i + REACH + 1]
        numbers = [value for value in neighbours if value is not None]
        if log is None or len(numbers) < REACH:
            continue
        middle = median(numbers)
        scatter = median(abs(value - middle) for value in numbers)
        if log - middle > max(math.log(4), 8 * scatter):
            results.append((i, math.exp(log - middle)))
    return results


def judge_spikes(losses: list[Any], steps: list[int]) -> Verdict:
    results = spikes(losses)
    line, factor = max(results, key=lambda one: one[1], default=(0, 1.0))
    return judge(
        "loss-spikes",
        factor,
        4.0,
        100.0,
        against=(
            "4 times the median of 10 lines before and after, beyond 8 of their median deviations"
        ),
        ok="no line's loss stands out from its neighbours'",
        fault=(
            f"{len(results)} lines' losses stand out, the worst at step {steps[line]},"
            f" {factor:.3g} times its neighbours: clip harder (--clip), warm up longer, or look"
            " at the data there"
        ),
    )


def steepness(subject: Subject, progress: float) -> float:
    """How steep the pairs make the loss: the median of 1 / (t - r) over the times at a progress."""
    u = uniform(subject.seed, "doctor time", 0, 1024, subject.method.uniforms, SAMPLING_BLOCK)
    times = subject.method.times(u, progress, torch.arange(1024))
    gap = float((times.t - times.r).median())
    return 1 / gap if gap > 0 else 1.0


def judge_norms(subject: Subject, norms: list[Any]) -> Verdict:
    """The last third's median over the middle third's, beside what narrower pairs explain."""
    numbers = [value for value in norms if _finite(value) and value > 0]
    third = max(len(numbers) // 3, 1)
    growth = 1.0
    if len(numbers) > 2:
        growth = median(numbers[-third:]) / median(numbers[third : 2 * third])
    schedule = max(steepness(subject, 5 / 6) / steepness(subject, 1 / 2), 1.0)
    ratio = growth / schedule
    return judge(
        "growing-gradient",
        ratio,
        3.0,
        30.0,
        against=(
            f"the middle third's median, times {schedule:.2g} by which the pairs narrow (1 / (t"
            " - r))"
        ),
        ok=(
            f"the gradient's norm did not run away: late over middle {ratio:.2g} of what the"
            " schedule explains"
        ),
        fault=(
            f"the gradient's norm grew {growth:.2g} times from the middle to the last third,"
            f" where the schedule explains {schedule:.2g}: lower the learning rate, or narrow the"
            " pairs more slowly (q, stages, s1)"
        ),
    )
