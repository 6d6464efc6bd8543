"""Consistency models: trained, distilled, sampled and proved right. `import fewstep as fs`.

`fs.train(run, data)` returns a `Generator`, and so does `fs.load(folder)`: its `.sample(n)` draws.
A `Run` says what is trained; `fs.recipes` has some. A method is a `Method`, composed of the parts
in `process`, `times`, `targets`, `couplings`, `distances`, `weights` and others; `fs.methods` has
those of the papers. `fs.metrics` scores samples, `fs.exact` knows the truth.

Every name is imported where it is first used, so this import costs nothing and needs no torch.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

from fewstep.base.version import __version__ as __version__

if _TYPE_CHECKING:
    from fewstep import adapters as adapters
    from fewstep import data as data
    from fewstep import exact as exact
    from fewstep import methods as methods
    from fewstep import networks as networks
    from fewstep.adapters import adapt as adapt
    from fewstep.analysis import metrics as metrics
    from fewstep.base import errors as errors
    from fewstep.core import balances as balances
    from fewstep.core import couplings as couplings
    from fewstep.core import denoiser as denoiser
    from fewstep.core import derivatives as derivatives
    from fewstep.core import distances as distances
    from fewstep.core import measurements as measurements
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
    from fewstep.core.denoiser import Models as Models
    from fewstep.core.guidance import guide as guide
    from fewstep.core.method import Method as Method
    from fewstep.core.times import Times as Times
    from fewstep.core.times import curricula as curricula
    from fewstep.run import recipes as recipes
    from fewstep.run.config import Run as Run
    from fewstep.run.editing import edit as edit
    from fewstep.run.editing import interpolate as interpolate
    from fewstep.run.generator import Generator as Generator
    from fewstep.run.generator import load as load
    from fewstep.run.own_networks import as_generator as as_generator
    from fewstep.training import trajectories as cache  # noqa: F401 - another name of that module
    from fewstep.training.train import train as train
    from fewstep.training.trajectories import trajectories as trajectories

_MODULES = {
    "adapters": "adapters",
    "balances": "core.balances",
    "cache": "training.trajectories",
    "couplings": "core.couplings",
    "curricula": "core.times.curricula",
    "data": "data",
    "denoiser": "core.denoiser",
    "derivatives": "core.derivatives",
    "distances": "core.distances",
    "errors": "base.errors",
    "exact": "exact",
    "guidance": "core.guidance",
    "measurements": "core.measurements",
    "methods": "methods",
    "metrics": "analysis.metrics",
    "networks": "networks",
    "process": "core.process",
    "recipes": "run.recipes",
    "sampling": "core.sampling",
    "scalings": "core.scalings",
    "solvers": "core.solvers",
    "spaces": "core.spaces",
    "tangents": "core.tangents",
    "targets": "core.targets",
    "tell": "core.tell",
    "terms": "core.terms",
    "times": "core.times",
    "weights": "core.weights",
}
_NAMES = {
    "adapt": "adapters",
    "as_generator": "run.own_networks",
    "guide": "core.guidance",
    "Generator": "run.generator",
    "Method": "core.method",
    "Models": "core.denoiser",
    "Run": "run.config",
    "Times": "core.times",
    "edit": "run.editing",
    "interpolate": "run.editing",
    "load": "run.generator",
    "train": "training.train",
    "trajectories": "training.trajectories",
}
__all__ = sorted([*_MODULES, *_NAMES])


def __getattr__(name: str) -> object:
    if name in _NAMES:
        return getattr(_import_module(f"fewstep.{_NAMES[name]}"), name)
    if name in _MODULES:
        return _import_module(f"fewstep.{_MODULES[name]}")
    raise AttributeError(f"module 'fewstep' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
