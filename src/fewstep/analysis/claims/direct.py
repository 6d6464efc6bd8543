"""Direct consistency models against consistency models: solving the ODE, and making samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fewstep.analysis import report
from fewstep.analysis.claims.arms import MIXTURE, SETTING, Arm, ideal, solutions
from fewstep.analysis.claims.claim import (
    COST,
    QUALITY,
    Claim,
    Results,
    Row,
    Statement,
    column,
    excess,
    interval,
    pm,
)
from fewstep.analysis.claims.mcm import cd_row
from fewstep.analysis.claims.plots import as_figure
from fewstep.analysis.report import COLOURS, Figure

N: dict[str, Any] = {"n": 16, "solver": "heun"}
# Evaluations of the teacher per sample and update.
DIRECT_EVALUATIONS = 16.0  # a mean over levels
CD_EVALUATIONS = 2.0
SHORT = round(SETTING["iterations"] * CD_EVALUATIONS / DIRECT_EVALUATIONS)


def direct_row(cost: float, fields: dict[str, Any], **options: Any) -> Row:
    arm = Arm(method="direct_cm", options={**N, **options}, fields=fields, exact_teacher=True)
    return arm.row(cost, solutions(MIXTURE))


ROWS = {
    "Direct": direct_row(130.0, {}),
    "its consistency model": direct_row(29.0, {}, goal="student"),
    "CD": cd_row(),
    "Direct, as many teacher evaluations": direct_row(16.0, {"iterations": SHORT}),
    "exact ODE": ideal(MIXTURE),
}
ARMS = [name for name in ROWS if name != "exact ODE"]


def statements(results: Results) -> Sequence[Statement]:
    direct, own, cd, short = (results[name] for name in ARMS)
    feature = "feature_frechet"
    return [
        Statement(
            "equal updates: ODE error, its consistency model minus Direct",
            excess(own, direct, "ode_error"),
        ),
        Statement(
            "equal updates: feature Fréchet distance, Direct minus its consistency model",
            excess(direct, own, feature),
        ),
        Statement(
            "equal updates: ODE error, CD minus Direct", excess(cd, direct, "ode_error"), False
        ),
        Statement(
            "equal updates: feature Fréchet distance, Direct minus CD",
            excess(direct, cd, feature),
            main=False,
        ),
        Statement(
            "equal teacher evaluations: ODE error, CD minus Direct",
            excess(cd, short, "ode_error"),
            main=False,
        ),
        Statement(
            "equal teacher evaluations: feature Fréchet distance, Direct minus CD",
            excess(short, cd, feature),
            main=False,
        ),
    ]


def comments(results: Results) -> Sequence[str]:
    errors = [pm(column(results[name], "ode_error")) for name in ARMS]
    distances = [pm(column(results[name], "feature_frechet")) for name in ARMS]
    evaluations = [interval(column(results[name], "teacher_evaluations")).mean for name in ARMS]
    return [
        (
            f"At equal updates Direct's ODE error is {errors[0]}, its consistency model's"
            f" {errors[1]} and CD's {errors[2]}; their feature distances are {distances[0]},"
            f" {distances[1]} and {distances[2]}."
        ),
        (
            f"The price: {evaluations[0]:.1f} evaluations of the teacher per sample and update"
            f" against {evaluations[2]:.1f}. With as many evaluations as CD has in"
            f" {SETTING['iterations']} updates Direct has {SHORT} updates; its ODE error is then"
            f" {errors[3]} and its feature distance {distances[3]}."
        ),
        (
            "The teacher here is exact and its ODE smooth; the paper's is Stable Diffusion, and its"
            " samples are pictures."
        ),
    ]


def lesson(results: Results) -> str:
    return "A lower error to the ODE's solution and better samples are two different things."


def figure(results: Results) -> Figure:
    drawing, plots = report.axes(2, width=8.6, height=3.5)
    labels = {
        "feature_frechet": "feature Fréchet distance",
        "energy_x1000": "energy distance x 1000",
    }
    for ax, (measure, label) in zip(plots, labels.items(), strict=True):
        for name, colour in zip(ARMS, COLOURS, strict=False):
            errors = column(results[name], "ode_error")
            ax.plot(errors, column(results[name], measure), "o", color=colour, label=name)
        floor = column(results["exact ODE"], measure)[0]
        ax.axhline(floor, color="#555555", linestyle="--", label="exact ODE solutions")
        ax.set(xlabel="ODE error (rms)", ylabel=label, yscale="log")
    drawing.legend(*plots[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return as_figure(
        drawing,
        "ODE error against distance to the law, a point for each seed",
        "Left is a better solution of the ODE, down are better samples.",
        "Each point is one seed.",
    )


CLAIM = Claim(
    title="Direct CM: solves the ODE better, samples worse",
    says=(
        "A model that learns the ODE's solutions directly has a lower ODE error than a consistency"
        " model, and yet its samples are worse (Direct CM, arXiv 2411.08954)."
    ),
    setting=(
        "digits mixture (64-D, unlabelled), exact teacher, 16 intervals of Heun's method (which"
        " itself ends within 0.04 of the exact solution), squared error, weight 1; 0.55 M weights,"
        " 900 updates of batch 128. Its consistency model is the paper's rival: the same levels,"
        " the student as target; CD has an average as target."
    ),
    fair=(
        "Both students see the same levels, noise and teacher, which is exact: its ODE is known."
    ),
    rows=ROWS,
    measures={**QUALITY, "teacher_evaluations": "teacher evaluations", **COST},
    statements=statements,
    comments=comments,
    lesson=lesson,
    figure=figure,
)
