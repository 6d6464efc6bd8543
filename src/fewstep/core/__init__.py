"""The one loss and its parts.

Modules are imported where they are first used, so that a method can be named and its options read
without torch.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from fewstep.core import balances as balances
    from fewstep.core import couplings as couplings
    from fewstep.core import distances as distances
    from fewstep.core import process as process
    from fewstep.core import sampling as sampling
    from fewstep.core import scalings as scalings
    from fewstep.core import solvers as solvers
    from fewstep.core import spaces as spaces
    from fewstep.core import tangents as tangents
    from fewstep.core import targets as targets
    from fewstep.core import tell as tell
    from fewstep.core import terms as terms
    from fewstep.core import times as times
    from fewstep.core import weights as weights
    from fewstep.core.method import Method as Method
    from fewstep.core.times import curricula as curricula

_MODULES = {
    "balances",
    "couplings",
    "distances",
    "process",
    "sampling",
    "scalings",
    "solvers",
    "spaces",
    "tangents",
    "targets",
    "tell",
    "terms",
    "times",
    "weights",
}


def __getattr__(name: str) -> object:
    if name == "Method":
        return getattr(_import_module("fewstep.core.method"), name)
    if name == "curricula":
        return _import_module("fewstep.core.times.curricula")
    if name in _MODULES:
        return _import_module(f"fewstep.core.{name}")
    raise AttributeError(f"module 'fewstep.core' has no attribute {name!r}")
