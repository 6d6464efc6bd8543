"""Where ODE error and the quality of samples part: every method on a law whose ODE is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

import torch

from fewstep.analysis import report
from fewstep.analysis.claims.claim import (
    COST,
    Claim,
    Results,
    Statement,
    column,
    common_seeds,
    controls,
    excess,
)
from fewstep.analysis.claims.plots import as_figure
from fewstep.analysis.claims.solutions import MEASURES
from fewstep.analysis.claims.students import (
    CAPACITIES,
    GRID,
    GUIDANCES,
    METHODS,
    MOVES,
    ROWS,
    UPDATES,
    arms,
    key,
)
from fewstep.analysis.report import COLOURS, Figure
from fewstep.statistics.intervals import interval

FD = "feature_frechet"
FULL = f"full variance: {FD}"
ALIKE = 0.05  # ODE errors that differ by less of themselves
MARKS = dict(zip(CAPACITIES, "os^", strict=True))


def error_of(one: Any) -> float:
    return math.log(one["ode_error"])


def narrowness(one: Any) -> float:
    """How far the variance is from the solutions', either way."""
    return abs(math.log(one["variance_ratio"]))


def follows(results: Results, g: float, value: Callable[[Any], float]) -> tuple[float, ...]:
    """How much of ln of the feature distance over arms a value explains (R^2), by seed."""
    rows = [results[name] for name in arms(g)]
    shares = []
    for seed in common_seeds(*rows):
        pairs = [(value(row[seed]), math.log(row[seed][FD])) for row in rows]
        shares.append(torch.corrcoef(torch.tensor(pairs).double().T)[0, 1].item() ** 2)
    return tuple(shares)


def over_arms(results: Results, g: float, value: Callable[[Any], float]) -> tuple[float, ...]:
    """The mean over arms of what their numbers give, by seed."""
    rows = [results[name] for name in arms(g)]
    return tuple(fmean(value(row[seed]) for row in rows) for seed in common_seeds(*rows))


def at_like_error(results: Results, g: float) -> tuple[float, ...]:
    """Of pairs of arms with like ODE errors, the share less 1/2 in which the one whose variance is
    nearer to 1 has the lower feature distance, by seed; 0 without pairs.
    """
    rows = [results[name] for name in arms(g)]
    shares = []
    for seed in common_seeds(*rows):
        pairs = combinations([row[seed] for row in rows], 2)
        wins = [
            (narrowness(a) < narrowness(b)) == (a[FD] < b[FD])
            for a, b in pairs
            if abs(math.log(a["ode_error"] / b["ode_error"])) < ALIKE
        ]
        shares.append(fmean(wins) - 0.5 if wins else 0.0)
    return tuple(shares)


def statements(results: Results) -> Sequence[Statement]:
    parts, others = [], {}
    for g in reversed(GUIDANCES):
        for capacity in CAPACITIES:
            direct, cd = (results[key(name, capacity, g)] for name in ("Direct", "CD"))
            where, main = f"{capacity}, g = {g:g}", capacity == "rank 4" and g > 0
            error, quality = excess(cd, direct, "ode_error"), excess(direct, cd, FD)
            parts += [
                Statement(f"{where}: ODE error, CD - Direct", error, main),
                Statement(f"{where}: feature distance, Direct - CD", quality, main),
            ]
            others[f"{where}: variance, CD - Direct"] = excess(cd, direct, "variance_ratio")
        shares = (follows(results, g, value) for value in (narrowness, error_of))
        others |= {
            f"g = {g:g}: ln of the feature distance follows the variance (|ln v|) rather than the"
            " ODE error (R^2 over arms, difference)": tuple(
                a - b for a, b in zip(*shares, strict=True)
            ),
            f"g = {g:g}: of two arms with like ODE errors the one whose variance is nearer to 1"
            " has the lower feature distance (share of pairs less 1/2)": at_like_error(results, g),
            f"g = {g:g}: samples at full variance are better (ln of feature distances)": over_arms(
                results, g, lambda one: math.log(one[FD] / one[FULL])
            ),
            f"g = {g:g}: the error is a wrong partner and no wrong place (how much shorter the best"
            " assignment of samples to solutions is, as a share)": over_arms(
                results, g, lambda one: 1 - one["assigned_part"] / one["ode_error"]
            ),
            f"g = {g:g}: the error sits where the map is steep (share of the steepest quarter, less"
            " 1/4)": over_arms(results, g, lambda one: one["steep_share"] - 0.25),
        }
    low, high = (results[f"exact, g = {g:g}"]["0"]["steepest"] for g in GUIDANCES)
    text = "the map is steeper with guidance (95 % quantile of stretching)"
    steeper = Statement(text, (high - low,), main=False, exact=True)
    return [*parts, *controls(others), steeper]


def lesson(results: Results) -> str:
    def mean(name: str, m: str) -> float:
        return interval(column(results[key(name, "rank 4", GUIDANCES[-1])], m)).mean

    texts = [
        f"{name} has b = {mean(name, 'explained'):.2f} and v = {mean(name, 'variance_ratio'):.2f}"
        for name in ("Direct", "CD", "MCM, K = 4")
    ]
    own = results[f"teacher's own steps, g = {GUIDANCES[-1]:g}"]["0"]
    error, variance = (
        [fmean(follows(results, g, value)) for g in GUIDANCES] for value in (error_of, narrowness)
    )
    return (
        "Over methods and capacities the ODE error explains"
        f" {error[0]:.2f} of the differences of ln of the feature distance without guidance and"
        f" {error[1]:.2f} with it; the variance of the samples explains {variance[0]:.2f} and"
        f" {variance[1]:.2f}. With b the share of the solutions that the samples have and v their"
        " variance, the squared ODE error is 1 - 2 b + v of the solutions' variance: it charges for"
        " variance that explains nothing, which samples need. Under the limit of rank, guided,"
        f" {'; '.join(texts)}. The teacher's own {GRID['n']} DDIM steps, which these learn, have"
        f" v = {own['variance_ratio']:.2f} and a distance of {own[FD]:.2f}."
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
        own = results[f"teacher's own steps, g = {g:g}"]["0"]
        ax.plot(own["ode_error"], own[FD], "kx", label="teacher's 16 DDIM steps", markersize=8)
        ax.set(xlabel="ODE error (rms)", ylabel="feature Fréchet distance", yscale="log")
        ax.set_title("no guidance" if g == 0 else f"guidance g = {g:g}")
    drawing.legend(*plots[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return drawing


def figure(results: Results) -> Figure:
    return as_figure(
        draw(results),
        "ODE error against feature distance of one-step samples, by method and capacity",
        "Circles: all weights; squares: rank 4; triangles: width 32. The cross is what CD"
        " and Direct learn.",
        "Marks are means over the seeds.",
    )


CLAIM = Claim(
    title="Why consistency models work: does a worse solution of the ODE sample better?",
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
    lesson=lesson,
    figure=figure,
)
