"""Where ODE error and the quality of samples part: every method on a law whose ODE is known."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.analysis import report
from fewstep.analysis.claims import reference
from fewstep.analysis.claims.arms import MIXTURE, Arm
from fewstep.analysis.claims.claim import (
    COST,
    Claim,
    Results,
    Row,
    Statement,
    column,
    common_seeds,
    excess,
    interval,
    number,
    pm,
)
from fewstep.analysis.claims.mcm import DIFFUSION
from fewstep.analysis.claims.plots import as_figure
from fewstep.analysis.claims.solutions import (
    COUNT,
    MEASURES,
    PROTOCOL,
    Solutions,
    follow,
    noise,
    scores,
)
from fewstep.analysis.report import COLOURS, Figure
from fewstep.base.randomness import generator as random
from fewstep.core.denoiser import Guided
from fewstep.core.process import edm
from fewstep.core.solvers import heun
from fewstep.run.generator import Generator

MOVES = 32  # of Heun's method, to the solutions
NEAR = 0.05  # distance of two noises over their length, whose solutions tell how steep the map is
GUIDANCES = (0.0, 2.0)
ECT: dict[str, Any] = {"p_mean": -0.4, "p_std": 1.8, "stages": 5}
GRID = {"n": 16, "solver": "ddim"}
# name -> method, its options, CPU ms of an update without and with guidance (None: no teacher)
METHODS: dict[str, tuple[str, dict[str, Any], float, float | None]] = {
    "CD": ("cd", GRID, 20, 30),
    "Direct": ("direct_cm", GRID, 56, 104),
    "MCM, K = 4": (
        "mcm",
        {"K": 4, "steps": 16, "steps_end": 64, "pairs": "ddim", "c": 0.1},
        20,
        30,
    ),
    "CT": ("ct", {"s1": 20}, 11, None),
    "ECT": ("ect", ECT, 11, None),
    "GC": ("gc", {"base": {"method": "ect", **ECT}, "share": 0.5, "share_end": 0.5}, 12, None),
    "TCM": ("tcm", {"base": {"method": "ect", **ECT}}, 11, None),
}
CAPACITIES = {"full": (128, 0), "rank 4": (128, 4), "width 32": (32, 0)}  # width, rank
MARKS = dict(zip(CAPACITIES, "os^", strict=True))
UPDATES = 400
FD = "feature_frechet"
FULL, LEAST = f"full variance: {FD}", f"least error: {FD}"
OWN = {"of law": MIXTURE, "moves": MOVES, "near": NEAR, **PROTOCOL}


@cache
def solved(folder: Path, guidance: float) -> tuple[Solutions, Tensor]:
    """The solutions of the guided law, and how steep the map is at each `[COUNT]`; one file."""
    law, process = reference.law_on(MIXTURE), edm()
    teacher = Guided(law, guidance) if guidance else law
    z, cond = noise(law.shape, 10)
    file = folder / f"why-{guidance:g}-{MOVES}-{COUNT}.npy"
    u = torch.randn(z[:COUNT].shape, generator=random(PROTOCOL["noise"], "direction"))
    if not file.exists():
        starts = torch.cat([z, z[:COUNT] + NEAR * u])
        x = follow(process, teacher, heun, MOVES, starts, torch.cat([cond, cond[:COUNT]]))
        part = file.with_name(f".{os.getpid()}-{file.name}")
        np.save(part, x.numpy())
        part.replace(file)
    own, other, beside = torch.from_numpy(np.load(file, allow_pickle=False)).split(COUNT)
    steep = (beside - own).flatten(1).norm(dim=1) / (NEAR * u.flatten(1).norm(dim=1))
    return Solutions(z[:COUNT], cond[:COUNT], own, other), steep


def exact(guidance: float, folder: Path, seed: int) -> dict[str, Any]:
    """The scores of the solutions themselves, and how steep their map is."""
    found, steep = solved(folder, guidance)
    judge = reference.judge(MIXTURE)
    assert judge is not None
    numbers = {"steep": steep.mean().item(), "steepest": steep.quantile(0.95).item()}
    return {**scores(found, judge, found.own), **numbers}


def against_law(arm: Arm, folder: Path, seed: int, generator: Generator) -> dict[str, Any]:
    """The scores, and the share of the squared error where the map is steepest, of a quarter."""
    found, steep = solved(folder, arm.guidance)
    judge = reference.judge(MIXTURE)
    assert judge is not None
    x = generator.sample(COUNT, seed=PROTOCOL["noise"])
    errors = (x - found.own).flatten(1).square().sum(1)
    share = errors[steep > steep.quantile(0.75)].sum() / errors.sum()
    return {**scores(found, judge, x), "steep_share": share.item()}


def arm_of(width: int, method: str, options: dict[str, Any], **more: Any) -> Arm:
    fields = {"label_drop": 0.0, "network_options": {"width": width, "depth": 3}}
    fields |= {"iterations": UPDATES, "lr": 1e-3, "ema": 0.99, **more.pop("fields", {})}
    return Arm(method=method, options=options, fields=fields, scores=against_law, **more)


def make_rows() -> dict[str, Row]:
    # The version, for what `solved` writes.
    truths = {
        g: Row(partial(exact, g), {"exact": g, **OWN}, "none: the ODE", 30 + 15 * g, by_seed=False)
        for g in GUIDANCES
    }
    more = {"fields": {"label_drop": 0.1, "iterations": 1500, "ema": 0.998}, "keep": True}
    nets = {w: arm_of(w, "diffusion", DIFFUSION, **more) for w, _ in CAPACITIES.values()}
    starts = {w: net.row(22.0, truths[0.0]) for w, net in nets.items()}
    rows = {f"diffusion, 35 steps, width {w}": start for w, start in starts.items()}
    for capacity, (width, rank) in CAPACITIES.items():
        for name, (method, options, *costs) in METHODS.items():
            for g, cost in zip(GUIDANCES, costs, strict=True):
                if cost is None:
                    continue
                taught = {"exact_teacher": costs[1] is not None, "guidance": g}
                arm = arm_of(width, method, options, init=nets[width], rank=rank, **taught)
                needs = (starts[width], truths[g])
                rows[key(name, capacity, g)] = arm.row(4 + cost * UPDATES / 1000, *needs)
    return {**rows, **{f"exact, g = {g:g}": row for g, row in truths.items()}}


def key(name: str, capacity: str, g: float) -> str:
    return f"{name}, {capacity}, g = {g:g}"


ROWS = make_rows()


def arms(g: float) -> list[str]:
    """The names of the students with that guidance."""
    return [
        key(name, capacity, g)
        for name, (*_, guided) in METHODS.items()
        for capacity in CAPACITIES
        if g == 0 or guided is not None
    ]


def ranks(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).argsort().argsort().double()


def agreement(results: Results, g: float, measure: str) -> tuple[float, ...]:
    """Spearman's rank correlation of a measure with the feature distance over arms, by seed."""
    names = arms(g)
    found = []
    for seed in common_seeds(*(results[name] for name in names)):
        pair = [ranks([results[name][seed][m] for name in names]) for m in (measure, FD)]
        found.append(torch.corrcoef(torch.stack(pair))[0, 1].item())
    return tuple(found)


