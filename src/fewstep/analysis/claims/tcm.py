"""TCM's second stage against more of its first, at equal updates, ratio and learning rate.

All go on from the same weights, where one step has come to its best. The second stage also trains
at other times than the first. So one arm goes on with the first stage under a law that is half its
own and half the second stage's: what that gains comes from the times and not from the truncation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import stdev
from typing import Any

import torch
from torch import Tensor

from fewstep import methods
from fewstep.analysis import report
from fewstep.analysis.claims.arms import Arm, ideal
from fewstep.analysis.claims.claim import (
    COST,
    PICTURES,
    Claim,
    Results,
    Row,
    Seeds,
    Statement,
    column,
    common_seeds,
    controls,
    excess,
)
from fewstep.analysis.claims.plots import as_figure, by_step
from fewstep.analysis.claims.snapshots import look_classes
from fewstep.analysis.report import Figure
from fewstep.core.method import Method
from fewstep.core.times import Law, LogStudentT
from fewstep.statistics.intervals import pm

DIFFUSION, STAGE = 1500, 4500  # updates
MARKS = tuple(range(STAGE // 12, STAGE + 1, STAGE // 12))
LAW: dict[str, Any] = {"p_mean": -0.4, "p_std": 1.8}
ECT: dict[str, Any] = {**LAW, "stages": 5}
LAST: dict[str, Any] = {**LAW, "q": 32.0, "stages": 1}  # the first stage's last ratio throughout
NET: dict[str, Any] = {"width": 96, "depth": 3}
STEADY: dict[str, Any] = {
    "labels": True,
    "network_options": NET,
    "iterations": STAGE,
    "lr": 5e-4,
    "constant": 1.0,
}
TUNING_SEED = 99  # of the settings: none of those that are judged
FD = "feature_frechet"
LOW = "denoising 0.2"


@dataclass(frozen=True)
class Half:
    """Half of the draws from one law, half from another."""

    one: Law
    other: Law

    def quantile(self, u: Tensor) -> Tensor:
        first = self.one.quantile(2 * u)
        second = self.other.quantile((2 * u - 1).clamp(0, 1))
        return torch.where(u < 0.5, first, second)


def both_laws(*, sigma_data: float = 0.5) -> Method:
    """The first stage at its last ratio, its times half from the second stage's law."""
    method = methods.ect(**LAST, sigma_data=sigma_data)
    times: Any = method.times
    return replace(method, times=replace(times, law=Half(times.law, LogStudentT())))


START = Arm(
    law="digits",
    method="diffusion",
    options=LAW,
    fields={"labels": True, "network_options": NET, "iterations": DIFFUSION},
    marks=(DIFFUSION,),
    look=look_classes,
    keep=True,
)
FIRST = replace(START, method="ect", options=ECT, fields=STEADY, marks=MARKS, init=START)


def goes_on(method: str, options: dict[str, Any], **more: Any) -> Arm:
    fields = {**STEADY, "age": STAGE, **more.pop("fields", {})}
    return replace(
        FIRST, method=method, options=options, fields=fields, init=FIRST, keep=False, **more
    )


def second(**options: Any) -> Arm:
    """The second stage: equal updates at the first's learning rate."""
    fields = {"stage": 2, "stage_lr": 1.0, "lr_clock": "run"}
    options = {"base": {"method": "ect", **ECT}, "w_b": 0.1, **options}
    return goes_on("tcm", options, fields=fields)


MORE, BOTH, TWO, ALONE = (
    "stage 1 goes on",
    "stage 1 goes on, both laws",
    "stage 2",
    "stage 2, no boundary rows",
)
LATER = {
    MORE: goes_on("ect", LAST),
    BOTH: goes_on("ect", {}, factory=both_laws),
    TWO: second(),
    ALONE: second(rho=0.0),
    "stage 2, t' = 0.5": second(t_prime=0.5),
    "stage 2, t' = 2": second(t_prime=2.0),
}


def make_rows() -> dict[str, Row]:
    start = START.row(14.0)
    first = FIRST.row(36.0, start)
    later = {name: arm.row(40.0, first) for name, arm in LATER.items()}
    return {"diffusion": start, "stage 1": first, **later, "held-out digits": ideal("digits")}


def by_seed(seeds: Seeds, value: Callable[[Any], float]) -> tuple[float, ...]:
    return tuple(value(seeds[seed]) for seed in common_seeds(seeds))


def rise_of(seeds: Seeds, measure: str) -> tuple[float, ...]:
    """The last look's minus the first's."""
    return by_seed(seeds, lambda one: one["curve"][-1][measure] - one["curve"][0][measure])


def best(one: Any) -> float:
    """The least distance over the looks of an arm."""
    least: float = min(point[FD] for point in one["curve"])
    return least


