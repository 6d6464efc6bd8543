"""TCM's second stage against more of its first, at equal compute, ratio and learning rate.

Both go on from the same weights. The second stage also trains at other times than the first. So
one arm goes on with the first stage under a law that is half its own and half the second stage's:
what that gains comes from the times and not from the truncation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fewstep import methods
from fewstep.analysis import report
from fewstep.analysis.claims.arms import MIXTURE, Arm, ideal, solutions
from fewstep.analysis.claims.claim import (
    CONTRADICTED,
    COST,
    OPEN,
    QUALITY,
    REPRODUCED,
    Claim,
    Results,
    Row,
    Statement,
    column,
    excess,
    interval,
    pm,
    verdict,
)
from fewstep.analysis.claims.plots import as_figure, by_step
from fewstep.analysis.claims.snapshots import look_mixture, look_plane
from fewstep.analysis.report import Figure
from fewstep.core.method import Method
from fewstep.core.times import Law, LogStudentT

# What an update of the second stage costs in updates of the first: 1.04 to 1.09 by
# benchmarks/methods_step.py.
COST_RATIO = 1.08
LOOKS = 6  # at each stage

ECT: dict[str, Any] = {"p_mean": -0.4, "p_std": 1.8, "stages": 5}
PLANE: dict[str, Any] = {"stages": 6}


@dataclass(frozen=True)
class Half:
    """Half of the draws from one law, half from another."""

    one: Law
    other: Law

    def quantile(self, u: Tensor) -> Tensor:
        first = self.one.quantile(2 * u)
        second = self.other.quantile((2 * u - 1).clamp(0, 1))
        return torch.where(u < 0.5, first, second)


def at_last_ratio(stages: int, **options: Any) -> dict[str, Any]:
    """The first stage's options with the ratio that it ends with."""
    return {**options, "q": 2.0**stages, "stages": 1}


def both_laws(*, sigma_data: float = 0.5) -> Method:
    """The mixture's first stage at its last ratio, its times half from the second stage's law."""
    return _with_both_laws(methods.ect(**at_last_ratio(**ECT), sigma_data=sigma_data))


def both_laws_plane(*, sigma_data: float = 0.5) -> Method:
    """The same of the grid's first stage."""
    return _with_both_laws(methods.ect(**at_last_ratio(**PLANE), sigma_data=sigma_data))


def _with_both_laws(method: Method) -> Method:
    times: Any = method.times
    return replace(method, times=replace(times, law=Half(times.law, LogStudentT())))


def arms(
    law: str, first: int, second: int, net: dict[str, int], options: dict[str, Any], **fields: Any
) -> dict[str, Arm]:
    """The first stage, and what goes on from it at equal compute.

    It goes on as itself, as itself under both laws, and as the second stage.
    """
    look = look_mixture if law == MIXTURE else look_plane
    factory = both_laws if law == MIXTURE else both_laws_plane
    longer = round(second * COST_RATIO)

    def arm(method: str, steps: int, *, goes_on: bool = True, **more: Any) -> Arm:
        marks = tuple(round(steps * i / LOOKS) for i in range(1, LOOKS + 1))
        settings = {"network_options": net, "iterations": steps, **fields}
        if goes_on:
            settings |= {"lr": 1e-3, "age": first}
            more["init"] = start
        return Arm(law=law, method=method, fields=settings, marks=marks, look=look, **more)

    start = arm("ect", first, options=options, keep=True, goes_on=False)
    base = {"base": {"method": "ect", **options}, "w_b": 0.1}
    return {
        "stage 1": start,
        "stage 1 goes on": arm("ect", longer, options=at_last_ratio(**options)),
        "stage 1 goes on, both laws": arm("ect", longer, factory=factory),
        "stage 2, w_b 0.1": arm("tcm", second, options=base),
        "stage 2, w_b 1": arm("tcm", second, options={**base, "w_b": 1.0}),
    }


MIXTURE_ARMS = arms(MIXTURE, 1500, 1000, {"width": 48, "depth": 2}, ECT)
GRID_ARMS = arms("grid25", 3000, 2400, {"width": 32, "depth": 2}, PLANE, batch=256)
# name -> law, arms, CPU seconds of a training
LAWS = {"mixture": (MIXTURE, MIXTURE_ARMS, 12.0), "grid": ("grid25", GRID_ARMS, 15.0)}


def make_rows() -> dict[str, Row]:
    rows = {}
    for name, (law, by_name, cost) in LAWS.items():
        start = by_name["stage 1"].row(cost, solutions(law))
        rows[f"{name}: stage 1"] = start
        for arm_name, arm in by_name.items():
            if arm.init is not None:
                rows[f"{name}: {arm_name}"] = arm.row(cost, start, solutions(law))
        rows[f"{name}: exact ODE"] = ideal(law)
    return rows


