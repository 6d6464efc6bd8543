"""Consistency models: trained, distilled, sampled and proved right. `import fewstep as fs`.

Everything is imported where it is first used, so this import costs nothing and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewstep import balances as balances
    from fewstep import cache as cache
    from fewstep import couplings as couplings
    from fewstep import curricula as curricula
    from fewstep import data as data
    from fewstep import denoiser as denoiser
    from fewstep import distances as distances
    from fewstep import errors as errors
    from fewstep import exact as exact
    from fewstep import methods as methods
    from fewstep import metrics as metrics
    from fewstep import networks as networks
    from fewstep import process as process
    from fewstep import recipes as recipes
    from fewstep import sampling as sampling
    from fewstep import scalings as scalings
    from fewstep import solvers as solvers
    from fewstep import spaces as spaces
    from fewstep import tangents as tangents
    from fewstep import targets as targets
    from fewstep import times as times
    from fewstep import weights as weights
    from fewstep.cache import trajectories as trajectories
    from fewstep.config import Run as Run
    from fewstep.denoiser import Models as Models
    from fewstep.generator import Generator as Generator
    from fewstep.generator import load as load
    from fewstep.losses import Method as Method
    from fewstep.times import Times as Times
    from fewstep.training import train as train

__version__ = "0.1.0"

_MODULES = {
    "balances",
    "cache",
    "couplings",
    "curricula",
    "data",
    "denoiser",
    "distances",
    "errors",
    "exact",
    "methods",
    "metrics",
    "networks",
    "process",
    "recipes",
    "sampling",
    "scalings",
    "solvers",
    "spaces",
    "tangents",
    "targets",
    "times",
    "weights",
}
_NAMES = {
    "Generator": "generator",
    "Method": "losses",
    "Models": "denoiser",
    "Run": "config",
    "Times": "times",
    "load": "generator",
    "train": "training",
    "trajectories": "cache",
}
__all__ = sorted([*_MODULES, *_NAMES])


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f"fewstep.{_NAMES[name]}"), name)
    if name in _MODULES:
        return import_module(f"fewstep.{name}")
    raise AttributeError(f"module 'fewstep' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
