"""The properties of our own methods, at the settings they come with and at some that take other
parts.
"""

from __future__ import annotations

import json
from functools import partial
from importlib.util import find_spec
from typing import Any

from fewstep import methods
from fewstep.analysis.verify import structure
from fewstep.analysis.verify.check import Check
from fewstep.base.options import checked_options
from fewstep.core.method import Method

Options = dict[str, Any]
OPTIONS: dict[str, Options] = {
    "direct_cm": {"n": 8},
    "mcm": {"steps": 16, "steps_end": 128},
    "ict": {"s1": 160},
}
VARIANTS: dict[str, tuple[str, Options]] = {
    "cd, Euler": ("cd", {"solver": "euler", "n": 12, "weight": "edm"}),
    "ct, L1": ("ct", {"distance": "l1", "weight": "edm", "s1": 20}),
    "ect, huber": ("ect", {"c": 0.06, "stages": 4, "weight": "edm", "q": 4.0}),
    "ect, minibatch OT": ("ect", {"pairs": "ot"}),
    "ect, Euler": ("ect", {"pairs": "euler"}),
    "gc on ect, by the student": ("gc", {"base": "ect", "predictor": "student", "share": 0.7}),
    "gc, ramp": ("gc", {"base": {"method": "ict", "s1": 160}, "share": 0.9, "share_end": 0.3}),
    "gc on tcm": ("gc", {"base": "tcm"}),
    "tcm, realised strata": (
        "tcm",
        {"base": {"method": "ect", "c": 0.06, "weight": "edm"}, "realised": True},
    ),
    "tcm, Heun": ("tcm", {"base": {"method": "ect", "pairs": "heun"}}),
    "mcm, K = 1": ("mcm", {"K": 1, "steps": 16, "steps_end": 128}),
    "mcm, aDDIM": ("mcm", {"pairs": "addim", "steps": 16, "steps_end": 128}),
    "mcm, squared x0": (
        "mcm",
        {"distance": "squared", "space": "x0", "weight": "snr_plus_one", "steps": 16},
    ),
    "direct_cm, highest": ("direct_cm", {"n": 6, "starts": "highest", "c": 0.01}),
    "direct_cm, student's goal": ("direct_cm", {"n": 20, "goal": "student", "solver": "heun"}),
    "direct_cm, cosine": ("direct_cm", {"n": 12, "process": "cosine"}),
    "direct_cm, discrete": ("direct_cm", {"n": 10, "process": "discrete"}),
    "sct, differences": ("sct", {"derivative": "difference", "label": "time", "norm": "rms"}),
    "scd, in warm-up": ("scd", {"balance": "none", "warmup": 0.75}),
}


def made(name: str, options: Options) -> Method:
    method: Method = getattr(methods, name)(**options)
    return method


def survives(name: str, options: Options) -> float:
    """0 where the method that JSON gives back is the method."""
    function = getattr(methods, name)
    again = json.loads(json.dumps(checked_options("method", function, options)))
    return float(function(**again) != made(name, options))


def of(title: str, name: str, options: Options, quick: bool) -> list[Check]:
    """All that is asked of one setting of a method."""
    look = (
        f"an option of {name} is no JSON, or changes on the way: see fewstep.methods and"
        " fewstep.run.config"
    )
    kept = Check(
        f"{title}: options survive JSON",
        "definition",
        partial(survives, name, options),
        0.0,
        look,
        (name,),
        quick,
    )
    return [
        *structure.checks_of(structure.Subject(partial(made, name, options)), title, name, quick),
        kept,
    ]


def checks() -> list[Check]:
    usual = [
        check
        for name in methods.__all__
        for check in of(name, name, OPTIONS.get(name, {}), quick=True)
    ]
    there = [
        row for row in VARIANTS.items() if row[1][1].get("pairs") != "ot" or find_spec("scipy")
    ]  # which it needs
    others = [
        check for title, (name, options) in there for check in of(title, name, options, quick=False)
    ]
    return [*usual, *others]
