"""What generator-induced pairs cost to move, by noise level, and how far their straight lines are
from the flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep import exact, methods
from fewstep.analysis import report
from fewstep.analysis.claims import reference
from fewstep.analysis.claims.arms import MIXTURE, SETTING, started
from fewstep.analysis.claims.claim import Claim, Found, column, number, pm
from fewstep.analysis.claims.gc import ALONE
from fewstep.analysis.claims.gc import ROWS as TRAINED
from fewstep.analysis.claims.measurements import Row
from fewstep.analysis.claims.plots import finished, line
from fewstep.analysis.claims.verdicts import Statement
from fewstep.analysis.report import Figure
from fewstep.base.conditions import Cond
from fewstep.base.randomness import normal
from fewstep.core.couplings import Coupling, Data, MinibatchOT
from fewstep.core.denoiser import Denoiser, Models
from fewstep.core.process import Process, edm
from fewstep.core.times import LogNormal, Times
from fewstep.exact import transport
from fewstep.run.recipes import digits_mixture
from fewstep.training.train import train

LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0, 80.0)
LAWS = (MIXTURE, "ring8", "grid25")
PAIRS, BATCH, MOVES = 512, 256, 32
ASKED = (0.2, 0.5, 1.0, 2.0, 5.0)  # levels of the proxy
TESTED = 4096
LN_T = {"mean": -0.4, "std": 1.8}  # the law of t that the digits recipe has
PROXY = {**SETTING, "network_options": {"width": 128, "depth": 3}}


@dataclass(frozen=True)
class Induced:
    """x_t and x_r of the data that a fixed generator makes of the row: x0_hat = D(mix(x0, z, t),
    t).

    The coupling of the paper's proxy: unlike training's, which looks from x_r, it has one level.
    """

    generator: Denoiser

    def __call__(
        self, models: Models, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
    ) -> tuple[Tensor, Tensor]:
        made = self.generator(process.mix(x0, z, times.t), times.t, cond)
        return process.mix(made, z, times.t), process.mix(made, z, times.r)


PAIRINGS = ("independent", "minibatch OT", "GC")


def paired(name: str, shared: Path, seed: int) -> Coupling:
    """The pairs of that name; GC's by the average of the seed's own iCT arm."""
    if name == "GC":
        return Induced(started(ALONE, shared, seed).denoiser)
    return MinibatchOT() if name == "minibatch OT" else Data()


def costs(law: str, shared: Path, seed: int) -> dict[str, float]:
    """Transport costs of the ideal generator's pairs over those of the same rows independently
    paired.
    """
    found = transport.curve(
        reference.law_on(law), LEVELS, n=PAIRS, seed=seed, batch=BATCH, moves=MOVES
    )
    assert found.minibatch is not None
    alone = found.alone.value
    told = {
        f"{level:g}": cost / alone for level, cost in zip(LEVELS, found.costs.tolist(), strict=True)
    }
    return {**told, "minibatch OT": found.minibatch.value / alone}


def discrepancy(name: str, shared: Path, seed: int) -> dict[str, float]:
    """E ||z - (x_t - D(x_t)) / t||^2 / d by level, D a denoiser trained on these pairs alone.

    Source: GC, arXiv 2406.09570, figure 2. Of independent pairs also in closed form.
    """
    pairs, law = paired(name, shared, seed), reference.law_on(MIXTURE)
    method = replace(
        methods.diffusion(sigma_data=reference.data(MIXTURE).sigma_data()), coupling=pairs
    )
    method = replace(method, times=replace(method.times, law=LogNormal(**LN_T)))  # type: ignore[type-var]
    run = digits_mixture(method="diffusion", **PROXY, seed=seed)
    denoiser = train(run, method=method, progress=False, device="cpu").denoiser
    x0, told = law.sample(TESTED, seed=reference.NOISE + seed), dict[str, float]()
    z, cond = (
        normal(reference.NOISE + seed, "proxy", 0, TESTED, law.shape, 16),
        torch.full((SETTING["batch"],), -1),
    )
    for level in ASKED:
        t = torch.full((SETTING["batch"],), level, dtype=torch.float64)
        times, errors, known = Times(t, 0 * t, 0 * t, 0 * t + 1), [], []
        for part in zip(x0.split(len(t)), z.split(len(t)), strict=True):
            with torch.no_grad():
                x_t, made = pairs(Models(student=denoiser), edm(), *part, times, cond)
                errors.append(((made - denoiser(x_t, t, cond)) / level).square().mean())
                if name == "independent":
                    known.append(transport.discrepancy(law, x_t, level).mean())
        told[f"{level:g}"] = torch.stack(errors).double().mean().item()
        if known:
            told[f"exact {level:g}"] = torch.stack(known).mean().item()
    return told


def rows() -> dict[str, Row]:
    exactly = {"levels": list(LEVELS), "pairs": PAIRS, "batch": BATCH, "moves": MOVES}
    proxy = {
        "proxy": PROXY,
        "law": LN_T,
        "levels": list(ASKED),
        "tested": TESTED,
        "of": ALONE.settings,
    }
    told = "fewstep verify --claims --only gc-transport"
    found = {
        f"cost: {law}": Row(
            partial(costs, law), {"law": law, **exactly}, told, 20.0 if law == MIXTURE else 2.0
        )
        for law in LAWS
    }
    needs = {"GC": (TRAINED["iCT"],)}
    for name in PAIRINGS:
        found[f"proxy: {name}"] = Row(
            partial(discrepancy, name), {"pairs": name, **proxy}, told, 12.0, needs.get(name, ())
        )
    return found


def statements(found: Found) -> Sequence[Statement]:
    told = []
    for law in LAWS:
        row = found[f"cost: {law}"]
        falls = tuple(
            min(one[f"{a:g}"] - one[f"{b:g}"] for a, b in pairwise(LEVELS)) for one in row.values()
        )
        below = tuple(one["minibatch OT"] - one["5"] for one in row.values())
        told += [
            Statement(f"{law}: least fall of the cost from one level to the next", falls),
            Statement(
                f"{law}: cost of minibatch OT minus GC's at sigma = 5", below, main=law == MIXTURE
            ),
        ]
    for first, second in (("independent", "minibatch OT"), ("minibatch OT", "GC")):
        more, less = (found[f"proxy: {name}"] for name in (first, second))
        gaps = tuple(more[seed]["2"] - less[seed]["2"] for seed in more if seed in less)
        told.append(Statement(f"proxy discrepancy at sigma = 2, {first} minus {second}", gaps))
    alone, made = found["proxy: independent"], found["proxy: GC"]
    grows = tuple(
        made[s]["0.5"] / alone[s]["0.5"] - made[s]["5"] / alone[s]["5"] for s in alone if s in made
    )
    return [
        *told,
        Statement(
            "fall of GC's discrepancy over that of independent pairs, sigma = 0.5 to 5",
            grows,
            main=False,
        ),
    ]


def words(found: Found) -> Sequence[str]:
    at = {law: found[f"cost: {law}"] for law in LAWS}
    from_ = {
        law: next((f"from sigma = {v:g} on" for v in LEVELS if _below(at[law], v)), "at no level")
        for law in LAWS
    }
    told = "; ".join(
        f"{law}: {pm(column(at[law], '0.2'))} at 0.2, {pm(column(at[law], '2'))} at 2,"
        f" {pm(column(at[law], '80'))} at 80, minibatch OT {pm(column(at[law], 'minibatch OT'))},"
        f" below that {from_[law]}"
        for law in LAWS
    )
    alone = found["proxy: independent"]
    off = ", ".join(
        f"{number(sum(column(alone, f'{v:g}')) / sum(column(alone, f'exact {v:g}')))} at {v:g}"
        for v in ASKED
    )
    ratios = ", ".join(
        f"{number(sum(column(found['proxy: GC'], f'{v:g}')) / sum(column(alone, f'{v:g}')))} at"
        f" {v:g}"
        for v in ASKED
    )
    ends = [
        exact.recursions.gc(
            edm(),
            torch.linspace(0.002**0.1, 80**0.1, 1281, dtype=torch.float64) ** 10,
            0.5,
            predictor=p,
        )[-1].item()
        for p in ("ideal", "own")
    ]
    return [
        f"Transport cost over that of independent pairs, of an ideal generator: {told}.",
        (
            f"Discrepancy of GC's pairs over that of independent ones: {ratios}, by the level"
            f" sigma. Of independent pairs it is known; the trained denoiser's is that times {off},"
            " so its own error counts where little is left."
        ),
        (
            "What is cheap to move is not unbiased: on Gaussian data consistency training on"
            f" generated pairs alone ends with samples of {ends[0] * 80 / 0.5:.3f} times the data's"
            f" deviation under an exact predictor, and {ends[1] * 80 / 0.5:.3f} under its own (1280"
            " intervals, by the recursion of least squares)."
        ),
    ]


def _below(row: Any, level: float) -> bool:
    """Whether the cost is below minibatch transport's from this level on, in every seed."""
    later = [f"{v:g}" for v in LEVELS if v >= level]
    return all(one[v] < one["minibatch OT"] for one in row.values() for v in later)


