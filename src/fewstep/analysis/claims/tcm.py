"""TCM's second stage against more of its first, from the same weights, at equal compute, ratio and
learning rate.

The second stage also looks at other times than the first. So one arm goes on with the first stage
under a law that is half its own and half the second stage's: what that gains comes from the times
and not from the truncation.
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
from fewstep.analysis.claims.claim import COST, QUALITY, Claim, Found, column, pm
from fewstep.analysis.claims.plots import by_step, finished
from fewstep.analysis.claims.snapshots import look_mixture, look_plane
from fewstep.analysis.claims.verdicts import (
    CONTRADICTED,
    OPEN,
    REPRODUCED,
    Statement,
    excess,
    interval,
    verdict,
)
from fewstep.analysis.report import Figure
from fewstep.core.method import Method
from fewstep.core.times import Law, LogStudentT

# a second stage's update costs so many of its first (benchmarks/methods_step.py: 1.04 to 1.09)
DEARER = 1.08
EVERY = 6  # looks at each stage


@dataclass(frozen=True)
class Half:
    """Half of the draws from one law, half from another."""

    one: Law
    other: Law

    def quantile(self, u: Tensor) -> Tensor:
        return torch.where(
            u < 0.5, self.one.quantile(2 * u), self.other.quantile((2 * u - 1).clamp(0, 1))
        )


def held(stages: int, **options: Any) -> dict[str, Any]:
    """The first stage's options with the ratio that it ends with."""
    return {**options, "q": 2.0**stages, "stages": 1}


def both_laws(*, sigma_data: float = 0.5) -> Method:
    """The mixture's first stage, held at its last ratio, under half its law and half that of the
    second.
    """
    return _both(methods.ect(**held(**ECT), sigma_data=sigma_data))


def both_laws_plane(*, sigma_data: float = 0.5) -> Method:
    """The same of the grid's first stage."""
    return _both(methods.ect(**held(**PLANE), sigma_data=sigma_data))


def _both(method: Method) -> Method:
    times: Any = method.times
    return replace(method, times=replace(times, law=Half(times.law, LogStudentT())))


ECT: dict[str, Any] = {"p_mean": -0.4, "p_std": 1.8, "stages": 5}
PLANE: dict[str, Any] = {"stages": 6}


def arms(
    law: str, first: int, second: int, net: dict[str, int], options: dict[str, Any], **fields: Any
) -> dict[str, Arm]:
    """The first stage, and what goes on from it: itself for as much compute, under both laws, and
    the second stage.
    """
    plane = law != MIXTURE
    seen = look_plane if plane else look_mixture
    own = both_laws_plane if plane else both_laws
    longer = round(second * DEARER)

    def arm(method: str, steps: int, **more: Any) -> Arm:
        marks = tuple(round(steps * i / EVERY) for i in range(1, EVERY + 1))
        settings = {"network_options": net, "iterations": steps, **fields, **more.pop("also", {})}
        return Arm(law=law, method=method, fields=settings, marks=marks, look=seen, **more)

    start = arm("ect", first, options=options, keep=True)
    on = {"init": start, "also": {"lr": 1e-3, "age": first}}
    base = {"base": {"method": "ect", **options}, "w_b": 0.1}
    return {
        "stage 1": start,
        "stage 1 goes on": arm("ect", longer, options=held(**options), **on),
        "stage 1 goes on, both laws": arm("ect", longer, own=own, **on),
        "stage 2, w_b 0.1": arm("tcm", second, options=base, **on),
        "stage 2, w_b 1": arm("tcm", second, options={**base, "w_b": 1.0}, **on),
    }


MIXED = arms(MIXTURE, 1500, 1000, {"width": 48, "depth": 2}, ECT)
GRID = arms("grid25", 3000, 2400, {"width": 32, "depth": 2}, PLANE, batch=256)
LAWS = {"mixture": (MIXTURE, MIXED, 12.0), "grid": ("grid25", GRID, 15.0)}


def rows() -> dict[str, Any]:
    found = {}
    for name, (law, made, cost) in LAWS.items():
        first = made["stage 1"].row(cost, solutions(law))
        for arm, one in made.items():
            found[f"{name}: {arm}"] = (
                first if arm == "stage 1" else one.row(cost, first, solutions(law))
            )
        found[f"{name}: exact ODE"] = ideal(law)
    return found


