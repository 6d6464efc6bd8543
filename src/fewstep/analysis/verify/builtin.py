"""The properties of our own methods, at their defaults and at settings that use other parts."""

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
ECT_EDM: Options = {"method": "ect", "c": 0.06, "weight": "edm"}

# The one table of methods, of tests too: title -> name in `fewstep.methods`, options. A row with
# the name alone is quick.
METHODS: dict[str, tuple[str, Options]] = {
    "diffusion": ("diffusion", {}),
    "ect": ("ect", {}),
    "ect huber": ("ect", {"c": 0.06, "stages": 4}),
    "ect edm": ("ect", {"weight": "edm", "q": 4.0, "c": 0.06}),
    "cd": ("cd", {}),
    "cd euler": ("cd", {"solver": "euler", "n": 12, "weight": "edm"}),
    "ct": ("ct", {}),
    "ct l1": ("ct", {"distance": "l1", "weight": "edm", "s1": 20}),
    "ict": ("ict", {"s1": 160}),
    "ect ot": ("ect", {"pairs": "ot"}),
    "ect euler": ("ect", {"pairs": "euler"}),
    "gc": ("gc", {"base": ICT}),
    "gc ect": ("gc", {"base": "ect", "predictor": "student", "share": 0.7}),
    "gc ramp": ("gc", {"base": ICT, "share": 0.9, "share_end": 0.3}),
    "gc tcm": ("gc", {"base": "tcm"}),
    "tcm": ("tcm", {}),
    "tcm huber edm": ("tcm", {"base": ECT_EDM, "realised": True}),
    "tcm heun": ("tcm", {"base": {"method": "ect", "pairs": "heun"}}),
    "mcm": ("mcm", {}),
    "mcm 1": ("mcm", {"K": 1, **STEPS}),
    "mcm literal": ("mcm", {"space": "x0", "weight": "snr_plus_one", **STEPS}),
    "mcm addim": ("mcm", {"pairs": "addim", **STEPS}),
    "mcm squared": ("mcm", {"distance": "squared", "K": 2, **STEPS}),
    "pd": ("pd", {"steps": 8, "last": 4}),
    "pd addim edm": ("pd", {"steps": 8, "last": 8, "pairs": "addim", "process": "edm"}),
    "tract": ("tract", {"steps": (64, 16, 4)}),
    "direct_cm": ("direct_cm", {}),
    "direct_cm highest": ("direct_cm", {"n": 6, "starts": "highest", "c": 0.01}),
    "direct_cm heun": ("direct_cm", {"n": 8, "solver": "heun"}),
    "direct_cm student": ("direct_cm", {"n": 20, "goal": "student"}),
    "direct_cm cosine": ("direct_cm", {"n": 12, "process": "cosine"}),
    "direct_cm discrete": ("direct_cm", {"n": 10, "process": "discrete"}),
    "sct": ("sct", {}),
    "sct differences": ("sct", {"derivative": "difference", "label": "time", "norm": "rms"}),
    "scd": ("scd", {"balance": "none", "warmup": 0.75}),
    "meanflow": ("meanflow", {}),
    "meanflow edm": ("meanflow", {"process": "edm", "p": 0.75, "a_mean": -4.0, "a_std": 1.6}),
    "imf": ("imf", {}),
    "imf trig": ("imf", {"process": "trig", "derivative": "difference"}),
    "soflow": ("soflow", {}),
    "soflow cosine": ("soflow", {"process": "cosine", "diagonal": 0.0, "near": 1.0}),
    "alphaflow": ("alphaflow", {}),
    "alphaflow edm": ("alphaflow", {"process": "edm", "bound": 1e3}),
    "shortcut": ("shortcut", {}),
    "psd": ("psd", {}),
    "psd trig": ("psd", {"process": "trig", "diagonal": 0.25}),
    "lsd": ("lsd", {}),
    "lsd cosine": ("lsd", {"process": "cosine"}),
    "esd": ("esd", {}),
    "esd edm": ("esd", {"process": "edm"}),
    "tvm": ("tvm", {}),
    "lmd": ("lmd", {}),
    "emd": ("emd", {}),
    "emd cosine": ("emd", {"process": "cosine", "derivative": "difference"}),
    "ayf": ("ayf", {}),
    "ctm": ("ctm", {}),
    "cmt": ("cmt", {"n": 8, "reuse": 4}),
    "pcm": ("pcm", {}),
    "pcm data": ("pcm", {"pairs": "data", "K": 2, "sampler": "ddim"}),
    "imm": ("imm", {}),
    "vct": ("vct", {"encoder_options": {"width": 8, "depth": 1}}),
    "tbcm": ("tbcm", {"points": 4}),
}
# The gaps of one end at 1e-4 of t, of whose squared error float32 keeps two digits. The other has
# no loss in rows where it teaches itself, as it does there.
NOT_IN_FLOAT32 = {"ect edm", "tract"}


def build(name: str, options: Options) -> Method:
    method: Method = getattr(methods, name)(**options)
    return method


def survives_json(name: str, options: Options) -> float:
    """0 if the method of the options that JSON gives back is the method."""
    function = getattr(methods, name)
    again = json.loads(json.dumps(checked_options("method", function, options)))
    return float(function(**again) != build(name, options))


def checks_of(title: str) -> list[Check]:
    """All checks of one row of the table."""
    name, options = METHODS[title]
    quick = title == name
    without = {"float32 agrees with float64"} if title in NOT_IN_FLOAT32 else set()
    subject = structure.Subject(partial(build, name, options))
    look = f"an option of {name} is no JSON, or JSON changes it: see fewstep.methods.{name}"
    measure = partial(survives_json, name, options)
    survives = Check(
        f"{title}: options survive JSON", "definition", measure, 0.0, look, (name,), quick
    )
    return [*structure.checks_of(subject, title, name, quick, without), survives]


def checks() -> list[Check]:
    rows = []
    for title, (_, options) in METHODS.items():
        if options.get("pairs") != "ot" or find_spec("scipy"):  # minibatch OT needs SciPy
            rows += checks_of(title)
    return rows