def statements(results: Results) -> Sequence[Statement]:
    first, more, two = (results[name] for name in ("stage 1", MORE, TWO))
    text = "feature Fréchet distance of one-step samples"
    rise, uncut = (rise_of(first, low) for low in (LOW, f"{LOW}, not cut"))
    at_best = tuple(best(more[seed]) - best(two[seed]) for seed in common_seeds(more, two))
    return [
        Statement(
            "over stage 1 the feature Fréchet distance of data denoised from t = 0.2 rises: its"
            " last look minus its first",
            rise,
            premise=True,
        ),
        Statement(
            f"more of stage 1 does not help: {text}, at its end minus at stage 1's",
            excess(more, first, FD),
            premise=True,
        ),
        Statement(f"{text}, more of stage 1 minus stage 2", excess(more, two, FD)),
        Statement(
            f"{text}, more of stage 1 under both laws minus stage 2",
            excess(results[BOTH], two, FD),
        ),
        *controls(
            {
                "the first premise, of values that are not cut to the range": uncut,
                f"at each arm's best look: {text}, more of stage 1 minus stage 2": at_best,
                "pixel Fréchet distance, more of stage 1 minus stage 2": excess(
                    more, two, "pixel_frechet"
                ),
                **{
                    f"{text}, {name} minus stage 2": excess(results[name], two, FD)
                    for name in (ALONE, "stage 2, t' = 0.5", "stage 2, t' = 2")
                },
            }
        ),
    ]


def lesson(results: Results) -> str:
    """What the two stages trade, and what the boundary rows do here."""
    pixel = [pm(column(results[name], "pixel_frechet")) for name in (MORE, TWO)]
    bests = [pm(by_seed(results[name], best)) for name in (MORE, TWO)]
    columns = [column(results[name], FD) for name in (MORE, TWO)]
    ends = [stdev(values) if len(values) > 1 else 0.0 for values in columns]
    alone = pm(excess(results[ALONE], results[TWO], FD))
    return (
        "A small network at a constant learning rate shows the trade-off that the paper starts"
        " from. A second stage trains low noise no longer; what it wins at high noise is"
        f" steadiness: over the seeds its last distance deviates by {ends[1]:.2f}, that of more of"
        f" stage 1 by {ends[0]:.2f}. At each arm's best look the two are {bests[1]} and {bests[0]}:"
        " a second stage is no better than stopping in time here, and pixels, at the end"
        f" {pixel[1]} and {pixel[0]}, say nothing for it. Its law of times is no gain by itself:"
        " under both laws the first stage gets much worse. Without boundary rows the distance is"
        f" {alone} higher: in so many updates from a good start the student does not collapse,"
        " though nothing holds its scale."
    )


def figure(results: Results) -> Figure:
    drawing, plots = report.axes(2, width=8.6, height=3.6)
    for ax, t in zip(plots, ("0.2", "1"), strict=True):
        for name in ("stage 1", MORE, BOTH, TWO):
            _, low = by_step(results[name], f"denoising {t}")
            _, generation = by_step(results[name], FD)
            x, y = ([sum(v) / len(v) for v in columns] for columns in (low, generation))
            (path,) = ax.plot(x, y, marker=".", label=name)
            ax.plot(x[-1:], y[-1:], marker="o", color=path.get_color())
        ax.set(xlabel=f"feature Fréchet, denoised from t = {t}", xscale="log", yscale="log")
    plots[0].set_ylabel("feature Fréchet, one step")
    drawing.legend(*plots[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return as_figure(
        drawing,
        "One-step samples against denoised data along both stages",
        "Left is better denoising, down are better samples; each path ends at its large point.",
        "Points are means over the seeds, in the order of the training.",
    )


CLAIM = Claim(
    title="TCM: a truncated second stage beats more of the first",
    says=(
        "Consistency training improves samples from pure noise at the cost of denoising at low"
        " noise, until both get worse. Continued from there, a stage that trains at t >= t' alone"
        " gives better one-step samples than more of the first stage (TCM, arXiv 2410.14895)."
    ),
    setting=(
        f"handwritten digits by class, width 96, depth 3, batch 128: {DIFFUSION} updates of"
        f" diffusion, {STAGE} of ECT in 5 stages of its ratio at a constant learning rate of 5e-4,"
        f" then {STAGE} of each arm at the last ratio (r / t = 0.97 at high t) and the same rate;"
        " average 0.998. Both laws: half of the times from stage 2's law. t' = 1, a quarter of the"
        " rows at t', w_b = 0.1 where nothing else is said. Samples and denoised data are cut to"
        " the range of the data, as pictures are."
    ),
    fair=(
        "As in the paper the first stage starts from a diffusion model at a constant learning rate"
        " and lasts until one step is near its best, which is a premise and measured. All go on"
        " from the same weights for as many updates as it had, at its rate. What the times alone"
        " give is an arm of its own. Seeds, noise and data are the same."
    ),
    rows=make_rows(),
    measures={**PICTURES, **COST},
    statements=statements,
    lesson=lesson,
    figure=figure,
)
