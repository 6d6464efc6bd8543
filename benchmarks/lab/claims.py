"""The claims by name: a table each, whose rows are measured seed by seed. A new arm is one more row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from lab import feedback, transport, truncation
from lab.arms import SETTING, Arm, exact_scores, outcome

Seeds = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Row:
    """What is measured, as a function of the seed, and the command that repeats it."""

    measure: Callable[[int], dict[str, float]]
    command: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    about: str
    title: str
    rows: dict[str, Row]
    verdicts: Callable[[dict[str, Any]], dict[str, Any]] = lambda rows: {}
    shown: tuple[str, ...] = ()


def arms(rows: dict[str, Arm]) -> dict[str, Row]:
    return {name: Row(partial(outcome, arm), arm.command()) for name, arm in rows.items()}


def seed_by_seed(rows: dict[str, Any], names: list[str], measure: str) -> list[list[float]]:
    """The measure of the rows named, for each seed that all of them have."""
    if any(name not in rows for name in names):
        return []
    shared = set.intersection(*(set(rows[name]["seeds"]) for name in names))
    return [[rows[name]["seeds"][seed][measure] for name in names] for seed in sorted(shared)]


EXACT = Row(exact_scores, "none: the ODE solved exactly, from the noise that every arm is scored on")
SHOWN = ("ode_error", "feature_frechet", "pixel_frechet", "energy_x1000", "variance_ratio", "teacher_evaluations")

# Multistep consistency models: one table of K. N = 128 steps are more than 900 updates can link, 64 are not; c = 0.1
# lies between the norm, under which K = 2 keeps noise, and the squared error, which blurs (docs/log.md).
MCM = {"steps": 16, "steps_end": 64, "pairs": "addim", "c": 0.1}
KS = (1, 2, 4, 8)


def mcm_verdicts(rows: dict[str, Any]) -> dict[str, bool]:
    found = seed_by_seed(rows, [f"K = {k}" for k in KS], "ode_error")
    return {
        "ODE error falls from K = 1 to 2 to 4, in every seed": all(a > b > c for a, b, c, _ in found),
        "and is not above that at 8, in every seed": all(c >= d for _, _, c, d in found),
        "three seeds or more": len(found) >= 3,
    }


# Direct consistency models: the same levels, updates and distance; only the goal differs.
N = {"n": 16, "solver": "heun"}


def direct_verdicts(rows: dict[str, Any]) -> dict[str, bool]:
    told = {}
    for other in ("its consistency model", "CD"):
        found = seed_by_seed(rows, ["Direct", other], "ode_error")
        told[f"Direct's ODE error is below that of {other}, in every seed"] = all(a < b for a, b in found)
        told[f"three seeds or more against {other}"] = len(found) >= 3
    return told


def transport_verdicts(rows: dict[str, Any]) -> dict[str, Any]:
    return transport.verdicts({name: list(row["seeds"].values()) for name, row in rows.items()})


def nested(options: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**more, "base": options}


BASES = {"iCT": {"method": "ict", "s1": 160}, "ECT": {"method": "ect", "p_mean": -0.4, "p_std": 1.8, "stages": 5}}
SHARES = {"0.5": (0.5, None), "0.3": (0.3, None), "0.5 to 0": (0.5, 0.0), "1 to 0": (1.0, 0.0), "0.3 to 0": (0.3, 0.0)}
TRIED = {"iCT": tuple(SHARES), "ECT": ("0.5", "0.3 to 0")}
# As long as the base: an update may cost 1.15 times as much with a share of 1/2, and 1.075 on the way from that to 0.
COST = {"0.5": 1.15, "0.5 to 0": 1.075}
SHORT = {share: {"iterations": round(SETTING["iterations"] / cost)} for share, cost in COST.items()}


def gc_arms() -> dict[str, Arm]:
    """Each base alone, then with the shares tried, and once more at equal time."""
    found = {}
    for name, base in BASES.items():
        alone = {key: value for key, value in base.items() if key != "method"}
        found[name] = Arm(method=base["method"], options=alone)
        for share in TRIED[name]:
            first, last = SHARES[share]
            ramp = {} if last is None else {"share_end": last}
            options = {"share": first, **ramp, "base": base}
            found[f"{name} with GC, share {share}"] = Arm(method="gc", options=options)
            if share in SHORT:
                short = Arm(method="gc", options=options, fields=SHORT[share])
                found[f"{name} with GC, share {share}, equal time"] = short
    return found


CLAIMS: dict[str, Claim] = {
    "mcm": Claim(
        about="The ODE error of multistep consistency models falls with the number of segments.",
        title="MCM",
        rows={
            **arms({f"K = {k}": Arm(method="mcm", options={"K": k, **MCM}, taught=True) for k in KS}),
            "exact ODE": EXACT,
        },
        verdicts=mcm_verdicts,
        shown=SHOWN,
    ),
    "direct": Claim(
        about="At equal updates a direct consistency model solves the ODE better than a consistency model.",
        title="Direct CM",
        rows={
            **arms(
                {
                    "Direct": Arm(method="direct_cm", options=N, taught=True),
                    "its consistency model": Arm(method="direct_cm", options={**N, "goal": "student"}, taught=True),
                    "CD": Arm(method="cd", options=N, taught=True),
                    "CD, as many teacher evaluations": Arm(
                        method="cd", options=N, fields={"iterations": 17 * 900 // 2}, taught=True
                    ),
                }
            ),
            "exact ODE": EXACT,
        },
        verdicts=direct_verdicts,
        shown=SHOWN,
    ),
    "transport": Claim(
        about="The ideal generator's coupling costs less to move, the more the higher the noise; "
        "less than minibatch transport's from sigma = 1 on.",
        title="cost over that of independent pairs",
        rows={
            name: Row(partial(transport.curve, name), "python benchmarks/methods.py transport")
            for name in transport.LAWS
        },
        verdicts=transport_verdicts,
    ),
    "gc": Claim(
        about="Generator-induced coupling against independent coupling, at equal steps and at equal time.",
        title="GC",
        rows={**arms(gc_arms()), "exact ODE": EXACT},
        shown=(*SHOWN[:-1], "cpu_seconds"),
    ),
    "tcm": Claim(
        about="A second, truncated stage against more of the first, from the same weights at equal updates.",
        title="TCM",
        rows={**arms(truncation.ARMS), "exact ODE": EXACT},
        shown=SHOWN[:-1],
    ),
    "feedback": Claim(
        about="What an endpoint predictor that learns from its own endpoints needs in order to stay bounded.",
        title="one-dimensional Gaussian",
        rows={
            name: Row(partial(feedback.measured, case), "python benchmarks/methods.py feedback")
            for name, case in feedback.CASES.items()
        },
    ),
}

__all__ = ["CLAIMS", "SETTING", "Claim", "Row"]
