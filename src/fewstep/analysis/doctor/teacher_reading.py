"""The reading that fits a teacher's output: every one is tried on the same held-out rows."""

from __future__ import annotations

from collections.abc import Sequence

from fewstep.adapters.linear_bound import linear_of
from fewstep.adapters.reading import (
    BETTER,
    DENOISER,
    ROWS,
    SURE,
    Result,
    Trial,
    another,
    certain,
)
from fewstep.analysis.doctor.teacher import NO_TIMES, Teacher
from fewstep.analysis.doctor.verdicts import Measure, Severity, Verdict, judge


def find_reading(teacher: Teacher) -> Measure:
    """Every reading on the same rows, the best by name, and whether the declared one is it."""
    rows, x0 = teacher.split("validation", ROWS), teacher.dataset.train.x0
    trial = Trial(teacher.network, teacher.reading, rows, linear_of(x0), x0)
    own = trial.own()
    if own is None:
        return Measure("reading", "", missing=NO_TIMES)
    ranking = trial.ranking()
    best = ranking[0] if certain(own, ranking[0]) else own
    scores = {str(one.reading): one.score for one in (best, *ranking[:4])}
    return Measure(
        "reading",
        "held-out error in units of the bound, mean over levels, by each reading of the network's"
        " output: prediction, process, noise label, sign, range and sigma_data",
        ("reading", "score"),
        [*scores.items(), (f"as declared: {own.reading}", own.score)],
        (judge_reading(own, best, ranking), judge_sigma_data(teacher, best)),
    )


def judge_reading(own: Result, best: Result, ranking: Sequence[Result]) -> Verdict:
    """As declared; or another, by name, if it is certain and a denoiser; or none is right."""
    severity: Severity = "ok" if own.score <= DENOISER else "broken"
    if best is not own and best.score > DENOISER:
        severity = "broken"
        message = (
            f"it is no denoiser as declared ({own.score:.3g} times the bound), and of the readings"
            f" tried the nearest is {best.reading}, {best.score:.3g} times the bound: none is right"
        )
    elif best is not own:
        severity = "watch" if severity == "ok" else severity
        message = f"{another(own, ranking)}: load it so"
    elif severity == "ok":
        message = f"it reads as declared: {own.reading}, at {own.score:.3g} of the bound"
    else:
        message = (
            "no reading that was tried makes it a denoiser of this data: as declared its error is"
            f" {own.score:.3g} times the bound, and no other is better: is it this data, and is it"
            " trained?"
        )
    against = (
        f"the best of the readings; {BETTER:g} and {SURE:g} standard errors of the paired"
        " difference"
    )
    return Verdict("wrong-reading", severity, own.score / best.score, BETTER, against, message)


def judge_sigma_data(teacher: Teacher, best: Result) -> Verdict:
    """The sigma_data that it was trained with against the data's own."""
    std = teacher.std * best.reading.range.scale
    own = best.reading.sigma_data
    ratio, ok, fault = 1.0, "its output needs no sigma_data", ""
    if own is not None:
        ratio = max(own / std, std / own)
        ok = f"its sigma_data {own:.3g} is the data's, {std:.3g}"
        fault = (
            f"its sigma_data is {own:.3g}, the data's deviation {std:.3g}: it learns, but its"
            " output is not of unit variance; set --sigma-data, or scale the data"
        )
    return judge(
        "sigma-data",
        ratio,
        1.2,
        1e9,
        against="the standard deviation of the training split, within 20 %",
        ok=ok,
        fault=fault,
    )
