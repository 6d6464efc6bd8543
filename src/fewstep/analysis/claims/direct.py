"""Direct consistency models against consistency models: solving the ODE, and making samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fewstep.analysis import report
from fewstep.analysis.claims.arms import MIXTURE, SETTING, Arm, ideal, solutions
from fewstep.analysis.claims.claim import COST, QUALITY, Claim, Found, column, pm
from fewstep.analysis.claims.mcm import cd
from fewstep.analysis.claims.plots import finished
from fewstep.analysis.claims.verdicts import Statement, excess
from fewstep.analysis.report import COLOURS, Figure

N: dict[str, Any] = {"n": 16, "solver": "heun"}
ASKED = (
    16.0,
    2.0,
)  # evaluations of the teacher per sample and update: of Direct CM (its mean over levels), of CD
SHORT = round(SETTING["iterations"] * ASKED[1] / ASKED[0])
ROWS = {
    "Direct": Arm(method="direct_cm", options=N, taught=True).row(130.0, solutions(MIXTURE)),
    "its consistency model": (
        Arm(method="direct_cm", options={**N, "goal": "student"}, taught=True).row(
            29.0, solutions(MIXTURE)
        )
    ),
    "CD": cd(),
    "Direct, as many teacher evaluations": (
        Arm(method="direct_cm", options=N, fields={"iterations": SHORT}, taught=True).row(
            16.0, solutions(MIXTURE)
        )
    ),
    "exact ODE": ideal(MIXTURE),
}
TRAINED = [name for name in ROWS if name != "exact ODE"]


def statements(found: Found) -> Sequence[Statement]:
    direct, own, cd_, short = (found[name] for name in TRAINED)
    return [
        Statement(
            "equal updates: ODE error, its consistency model minus Direct",
            excess(own, direct, "ode_error"),
        ),
        Statement(
            "equal updates: feature Fréchet distance, Direct minus its consistency model",
            excess(direct, own, "feature_frechet"),
        ),
        Statement(
            "equal updates: ODE error, CD minus Direct",
            excess(cd_, direct, "ode_error"),
            main=False,
        ),
        Statement(
            "equal updates: feature Fréchet distance, Direct minus CD",
            excess(direct, cd_, "feature_frechet"),
            main=False,
        ),
        Statement(
            "equal teacher evaluations: ODE error, CD minus Direct",
            excess(cd_, short, "ode_error"),
            main=False,
        ),
        Statement(
            "equal teacher evaluations: feature Fréchet distance, Direct minus CD",
            excess(short, cd_, "feature_frechet"),
            main=False,
        ),
    ]


def words(found: Found) -> Sequence[str]:
    direct, own, cd_, short = (found[name] for name in TRAINED)
    asked = [sum(column(row, "teacher_evaluations")) / len(row) for row in (direct, cd_)]
    return [
        (
            f"At equal updates Direct's ODE error is {pm(column(direct, 'ode_error'))}, its"
            f" consistency model's {pm(column(own, 'ode_error'))} and CD's"
            f" {pm(column(cd_, 'ode_error'))}; their feature distances are"
            f" {pm(column(direct, 'feature_frechet'))}, {pm(column(own, 'feature_frechet'))} and"
            f" {pm(column(cd_, 'feature_frechet'))}."
        ),
        (
            f"It is paid for: {asked[0]:.1f} evaluations of the teacher per sample and update"
            f" against {asked[1]:.1f}. With as many evaluations as CD has in"
            f" {SETTING['iterations']} updates Direct gets {SHORT}; its ODE error is then"
            f" {pm(column(short, 'ode_error'))} and its feature distance"
            f" {pm(column(short, 'feature_frechet'))}."
        ),
        (
            "The teacher here is exact and its ODE smooth; the paper's is Stable Diffusion, and its"
            " samples are pictures."
        ),
    ]


def figure(found: Found) -> Figure:
    drawing, plots = report.axes(2, width=8.6, height=3.5)
    for ax, measure, label in zip(
        plots,
        ("feature_frechet", "energy_x1000"),
        ("feature Fréchet distance", "energy distance x 1000"),
        strict=True,
    ):
        for name, colour in zip(TRAINED, COLOURS, strict=False):
            ax.plot(
                column(found[name], "ode_error"),
                column(found[name], measure),
                "o",
                color=colour,
                label=name,
            )
        floor = column(found["exact ODE"], measure)[0]
        ax.axhline(floor, color="#555555", linestyle="--", label="exact ODE solutions")
        ax.set(xlabel="ODE error (rms)", ylabel=label, yscale="log")
    drawing.legend(*plots[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return finished(
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
    rows=ROWS,
    measures={**QUALITY, "teacher_evaluations": "teacher evaluations", **COST},
    statements=statements,
    words=words,
    figure=figure,
)
