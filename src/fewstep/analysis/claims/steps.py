"""Whether more steps help: fresh noise between the steps, or jumps of a flow map.

Exact numbers of a Gaussian's map that is off by a little; no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch

from fewstep.analysis import report
from fewstep.analysis.claims.claim import Claim, Results, Row, Statement
from fewstep.analysis.claims.plots import as_figure
from fewstep.analysis.report import Figure
from fewstep.core.process import linear
from fewstep.exact import recursions

NS = (1, 2, 4, 8, 16, 32, 64)
STD = 0.5
ERRORS = {"t - a": lambda t, a: t - a, "1": lambda t, a: 1.0}
ROWS = {
    f"{how}, error ~ {error}": (renoise, error)
    for error in ERRORS
    for how, renoise in (("fresh noise", True), ("jumps", False))
}
NOISE, JUMPS = "fresh noise, error ~ t - a", "jumps, error ~ t - a"


def measure(renoise: bool, error: str, folder: Path, seed: int) -> dict[str, float]:
    """W2 to the data of N steps, in units of the error of one."""
    times = {n: torch.linspace(0, 1, n + 1, dtype=torch.float64).tolist() for n in NS}
    return {
        str(n): abs(recursions.bias(linear(), steps, STD, ERRORS[error], renoise=renoise))
        for n, steps in times.items()
    }


def row(renoise: bool, error: str) -> Row:
    settings = {"steps": "fresh" if renoise else "jumps", "error": error, "std": STD}
    command = "fewstep verify --claims --only steps"
    return Row(partial(measure, renoise, error), settings, command, 0.1, by_seed=False)


def curve(results: Results, name: str) -> list[float]:
    return [results[name]["0"][str(n)] for n in NS]


def statements(results: Results) -> Sequence[Statement]:
    noise, jumps = curve(results, NOISE), curve(results, JUMPS)
    falls = min(before - after for before, after in pairwise(jumps))
    main = {
        f"fresh noise: W2 of {NS[-1]} steps less that of the best number of steps": (
            noise[-1] - min(noise)
        ),
        "jumps: the least fall of W2 from one number of steps to the next": falls,
        f"W2 of {NS[-1]} steps, fresh noise less jumps": noise[-1] - jumps[-1],
    }
    other = curve(results, "jumps, error ~ 1"), curve(results, "fresh noise, error ~ 1")
    text = (
        f"an error that is the same for short jumps: W2 of {NS[-1]} steps, jumps less fresh noise"
    )
    exact = [Statement(what, (value,), exact=True) for what, value in main.items()]
    return [*exact, Statement(text, (other[0][-1] - other[1][-1],), main=False, exact=True)]


def lesson(results: Results) -> str:
    best = min(NS, key=lambda n: results[NOISE]["0"][str(n)])
    return (
        f"With fresh noise {best} steps are best and then each adds its own error: it is that of a"
        " jump to the data, however near the next time is. A flow map's jumps are as short as the"
        " steps, so their errors add up to that of one. Where short jumps are as wrong as long"
        " ones, jumps add up too, and faster. A map without any error is right in any number of"
        " steps, with fresh noise or without."
    )


def figure(results: Results) -> Figure:
    drawing, (ax,) = report.axes(1, width=5.0)
    for name in ROWS:
        ax.plot(NS, curve(results, name), marker="o", label=name)
    ax.set(xscale="log", yscale="log", xlabel="steps N", ylabel="W2 over the error of one step")
    ax.legend()
    return as_figure(
        drawing,
        "W2 of samples to the data by number of steps, with fresh noise and by jumps",
        "One Gaussian of deviation 0.5 on linear, even steps. Exact: no seeds, no bands.",
    )


CLAIM = Claim(
    title="More steps of a consistency model get worse in the end, those of a flow map do not",
    says=(
        "Multistep sampling of a consistency model, however near it is to the optimal one, gets"
        " worse from some number of steps on; a flow map's jumps do not (AYF, arXiv 2506.14603,"
        " section 3). Here: where an evaluation's error goes with the length of its jump."
    ),
    setting=(
        "The exact map of N(0, 0.5^2) on linear, whose evaluation from t to a is off by eps (t -"
        " a), or by eps; W2 over eps in closed form, after N even steps. No network, no seeds."
    ),
    fair=(
        "Both have the same map, times and error for a jump of the same length: what differs is"
        " that fresh noise makes every jump lead to the data. The paper's theorem is about the"
        " existence of such models; this is one family of them."
    ),
    rows={name: row(*how) for name, how in ROWS.items()},
    measures={str(n): f"{n} steps" for n in NS},
    statements=statements,
    lesson=lesson,
    figure=figure,
)
