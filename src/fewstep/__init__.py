"""Consistency models: trained, distilled, sampled and proved right. `import fewstep as fs`.

Everything is imported where it is first used, so this import costs nothing and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewstep import (
        couplings,
        data,
        denoiser,
        distances,
        methods,
        networks,
        process,
        recipes,
        sampling,
        solvers,
        spaces,
        targets,
        times,
        weights,
    )
    from fewstep.config import Run
    from fewstep.denoiser import Models
    from fewstep.generator import Generator, load
    from fewstep.losses import Method
    from fewstep.times import Times
    from fewstep.training import train

__version__ = "0.1.0"

_MODULES = (
    "couplings data denoiser distances methods metrics networks process recipes sampling solvers spaces targets "
    "times weights"
).split()
_NAMES = {
    "Generator": "generator",
    "Method": "losses",
    "Models": "denoiser",
    "Run": "config",
    "Times": "times",
    "load": "generator",
    "train": "training",
}
__all__ = [*_MODULES, *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f"fewstep.{_NAMES[name]}"), name)
    if name in _MODULES:
        return import_module(f"fewstep.{name}")
    raise AttributeError(f"module 'fewstep' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