def statements(results: Results) -> Sequence[Statement]:
    statements = []
    for name in LAWS:
        one, two, both = (
            results[f"{name}: {arm}"]
            for arm in ("stage 1 goes on", "stage 2, w_b 0.1", "stage 1 goes on, both laws")
        )
        measure, title = {
            "mixture": ("feature_frechet", "feature Fréchet distance"),
            "grid": ("energy_x1000", "1000 x energy distance"),
        }[name]
        rise = f"{name}: denoising error of stage 1, its last look minus"
        statements += [
            Statement(
                f"{name}: {title} of one-step samples, continued stage 1 minus stage 2 (w_b 0.1)",
                excess(one, two, measure),
            ),
            Statement(
                f"{name}: ODE error, continued stage 1 minus stage 2 (w_b 0.1)",
                excess(one, two, "ode_error"),
                main=False,
            ),
            Statement(
                f"{name}: {title}, continued stage 1 under both laws minus stage 2 (w_b 0.1)",
                excess(both, two, measure),
                main=False,
            ),
            Statement(
                f"{rise} its first (the paper: it rises)", denoising_rise(results, name, 0), False
            ),
            Statement(
                f"{rise} that halfway (the paper: it rises)",
                denoising_rise(results, name, LOOKS // 2 - 1),
                main=False,
            ),
        ]
    return statements


def denoising_rise(results: Results, name: str, since: int) -> tuple[float, ...]:
    """How much higher the denoising error of the first stage ends than it was at that look."""
    curves = [one["curve"] for one in results[f"{name}: stage 1"].values()]
    return tuple(curve[-1]["denoising"] - curve[since]["denoising"] for curve in curves)


def comments(results: Results) -> Sequence[str]:
    lines = []
    for name in LAWS:
        rows = [
            results[f"{name}: {arm}"] for arm in ("stage 1", "stage 1 goes on", "stage 2, w_b 0.1")
        ]
        ode = [pm(column(row, "ode_error")) for row in rows]
        last = [[one["curve"][-1]["denoising"] for one in row.values()] for row in rows]
        lines.append(
            f"On the {name} the first stage ends with an ODE error of {ode[0]} and a denoising"
            f" error of {pm(last[0])}. More of it leads to {ode[1]} and {pm(last[1])}, the second"
            f" stage to {ode[2]} and {pm(last[2])}: no longer trained at low noise, it"
            f" {_change(last[0], last[2])}."
        )
    return [
        *lines,
        (
            "The second stage learns from what the first has at t' = 1 and keeps that: an"
            " undertrained first stage sets its limit."
        ),
    ]


def _change(before: Sequence[float], after: Sequence[float]) -> str:
    """What happens to the denoising at low noise, as far as the seeds show it."""
    side = verdict(interval([b - a for a, b in zip(before, after, strict=True)]))
    return {
        REPRODUCED: "denoises worse there",
        CONTRADICTED: "denoises better there",
        OPEN: "changes there by no more than chance",
    }[side]


def lesson(results: Results) -> str:
    return "A second stage keeps what the first has at t', so the first has to be finished."


def figure(results: Results) -> Figure:
    drawing, plots = report.axes(2, width=8.6, height=3.6)
    for ax, name in zip(plots, LAWS, strict=True):
        for arm in LAWS[name][1]:
            _, denoising = by_step(results[f"{name}: {arm}"], "denoising")
            _, generation = by_step(results[f"{name}: {arm}"], "generation")
            x = [sum(values) / len(values) for values in denoising]
            y = [sum(values) / len(values) for values in generation]
            ax.plot(x, y, marker="o", label=arm)
            ax.plot(x[-1], y[-1], marker="s", color=ax.lines[-1].get_color(), markersize=7)
        ax.set(
            title=name,
            xlabel="denoising error at t = 0.2 to 0.5 (rms)",
            ylabel="one-step generation error from t = 80 (rms)",
        )
        ax.locator_params(axis="x", nbins=5)
    plots[0].legend()
    return as_figure(
        drawing,
        "Denoising error against generation error along the trainings",
        "Both errors are root mean squares to the exact solution of the ODE, over pixels or"
        " coordinates; a line goes with the training and ends at the square. Down is better"
        " samples, left better denoising.",
        "Points are means over the seeds; the table has the intervals.",
    )


CLAIM = Claim(
    title="TCM: a truncated second stage beats more of the first",
    says=(
        "Continued from a consistency model, a stage that trains at t >= t' alone gives better"
        " one-step samples than more of the first stage, because denoising at low noise no longer"
        " takes its capacity (TCM, arXiv 2410.14895)."
    ),
    setting=(
        "digits mixture (64-D, unlabelled): width 48, depth 2, batch 128, 1500 updates of ECT, then"
        " 1000; grid of 25 modes (2-D, std 0.03): width 32, depth 2, batch 256, 3000, then 2400. A"
        " second-stage update costs about 1.08 of the first's, since a frozen network is evaluated"
        " too, so stage 1 goes on for 1.08 times as many updates: equal compute. All go on from the"
        " same first stage of the seed, with its last ratio, at a learning rate of 1e-3. Both laws:"
        " half of the times from stage 2's law."
    ),
    fair=("All arms go on from the same first stage at equal compute, ratio and learning rate."),
    rows=make_rows(),
    measures={**QUALITY, **COST},
    statements=statements,
    comments=comments,
    lesson=lesson,
    figure=figure,
)
