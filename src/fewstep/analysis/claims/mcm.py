"""Multistep consistency models on real digits by number of segments, all from one diffusion net."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from fewstep.analysis import report
from fewstep.analysis.claims import reference
from fewstep.analysis.claims.arms import Arm, ideal
from fewstep.analysis.claims.claim import (
    COST,
    PICTURES,
    Claim,
    Results,
    Row,
    Statement,
    column,
    common_seeds,
    controls,
    excess,
)
from fewstep.analysis.claims.plots import as_figure
from fewstep.analysis.report import Figure, line
from fewstep.core.denoiser import across
from fewstep.core.process import cosine
from fewstep.core.sampling import grid_of, sample
from fewstep.core.solvers import ddim
from fewstep.run.generator import Generator
from fewstep.statistics.intervals import interval

FD, ENERGY = "feature_frechet", "energy_x1000"
NAMES = {FD: "feature Fréchet distance", ENERGY: "1000 x energy distance"}
KS = (1, 2, 4, 8, 16)
MANY = 128
FEW = (1, 8)  # segments at which the teachers are compared
# Annealed as in the paper, at a tenth of its steps; c = 1e-4 is its own.
MCM: dict[str, Any] = {"steps": 16, "steps_end": MANY, "c": 1e-4}
# Levels as often as the cosine schedule has them.
DIFFUSION = {"p_mean": 0.0, "p_std": 1.6}
UPDATES = 1500


def with_fewer(folder: Path, generator: Generator) -> dict[str, Any]:
    """The diffusion network sampled by DDIM with K steps of the schedule that MCM has."""
    process = cosine()
    denoiser = across(generator.denoiser, generator.method.process, process)
    prior = process.prior(reference.noise("digits"))
    numbers: dict[str, Any] = {}
    for k in (*KS, MANY):
        with torch.no_grad():
            x = sample(process, denoiser, prior, grid_of(process, k).tolist(), ddim)
        scores = reference.scores("digits", x.clamp(-1, 1))
        numbers |= {by_ddim(k, name): value for name, value in scores.items()}
    return numbers


def by_ddim(k: int, measure: str) -> str:
    """The name of a measure of the diffusion network with K steps."""
    return f"{k} steps, {measure}"


NET = Arm(
    law="digits",
    method="diffusion",
    options=DIFFUSION,
    fields={"iterations": 8000},
    extra=with_fewer,
    keep=True,
)
START = NET.row(60.0)


def student(method: str, options: dict[str, Any], updates: int = UPDATES) -> Row:
    """What learns from the diffusion network, and from its weights on."""
    teacher = None if options.get("pairs") == "data" else NET
    fields = {"iterations": updates}
    arm = Arm(
        law="digits", method=method, options=options, fields=fields, init=NET, teacher=teacher
    )
    return arm.row(20.0 * updates / UPDATES, START)


def mcm(k: int, pairs: str = "addim", **options: Any) -> Row:
    return student("mcm", {"K": k, "pairs": pairs, **MCM, **options})


def pd(k: int, pairs: str) -> Row:
    """Progressive distillation from 16 steps to k, a fifth of the updates for each round."""
    halvings = len(bin(16 // k)) - 2
    return student("pd", {"steps": 16, "last": k, "pairs": pairs}, UPDATES * halvings // 5)


ROWS = {
    "diffusion": START,
    **{f"K = {k}": mcm(k) for k in KS},
    **{f"K = {k}, DDIM teacher": mcm(k, "ddim") for k in FEW},
    **{f"K = {k}, no teacher": mcm(k, "data") for k in FEW},
    **{f"K = 2, {n} steps always": mcm(2, steps=n, steps_end=n) for n in (16, MANY)},
    **{f"PD to {k}": pd(k, "ddim") for k in FEW},
    **{f"PD to {k}, aDDIM": pd(k, "addim") for k in FEW},
    "held-out digits": ideal("digits"),
}


def statements(results: Results) -> Sequence[Statement]:
    at = {k: results[f"K = {k}"] for k in KS}
    net = results["diffusion"]
    falls = [
        # From 8 on the paper's own distances are level.
        Statement(f"{text}, K = {a} minus K = {b}", excess(at[a], at[b], m), main=b < KS[-1])
        for m, text in NAMES.items()
        for a, b in pairwise(KS)
    ]
    fewer = {
        k: tuple(net[i][by_ddim(k, FD)] - at[k][i][FD] for i in common_seeds(net, at[k]))
        for k in KS
    }
    text = "{} steps: diffusion by DDIM minus MCM"
    pairs = {
        "K = 1, DDIM teacher is better: aDDIM minus DDIM": ("K = 1", "K = 1, DDIM teacher"),
        "K = 8, aDDIM teacher is better: DDIM minus aDDIM": ("K = 8, DDIM teacher", "K = 8"),
        **{
            f"K = {k}, training minus distillation": (f"K = {k}, no teacher", f"K = {k}")
            for k in FEW
        },
        **{
            f"K = 2, {n} steps always minus 16 to {MANY}": (f"K = 2, {n} steps always", "K = 2")
            for n in (16, MANY)
        },
        **{f"{k} steps, PD minus PD with aDDIM": (f"PD to {k}", f"PD to {k}, aDDIM") for k in FEW},
        **{f"{k} steps, PD minus MCM": (f"PD to {k}", f"K = {k}") for k in FEW},
    }
    return [
        *falls,
        Statement(f"{NAMES[FD]}, {text.format(1)}", fewer[1]),
        *controls({f"{NAMES[FD]}, {text.format(k)}": fewer[k] for k in KS[1:]}),
        *controls(
            {
                f"{NAMES[FD]}, {name}": excess(results[a], results[b], FD)
                for name, (a, b) in pairs.items()
            }
        ),
    ]


def lesson(results: Results) -> str:
    means = {k: interval(column(results[f"K = {k}"], FD)).mean for k in KS}
    many = interval(column(results["diffusion"], by_ddim(MANY, FD))).mean
    enough = next((k for k in KS if means[k] <= 1.1 * many), None)
    near = f"K = {enough} is" if enough else "no K is"
    best = min(means, key=lambda k: means[k])
    return (
        f"The largest gain is from one segment to two ({means[1]:.2f} to {means[2]:.2f}); the best"
        f" K is {best}, and {near} within a tenth of {MANY} steps of the diffusion network"
        f" ({many:.2f}). A segment's map is easier to learn than the whole one, and its errors do"
        " not reach the next segments' training."
    )


def figure(results: Results) -> Figure:
    drawing, plots = report.axes(2, width=8.6)
    net = results["diffusion"]
    for ax, (measure, label) in zip(plots, NAMES.items(), strict=True):
        rows = [column(results[f"K = {k}"], measure) for k in KS]
        line(ax, KS, rows, "MCM, aDDIM teacher")
        for name in ("DDIM teacher", "no teacher"):
            rows = [column(results[f"K = {k}, {name}"], measure) for k in FEW]
            line(ax, FEW, rows, f"MCM, {name}", linestyle="--")
        line(ax, FEW, [column(results[f"PD to {k}, aDDIM"], measure) for k in FEW], "PD, aDDIM")
        rows = [column(net, by_ddim(k, measure)) for k in (*KS, MANY)]
        line(ax, (*KS, MANY), rows, "diffusion, DDIM")
        floor = column(results["held-out digits"], measure)[0]
        ax.axhline(floor, color="#555555", linestyle=":", label="held-out digits")
        ax.set(xscale="log", yscale="log", xlabel="steps of the sampler", ylabel=label)
        ax.set(xticks=(*KS, MANY), xticklabels=(*KS, MANY))
        ax.minorticks_off()
    plots[0].legend(fontsize="x-small")
    return as_figure(
        drawing,
        "Distances of samples to the digits by number of steps, of multistep models and of the"
        " diffusion network that they start from",
        "Every multistep model has as many segments as steps.",
    )


CLAIM = Claim(
    title="MCM: more segments, better samples, from a consistency model to diffusion",
    says=(
        "A multistep consistency model interpolates between a consistency model (K = 1) and a"
        " diffusion model: quality rises with K, and a few steps come near diffusion (MCM, arXiv"
        " 2403.06807)."
    ),
    setting=(
        "scikit-learn's handwritten digits (64-D), no labels: one diffusion network (mlp, width"
        f" 128, depth 3, 8000 updates of batch 128), and from its weights every K, {UPDATES}"
        f" updates, c = 1e-4, aDDIM pairs of that network, 16 to {MANY} steps; 4096 samples of K"
        " steps against the training split. Progressive distillation (PD) begins with a student of"
        f" 16 steps and has {UPDATES // 5} updates for each halving."
    ),
    fair=(
        "As in the paper all K start from the weights of one diffusion network, which is also the"
        " teacher, and have the same updates; what differs is K. The data are pictures, quality is"
        " their distance to the training split, and no error to the ODE is asked for, of which the"
        " paper says nothing. The teacher steps are a tenth of the paper's, as the updates are far"
        " fewer."
    ),
    rows=ROWS,
    measures={**PICTURES, **COST},
    statements=statements,
    lesson=lesson,
    figure=figure,
)
