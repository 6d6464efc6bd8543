"""The properties of our own methods, at the settings they come with and at some that take other parts."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from fewstep import methods
from fewstep.config import checked_options
from fewstep.losses import Method
from fewstep.verify import structure
from fewstep.verify.core import Check

OPTIONS: dict[str, dict[str, Any]] = {"direct_cm": {"n": 8}, "mcm": {"steps": 16, "steps_end": 128}, "ict": {"s1": 160}}


def made(name: str) -> Method:
    """The method with few levels, where that saves time."""
    method: Method = getattr(methods, name)(**OPTIONS.get(name, {}))
    return method


def survives(name: str) -> float:
    """0 where the method that JSON gives back is the method."""
    function = getattr(methods, name)
    options = json.loads(json.dumps(checked_options("method", function, OPTIONS.get(name, {}))))
    return float(function(**options) != made(name))


def checks() -> list[Check]:
    found = []
    for name in methods.__all__:
        found += structure.checks_of(partial(made, name), name)
        look = f"an option of {name} is no JSON, or changes on the way: see fewstep.methods and fewstep.config"
        found.append(Check(f"{name}: options survive JSON", "definition", partial(survives, name), 0.0, look, (name,)))
    return found