def change(results: Results, g: float, after: str) -> tuple[float, ...]:
    """ln of the feature distance after a lengthening over that before: mean over arms, by seed."""
    rows = [results[name] for name in arms(g)]
    return tuple(
        fmean(math.log(row[seed][after] / row[seed][FD]) for row in rows)
        for seed in common_seeds(*rows)
    )


def statements(results: Results) -> Sequence[Statement]:
    found = []
    for g in reversed(GUIDANCES):
        for capacity in CAPACITIES:
            direct, cd = (results[key(name, capacity, g)] for name in ("Direct", "CD"))
            where, main = f"{capacity}, g = {g:g}", capacity == "rank 4" and g > 0
            found += [
                Statement(
                    f"{where}: ODE error, CD - Direct", excess(cd, direct, "ode_error"), main
                ),
                Statement(f"{where}: feature distance, Direct - CD", excess(direct, cd, FD), main),
                Statement(
                    f"{where}: variance, CD - Direct", excess(cd, direct, "variance_ratio"), False
                ),
            ]
        order = [agreement(results, g, m) for m in ("ode_error", "marginal_part")]
        differences = tuple(b - a for a, b in zip(*order, strict=True))
        found += [
            Statement(
                f"g = {g:g}: feature distance follows the Fréchet part of the error rather than the"
                " whole (rank correlations over arms, difference)",
                differences,
                main=False,
            ),
            Statement(
                f"g = {g:g}: samples at least ODE error are worse (ln of feature distance)",
                change(results, g, LEAST),
                main=False,
            ),
            Statement(
                f"g = {g:g}: samples at full variance are better (-ln of feature distance)",
                tuple(-one for one in change(results, g, FULL)),
                main=False,
            ),
        ]
    low, high = (results[f"exact, g = {g:g}"]["0"]["steepest"] for g in GUIDANCES)
    text = "the map is steeper with guidance (95 % quantile of stretching)"
    return [*found, Statement(text, (high - low,), main=False, exact=True)]