def statements(found: Found) -> Sequence[Statement]:
    told = []
    for name in LAWS:
        one, two, both = (
            found[f"{name}: {arm}"]
            for arm in ("stage 1 goes on", "stage 2, w_b 0.1", "stage 1 goes on, both laws")
        )
        best = "feature_frechet" if name == "mixture" else "energy_x1000"
        words = "feature Fréchet distance" if name == "mixture" else "1000 x energy distance"
        told += [
            Statement(
                f"{name}: {words} of one-step samples, continued stage 1 minus stage 2 (w_b 0.1)",
                excess(one, two, best),
            ),
            Statement(
                f"{name}: ODE error, continued stage 1 minus stage 2 (w_b 0.1)",
                excess(one, two, "ode_error"),
                main=False,
            ),
            Statement(
                f"{name}: {words}, continued stage 1 under both laws minus stage 2 (w_b 0.1)",
                excess(both, two, best),
                main=False,
            ),
            *(
                Statement(
                    f"{name}: denoising error of stage 1, its last look minus {since} (the paper:"
                    " it rises)",
                    gain,
                    False,
                )
                for since, gain in (
                    ("its first", _lost(found, name, 0)),
                    ("that halfway", _lost(found, name, EVERY // 2 - 1)),
                )
            ),
        ]
    return told


def _lost(found: Found, name: str, since: int) -> tuple[float, ...]:
    """How much higher the denoising error ends than it was at that look."""
    curves = [one["curve"] for one in found[f"{name}: stage 1"].values()]
    return tuple(curve[-1]["denoising"] - curve[since]["denoising"] for curve in curves)


def words(found: Found) -> Sequence[str]:
    told = []
    for name in LAWS:
        start, one, two = (
            found[f"{name}: {arm}"] for arm in ("stage 1", "stage 1 goes on", "stage 2, w_b 0.1")
        )
        last = [
            [seed["curve"][-1]["denoising"] for seed in row.values()] for row in (start, one, two)
        ]
        told.append(
            f"On the {name} the first stage ends with an ODE error of"
            f" {pm(column(start, 'ode_error'))} and a denoising error of {pm(last[0])}. More of it"
            f" leads to {pm(column(one, 'ode_error'))} and {pm(last[1])}, the second stage to"
            f" {pm(column(two, 'ode_error'))} and {pm(last[2])}: not asked about low noise any"
            f" more, it {_forgets(last[0], last[2])}."
        )
    return [
        *told,
        (
            "The second stage learns from what the first has at t' = 1 and keeps that: an"
            " undertrained first stage sets its limit."
        ),
    ]


def _forgets(before: Sequence[float], after: Sequence[float]) -> str:
    """What became of the denoising at low noise, where the seeds tell it."""
    side = verdict(interval([b - a for a, b in zip(before, after, strict=True)]))
    return {
        REPRODUCED: "loses some of it",
        CONTRADICTED: "is better at it",
        OPEN: "changes there by no more than chance",
    }[side]


def figure(found: Found) -> Figure:
    drawing, plots = report.axes(2, width=8.6, height=3.6)
    for ax, name in zip(plots, LAWS, strict=True):
        for arm in LAWS[name][1]:
            _, x = by_step(found[f"{name}: {arm}"], "denoising")
            _, y = by_step(found[f"{name}: {arm}"], "generation")
            means = [[sum(values) / len(values) for values in part] for part in (x, y)]
            ax.plot(*means, marker="o", label=arm)
            ax.plot(
                means[0][-1], means[1][-1], marker="s", color=ax.lines[-1].get_color(), markersize=7
            )
        ax.set(
            title=name,
            xlabel="denoising error at t = 0.2 to 0.5 (rms)",
            ylabel="one-step generation error from t = 80 (rms)",
        )
        ax.locator_params(axis="x", nbins=5)
    plots[0].legend()
    return finished(
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
        "Trained on from a consistency model, a stage that sees t >= t' alone gives better one-step"
        " samples than more of the first stage, because denoising at low noise no longer takes its"
        " capacity (TCM, arXiv 2410.14895)."
    ),
    setting=(
        "digits mixture (64-D, unlabelled): width 48, depth 2, batch 128, 1500 updates of ECT, then"
        " 1000; grid of 25 modes (2-D, std 0.03): width 32, depth 2, batch 256, 3000, then 2400. A"
        " second-stage update costs about 1.08 of the first's, since a frozen network is asked too,"
        " so stage 1 goes on for 1.08 times as many updates: equal compute. All go on from the same"
        " first stage of the seed, with its last ratio, at a learning rate of 1e-3. Both laws: half"
        " of the times from stage 2's law."
    ),
    rows=rows(),
    measures={**QUALITY, **COST},
    statements=statements,
    words=words,
    figure=figure,
)