def figure(found: Found) -> Figure:
    drawing, (left, right) = report.axes(2, width=8.6)
    for law in LAWS:
        row = found[f"cost: {law}"]
        line(left, LEVELS, [column(row, f"{v:g}") for v in LEVELS], f"GC, {law}")
        mean = sum(column(row, "minibatch OT")) / len(row)
        left.axhline(mean, color=left.lines[-1].get_color(), linestyle="--", linewidth=1)
    for name in PAIRINGS:
        row = found[f"proxy: {name}"]
        line(right, ASKED, [column(row, f"{v:g}") for v in ASKED], name)
    alone = found["proxy: independent"]
    right.plot(
        ASKED,
        [sum(column(alone, f"exact {v:g}")) / len(alone) for v in ASKED],
        "k:",
        label="independent, closed form",
    )
    left.set(xscale="log", xlabel="noise level sigma", ylabel="transport cost / independent cost")
    right.set(
        xscale="log",
        yscale="log",
        xlabel="noise level sigma",
        ylabel="proxy discrepancy per scalar",
    )
    right.set(xticks=ASKED, xticklabels=[f"{v:g}" for v in ASKED])
    right.minorticks_off()
    left.legend()
    right.legend()
    return finished(
        drawing,
        "Transport cost and proxy discrepancy by noise level",
        "Left: of the exact generator's pairs; dashed, minibatch transport in batches of 256, in"
        " the law's colour. Right: E ||dx/dt - v||^2 / d on the digits mixture, v by a denoiser"
        " trained on each kind of pairs.",
    )


CLAIM = Claim(
    title="GC: generated pairs are cheaper to move and straighter",
    says=(
        "Pairs of noise and the data that the generator makes of it cost less to move than"
        " independent ones, the more the higher the noise, and less than minibatch optimal"
        " transport's; their straight lines are nearer to the flow (GC, arXiv 2406.09570)."
    ),
    setting=(
        f"costs: {PAIRS} pairs, exact generator by {MOVES} Heun moves, nothing trained. Proxy:"
        " digits mixture, one denoiser for each kind of pairs (width 128, 900 updates of batch"
        " 128), GC's pairs from the seed's own iCT model; batches of 128."
    ),
    rows=rows(),
    measures={**{f"{v:g}": f"sigma {v:g}" for v in LEVELS}, "minibatch OT": "minibatch OT"},
    statements=statements,
    words=words,
    figure=figure,
)
