"""torch modules in a file: their class, what they were made with, and their weights by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fewstep.base.errors import StorageError
from fewstep.foreign.tree import PERSISTENT, Instance, entries

MOST_WEIGHTS = 20_000
DEEPEST = 50


@dataclass(frozen=True)
class Module:
    """A module by the name of its class."""

    name: str
    attributes: dict[str, Any]

    def children(self) -> Iterator[tuple[str, Module]]:
        for name, value in entries(self.attributes.get("_modules")).items():
            child = module_of(value)
            if child is not None:
                yield str(name), child

    def child(self, name: str) -> Module | None:
        return dict(self.children()).get(name)

    def arguments(self, names: tuple[str, ...]) -> dict[str, Any] | None:
        """What it was made with, by name; None where the file does not say.

        names: of the arguments that stand first.
        """
        options = self.attributes.get("_init_kwargs")
        first = self.attributes.get("_init_args")
        if options is None and not first:
            return None
        in_order = first if isinstance(first, tuple | list) else ()
        return {**dict(zip(names, in_order, strict=False)), **entries(options)}

    def weights(self) -> dict[str, Tensor]:
        """Parameters and buffers by their full names, as state_dict() has them."""
        result: dict[str, Tensor] = {}
        _collect(self, "", result, 0)
        return result


def module_of(value: Any) -> Module | None:
    """The module behind a value, also where NVIDIA's code would run its source; None for others."""
    if not isinstance(value, Instance):
        return None
    name, state = value.class_name, value.state
    if name.endswith(PERSISTENT):
        about = entries(value.args[0]) if value.args else {}
        name, state = str(about.get("class_name")), about.get("state")
    attributes = dict(entries(state))
    is_module = "_parameters" in attributes and "_modules" in attributes
    return Module(name.rpartition(".")[2], attributes) if is_module else None


def _collect(module: Module, prefix: str, result: dict[str, Tensor], depth: int) -> None:
    local = module.attributes.get("_non_persistent_buffers_set")
    names = local.args if isinstance(local, Instance) else ()
    for group in ("_parameters", "_buffers"):
        for name, tensor in entries(module.attributes.get(group)).items():
            if isinstance(tensor, Tensor) and name not in names:
                result[f"{prefix}{name}"] = tensor
    # Modules may be shared: a file of a few bytes could name them without bounds.
    if len(result) > MOST_WEIGHTS or depth > DEEPEST:
        raise StorageError(f"a network in the file has more than {MOST_WEIGHTS} weights")
    for name, child in module.children():
        _collect(child, f"{prefix}{name}.", result, depth + 1)
