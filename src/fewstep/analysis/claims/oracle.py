"""How fast training and distillation approach the data as their grid gets finer.

The optima are computed by quadrature, without any network.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from fewstep import exact
from fewstep.analysis import report
from fewstep.analysis.claims.claim import Claim, Results, Row, Statement
from fewstep.analysis.claims.plots import as_figure
from fewstep.analysis.report import Figure
from fewstep.core.solvers import euler, heun
from fewstep.core.times import karras
from fewstep.exact import oracle

NS = (10, 20, 40, 80, 160, 320, 640, 1280)
LAW = {"means": (-0.5, 0.5), "std": 0.05}
KINDS: dict[str, tuple[float, float]] = {  # the slope of theory, and what is allowed beside it
    "CT": (0.25, 0.05),
    "CD, Euler": (1.0, 0.25),
    "CD, Heun": (2.0, 0.5),
}
# What falls. The distances of CD to the data end at the law's own.
FALLING = {"CT": "w2", "CD, Euler": "error", "CD, Heun": "error"}
FLOOR = 2e-5  # errors below it are the quadrature's


def measure(kind: str, n: int, folder: Path, seed: int) -> dict[str, float]:
    """W2 of one-step samples to the data, and the rms distance to the exact map, at n intervals."""
    means = torch.tensor(LAW["means"])[:, None]
    law = exact.Mixture(weights=[1.0, 1.0], means=means, std=LAW["std"])
    times = karras(0.002, 80.0, n, 7.0).flip(0)
    if kind == "CT":
        optimum = oracle.trained(law, times)
    else:
        optimum = oracle.distilled(law, times, heun if kind.endswith("Heun") else euler)
    return {"w2": optimum.w2(), "error": optimum.error(), "std": optimum.std}


def row(kind: str, n: int) -> Row:
    settings = {"oracle": kind, "n": n, **{name: str(value) for name, value in LAW.items()}}
    cost = n / 100 if kind == "CT" else n / 400
    command = "fewstep verify --claims --only oracle"
    return Row(partial(measure, kind, n), settings, command, cost, by_seed=False)


def curve(results: Results, kind: str, measure: str) -> list[float]:
    return [results[f"{kind}, N = {n}"]["0"][measure] for n in NS]


def slope(values: Sequence[float], floor: float = 0.0) -> float:
    """-d log(value) / d log(N), by least squares over the four finest grids above the floor."""
    points = [(n, value) for n, value in zip(NS, values, strict=True) if value > floor][-4:]
    x, y = (torch.tensor(part, dtype=torch.float64).log() for part in zip(*points, strict=True))
    x = x - x.mean()
    return -float((x @ y) / (x @ x))


def slopes(results: Results) -> dict[str, float]:
    return {kind: slope(curve(results, kind, FALLING[kind]), FLOOR) for kind in KINDS}


def statements(results: Results) -> Sequence[Statement]:
    fits = slopes(results)
    statements = []
    for kind, (theory, within) in KINDS.items():
        what = "W2 to the data" if FALLING[kind] == "w2" else "error to the exact map"
        text = (
            f"{kind}: {what} falls like N^-{fits[kind]:.2f}; allowed are {within:g} less its"
            f" distance to N^-{theory:g}"
        )
        room = within - abs(fits[kind] - theory)
        statements.append(Statement(text, (room,), main=kind != "CD, Heun", exact=True))
    last = {kind: curve(results, kind, "error")[-1] for kind in KINDS}
    text = f"error to the exact map at N = {NS[-1]}, CT minus CD by Euler"
    return [*statements, Statement(text, (last["CT"] - last["CD, Euler"],), exact=True)]


def lesson(results: Results) -> str:
    return (
        "Training from data approaches the data's law far slower in the number of intervals than"
        " distillation does, with perfect networks: each of its targets averages over the data"
        " that could have led to x_t, which blurs the boundary between the modes by a width that"
        " goes like N^-1/2. That is the room which better pairs have to win."
    )


def figure(results: Results) -> Figure:
    drawing, plots = report.axes(2, width=8.6)
    labels = {"w2": "W2 of one-step samples to the data", "error": "error to the exact map (rms)"}
    for ax, (measure, label) in zip(plots, labels.items(), strict=True):
        for kind, (theory, _) in KINDS.items():
            values = curve(results, kind, measure)
            (points,) = ax.plot(NS, values, marker="o", label=kind)
            if measure == FALLING[kind]:
                line = [values[2] * (n / NS[2]) ** -theory for n in NS]
                ax.plot(NS, line, ":", color=points.get_color(), label=f"N^-{theory:g}")
        ax.set(xscale="log", yscale="log", xlabel="intervals N", ylabel=label)
        ax.legend()
    plots[1].set_ylim(bottom=1e-6)
    return as_figure(
        drawing,
        "W2 and error of the exact optima of consistency training and distillation by number of"
        " intervals",
        "Two modes at -0.5 and 0.5 of deviation 0.05 on the line; dotted, the claimed slopes."
        " Exact: no seeds, no bands.",
    )


CLAIM = Claim(
    title="Consistency training needs far finer grids than distillation",
    says=(
        "Consistency training and distillation tend to the same map as the grid gets finer, but"
        " training's own discrepancy remains at every N (GC, arXiv 2406.09570, theorem 1); on two"
        " modes its W2 falls only like N^-1/4, distillation's like N^-1, or N^-2 by Heun's moves"
        " (derived here, not in the paper)."
    ),
    setting=(
        "the optimum of each at N Karras intervals from 0.002 to 80 by quadrature, two modes on the"
        " line; no network, no samples, no seeds. Slopes: least squares over the four finest grids"
        " whose error is above the quadrature's own, 2e-5."
    ),
    fair=(
        "The optima are integrals, so neither a network nor an optimizer takes part: what differs"
        " is the target alone."
    ),
    rows={f"{kind}, N = {n}": row(kind, n) for kind in KINDS for n in NS},
    measures={"w2": "W2", "error": "error to the exact map", "std": "standard deviation"},
    statements=statements,
    lesson=lesson,
    figure=figure,
)