def comments(results: Results) -> Sequence[str]:
    lines = []
    for g in GUIDANCES:
        names = arms(g)
        order = {m: pm(agreement(results, g, m)) for m in ("ode_error", "marginal_part", "recall")}
        gap = fmean(
            1 - one["assigned_part"] / one["ode_error"]
            for n in names
            for one in results[n].values()
        )
        share = fmean(one["steep_share"] for n in names for one in results[n].values())
        truth = results[f"exact, g = {g:g}"]["0"]
        lines.append(
            f"g = {g:g}: rank correlation over {len(names)} arms of the feature distance with the"
            f" ODE error {order['ode_error']}, with its Fréchet part {order['marginal_part']}, with"
            f" recall {order['recall']}. The best assignment of samples to solutions is"
            f" {100 * gap:.1f} % shorter than the pairs of equal noise. The steepest quarter of the"
            f" map has {share:.2f} of the squared error; it stretches by {number(truth['steep'])}"
            f" on average and {number(truth['steepest'])} at the 95 % quantile."
        )
    return lines


def lesson(results: Results) -> str:
    def mean(name: str, m: str) -> float:
        return interval(column(results[key(name, "rank 4", GUIDANCES[-1])], m)).mean

    texts = [
        f"{name} has b = {mean(name, 'explained'):.2f} and v = {mean(name, 'variance_ratio'):.2f}"
        for name in ("Direct", "CD", "MCM, K = 4")
    ]
    falls, rises = (fmean(change(results, GUIDANCES[-1], after)) for after in (FULL, LEAST))
    return (
        "With b the share of the solutions that the samples have and v their variance, the squared"
        " ODE error is 1 - 2 b + v of the solutions' variance. Scaled to their least error, samples"
        f" have the variance b^2 / v, below 1 wherever they miss the solutions. Under the limit of rank, guided, {'; '.join(texts)}. To"
        f" bring samples to their least ODE error multiplies the feature distance by"
        f" {math.exp(rises):.2f}, to the full variance by {math.exp(falls):.2f}: ODE error rewards"
        " blur, which quality does not."
    )


def draw(results: Results) -> Any:
    """ODE error against feature distance, a mark for each arm."""
    drawing, plots = report.axes(2, width=9.0, height=4.2)
    for ax, g in zip(plots, GUIDANCES, strict=True):
        for (name, (*_, guided)), colour in zip(METHODS.items(), COLOURS, strict=False):
            for capacity, mark in MARKS.items():
                if g and guided is None:
                    continue
                row = results[key(name, capacity, g)]
                x, y = (interval(column(row, m)).mean for m in ("ode_error", FD))
                label = name if capacity == "full" else None
                ax.plot(x, y, mark, color=colour, label=label, markersize=7)
        floor = results[f"exact, g = {g:g}"]["0"][FD]
        ax.axhline(floor, color="#555555", linestyle="--", label="exact solutions")
        ax.set(xlabel="ODE error (rms)", ylabel="feature Fréchet distance", yscale="log")
        ax.set_title("no guidance" if g == 0 else f"guidance g = {g:g}")
    drawing.legend(*plots[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return drawing


def figure(results: Results) -> Figure:
    return as_figure(
        draw(results),
        "ODE error against feature distance of one-step samples, by method and capacity",
        "Circles: all weights; squares: adapters of rank 4; triangles: width 32.",
        "Marks are means over the seeds.",
    )


CLAIM = Claim(
    title="Why: ODE error and the quality of samples are two things",
    says=(
        "Consistency models that solve the ODE less well make the better samples, so that something"
        " else than solving it must explain their quality (Direct CM, arXiv 2411.08954)."
    ),
    setting=(
        "digits mixture (64-D, ten Gaussians, by class), exact denoiser as teacher, unguided"
        f" and with g = 2; all students start from a diffusion network of their own size (1500"
        f" updates) and have {UPDATES} updates of batch 128. Capacity: all weights of width 128,"
        " adapters of rank 4 on them, all weights of width 32. 2000 samples against the exact"
        f" solutions of {MOVES} Heun moves from the same noise, and from other noise. Methods"
        " without a teacher learn the unguided law alone."
    ),
    fair=(
        "The same law, start, updates and noise for all methods; solutions that are known, so that"
        " neither the teacher's errors nor its solver's enter; and samples are compared with the"
        " guided law where guidance was learned. Methods cost differently for an update, which the"
        " table says and the comparison ignores."
    ),
    rows=ROWS,
    measures={**MEASURES, "steep_share": "steep share", **COST},
    statements=statements,
    comments=comments,
    lesson=lesson,
    figure=figure,
)
