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
ICT: Options = {"method": "ict", "s1": 160}
STEPS: Options = {"steps": 16, "steps_end": 128}

# Every method, with settings of small size where its own are large.
METHODS: dict[str, tuple[str, Options]] = {
    **{name: (name, {}) for name in methods.__all__},
    "direct_cm": ("direct_cm", {"n": 8}),
    "mcm": ("mcm", STEPS),
    "ict": ("ict", {"s1": 160}),
}
VARIANTS: dict[str, tuple[str, Options]] = {
    "cd, Euler": ("cd", {"solver": "euler", "n": 12, "weight": "edm"}),
    "ct, L1": ("ct", {"distance": "l1", "weight": "edm", "s1": 20}),
    "ect, huber": ("ect", {"c": 0.06, "stages": 4, "weight": "edm", "q": 4.0}),
    "ect, minibatch OT": ("ect", {"pairs": "ot"}),
    "ect, Euler": ("ect", {"pairs": "euler"}),
    "gc on ect, by the student": ("gc", {"base": "ect", "predictor": "student", "share": 0.7}),
    "gc, ramp": ("gc", {"base": ICT, "share": 0.9, "share_end": 0.3}),
    "gc on tcm": ("gc", {"base": "tcm"}),
    "tcm, realised strata": (
        "tcm",
        {"base": {"method": "ect", "c": 0.06, "weight": "edm"}, "realised": True},
    ),
    "tcm, Heun": ("tcm", {"base": {"method": "ect", "pairs": "heun"}}),
    "mcm, K = 1": ("mcm", {"K": 1, **STEPS}),
    "mcm, aDDIM": ("mcm", {"pairs": "addim", **STEPS}),
    "mcm, squared x0": (
        "mcm",
        {"distance": "squared", "space": "x0", "weight": "snr_plus_one", "steps": 16},
    ),
    "mcm, squared v, K = 2": ("mcm", {"distance": "squared", "K": 2, **STEPS}),
    "mcm, huber of x0": ("mcm", {"space": "x0", "weight": "snr_plus_one", **STEPS}),
    "direct_cm, highest": ("direct_cm", {"n": 6, "starts": "highest", "c": 0.01}),
    "direct_cm, Heun": ("direct_cm", {"n": 8, "solver": "heun"}),
    "direct_cm, student's goal": ("direct_cm", {"n": 20, "goal": "student", "solver": "heun"}),
    "direct_cm, cosine": ("direct_cm", {"n": 12, "process": "cosine"}),
    "direct_cm, discrete": ("direct_cm", {"n": 10, "process": "discrete"}),
    "sct, differences": ("sct", {"derivative": "difference", "label": "time", "norm": "rms"}),
    "scd, in warm-up": ("scd", {"balance": "none", "warmup": 0.75}),
}


def build(name: str, options: Options) -> Method:
    method: Method = getattr(methods, name)(**options)
    return method


def survives_json(name: str, options: Options) -> float:
    """0 if the method of the options that JSON gives back is the method."""
    function = getattr(methods, name)
    again = json.loads(json.dumps(checked_options("method", function, options)))
    return float(function(**again) != build(name, options))


def checks_of(title: str, name: str, options: Options, quick: bool) -> list[Check]:
    """All checks of one setting of a method."""
    subject = structure.Subject(partial(build, name, options))
    look = f"an option of {name} is no JSON, or JSON changes it: see fewstep.methods.{name}"
    measure = partial(survives_json, name, options)
    survives = Check(
        f"{title}: options survive JSON", "definition", measure, 0.0, look, (name,), quick
    )
    return [*structure.checks_of(subject, title, name, quick), survives]


def checks() -> list[Check]:
    rows = []
    for title, (name, options) in METHODS.items():
        rows += checks_of(title, name, options, quick=True)
    for title, (name, options) in VARIANTS.items():
        if options.get("pairs") == "ot" and not find_spec("scipy"):
            continue
        rows += checks_of(title, name, options, quick=False)
    return rows
