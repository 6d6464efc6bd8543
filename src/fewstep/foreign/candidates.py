"""Which networks a file holds, and which of them is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fewstep.base.errors import UserError
from fewstep.foreign.modules import Module, module_of
from fewstep.foreign.tree import Instance, Tree, entries, tensors_in

# The parts of a file that hold averages, then those that hold the network itself.
AVERAGES = (
    "ema", "model_ema", "ema_model", "net_ema", "ema_state_dict", "model_ema_state_dict",
    "ema_model_state_dict", "state_dict_ema", "averaged_model",
)  # fmt: skip
NETWORKS = (
    "net", "model", "state_dict", "model_state_dict", "network", "generator", "student", "unet",
    "module",
)  # fmt: skip
# The end of a name that only networks of one family have.
SIGNATURES = {
    "edm": "map_layer0.weight",
    "edm2": "emb_fourier.freqs",
    "openai": "time_embed.0.weight",
}


@dataclass(frozen=True)
class Candidate:
    """A network in a file."""

    part: str  # where it stands, such as ema
    weights: dict[str, Tensor]
    module: Module | None = None


def candidates(tree: Tree) -> dict[str, Candidate]:
    """The networks in a file by where they stand. Raises UserError where there is none."""
    result: dict[str, Candidate] = {}
    _search(tree.root, "", result, 0)
    if not result:
        _refuse(tree)
    return result


def _search(value: Any, place: str, result: dict[str, Candidate], depth: int) -> None:
    module = module_of(value)
    if module is not None:
        result[place] = Candidate(place, module.weights(), module)
        return
    weights = dict(tensors_in(value))
    if weights and (len(weights) > 1 or any("." in name for name in weights)):
        result[place] = Candidate(place, weights)
        return
    if depth == 2:
        return
    for name, inside in entries(value).items():
        if isinstance(name, str) and "optim" not in name:
            _search(inside, f"{place}.{name}" if place else name, result, depth + 1)


def _refuse(tree: Tree) -> None:
    """Raises UserError with the reason why no network is in the file."""
    if isinstance(tree.root, Instance) and not isinstance(tree.root.state, dict):
        raise UserError(
            f"{tree.path} asks for {tree.root.class_name}, a class or function that this program"
            " records and never calls: expected a network or its weights"
        )
    names = [str(name)[:40] for name in entries(tree.root)][:8]
    shadow = "shadow_params" in entries(tree.root)
    if shadow or any("shadow_params" in entries(one) for one in entries(tree.root).values()):
        raise UserError(
            f"{tree.path} holds averaged weights as a list without names (shadow_params): expected"
            " a state_dict()"
        )
    strange = [
        name for name in tree.names if name.partition(".")[0] not in ("torch", "collections")
    ]
    hint = f"; it asks for {', '.join(strange[:4])}, which nothing calls" if strange else ""
    inside = ", ".join(names) or "nothing by name"
    raise UserError(f"{tree.path} holds no network: there is {inside}{hint}")


def pick(tree: Tree, part: str | None) -> tuple[Candidate, list[str]]:
    """(the network that is wanted, notes). Raises UserError where several could be."""
    networks = candidates(tree)
    names = list(networks)
    if part is not None:
        fits = [name for name in names if name == part or name.endswith(f".{part}")]
        if len(fits) == 1:
            return networks[fits[0]], []
        if part in names or not _has_prefix(networks, part):
            raise UserError(f"--part {part}: expected one of {', '.join(names)}")
    if len(names) == 1:
        return networks[names[0]], []
    for group in (AVERAGES, NETWORKS):
        first = [name for name in names if name in group or name.rpartition(".")[2] in group]
        if len(first) == 1:
            others = ", ".join(name for name in names if name != first[0])
            return networks[first[0]], [f"took {first[0]}; the file also holds {others}"]
    raise UserError(
        f"{tree.path} holds several networks: say which by --part, one of {', '.join(names[:12])}"
    )


def _has_prefix(networks: dict[str, Candidate], part: str) -> bool:
    return any(name.startswith(f"{part}.") for one in networks.values() for name in one.weights)


def prefix_of(weights: dict[str, Tensor], part: str | None) -> tuple[str, str] | None:
    """(family, what stands before its names); None for a network of no family.

    Raises UserError where several networks stand beside each other.
    """
    for family, end in SIGNATURES.items():
        names = (name for name in weights if name.endswith(end))
        prefixes = [name.removesuffix(end) for name in names]
        prefixes = [prefix for prefix in prefixes if not prefix or prefix.endswith(".")]
        if len(prefixes) > 1:
            fits = [p for p in prefixes if (part or "ema") in p]
            prefixes = fits if len(fits) == 1 else prefixes
        if len(prefixes) > 1:
            words = ", ".join(sorted(prefix.partition(".")[0] for prefix in prefixes))
            raise UserError(f"it holds several networks: say which by --part, one of {words}")
        if prefixes:
            return family, prefixes[0]
    return None
