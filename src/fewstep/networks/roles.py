"""Several networks in the memory of one: each role changes layers that all share, at low rank.

A student, its average, a frozen stage and the teacher differ in a few million numbers of a network
of billions. Here a role's parameters, state and copies are these numbers alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewstep.base.errors import require
from fewstep.base.randomness import generator

_ROLE: ContextVar[LowRank | None] = ContextVar("role", default=None)


class Pair(nn.Module):
    """What a role adds to a layer: scale B (A x), B = 0 at first, so that nothing is changed.

    Of a linear layer A is `[rank, in]`, B `[out, rank]`; of a convolution A is one to `rank`
    channels with its kernel, and B one of a single pixel. A is uniform in +-1 / sqrt(fan in).
    """

    def __init__(
        self, layer: nn.Linear | nn.Conv2d, rank: int, scale: float, source: torch.Generator
    ) -> None:
        super().__init__()
        rows, *rest = layer.weight.shape
        bound = 1 / math.sqrt(math.prod(rest))
        if layer.weight.is_meta:
            a = torch.empty(rank, *rest, device="meta")
        else:
            a = (torch.rand(rank, *rest, generator=source) * 2 - 1) * bound
        # In float32 at least: small changes of half-precision weights would be lost in them.
        self.a = nn.Parameter(a)
        self.b = nn.Parameter(a.new_zeros(rows, rank, *[1] * (len(rest) - 1)))
        self.scale = scale

    def forward(self, layer: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
        kind = x.device.type
        if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
            x = x.to(self.a.dtype)  # autocast makes x narrow again, and would keep both
        if isinstance(layer, nn.Linear):
            return self.scale * functional.linear(functional.linear(x, self.a), self.b)
        inner = functional.conv2d(x, self.a, None, layer.stride, layer.padding, layer.dilation)
        return self.scale * functional.conv2d(inner, self.b)


class Common:
    """What copies of its owner have in common."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __deepcopy__(self, memo: dict[int, Any]) -> Common:
        return self


class LowRank(nn.Module):
    """A network some of whose layers are W x + (alpha / rank) B A x: A and B are its parameters.

    A copy has its own A and B and the same network, which is changed by nothing but calls of the
    right role. The network is in eval mode, frees its gradients and follows the samples to their
    device.
    Source: LoRA, arXiv 2106.09685; peft's initial values and names of layers.
    """

    def __init__(
        self,
        network: nn.Module,
        rank: int,
        layers: Sequence[str] = (),
        *,
        alpha: float | None = None,
        own: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        """layers: ends of the names of linear layers and convolutions; none: all linear layers.

        alpha: by default the rank. own: names of children that each role has for itself and trains
        whole, in float32; the network asks for them by `part_of`. Raises UserError for a rank below
        1 and where there is no layer.
        """
        super().__init__()
        require(rank >= 1, "rank", rank, "at least 1")
        places = dict(layers_of(network, layers))
        need = f"ends of names of its layers, not {', '.join(layers) or 'none: it has no linear'}"
        require(len(places) > 0, f"layers of {type(network).__name__}", tuple(layers), need)
        self.rank, self.alpha = rank, float(rank if alpha is None else alpha)
        self.common = Common(network.requires_grad_(False).eval())
        self.pairs = nn.Module()
        parts = {name: copy.deepcopy(network.get_submodule(name)) for name in own}
        self.own = nn.ModuleDict(parts).float().requires_grad_(True)
        source = generator(seed, "low rank")
        for name, layer in places.items():
            *path, last = name.split(".")
            place = self.pairs
            for part in path:
                if part not in place._modules:
                    place.add_module(part, nn.Module())
                place = place.get_submodule(part)
            place.add_module(last, Pair(layer, rank, self.alpha / rank, source))
            _listen(layer, name)

    @property
    def at_once(self) -> bool:
        """That of the shared network."""
        return bool(getattr(self.base, "at_once", False))

    @property
    def ends(self) -> int:
        """That of the shared network."""
        return int(getattr(self.base, "ends", 0))

    @property
    def base(self) -> nn.Module:
        """The network that all roles share, without any of them."""
        network: nn.Module = self.common.value
        return network

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Any:
        with playing(self):
            return on_device(self.base, x.device)(x, *args, **options)

    def at(self, name: str) -> Pair | None:
        """What it adds to the layer of that name."""
        place: nn.Module | None = self.pairs
        for part in name.split("."):
            place = None if place is None else place._modules.get(part)
        return place if isinstance(place, Pair) else None


class Alone(nn.Module):
    """A network without any role, of which it has no parameters: copies share it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.common = Common(network)
        self.at_once = bool(getattr(network, "at_once", False))
        self.ends = int(getattr(network, "ends", 0))

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Any:
        with playing(None):
            return on_device(self.common.value, x.device)(x, *args, **options)


@contextmanager
def playing(role: LowRank | None) -> Iterator[None]:
    """Inside, shared layers add what this role has for them."""
    before = _ROLE.set(role)
    try:
        yield
    finally:
        _ROLE.reset(before)


def part_of(network: nn.Module, name: str) -> Any:
    """The part of that name that the playing role has for itself, or else the network's."""
    role = _ROLE.get()
    if role is None or name not in role.own:
        return network.get_submodule(name)
    return role.own[name]


def on_device(network: nn.Module, device: torch.device) -> nn.Module:
    """The network, moved where it is elsewhere."""
    first = next(network.parameters(), None)
    return network if first is None or first.device == device else network.to(device)


def layers_of(
    network: nn.Module, ends: Sequence[str] = ()
) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """The linear layers and convolutions whose names end so; without ends all linear layers."""
    for name, module in network.named_modules():
        if type(module) not in ((nn.Linear, nn.Conv2d) if ends else (nn.Linear,)):
            continue  # a convolution that also resamples has no such pair
        if not ends or any(f".{name}".endswith(f".{end}") for end in ends):
            yield name, module


def _listen(layer: nn.Module, name: str) -> None:
    """Makes the layer ask the role that plays what it adds; once, however many roles there are."""
    if getattr(layer, "has_roles", False):
        return
    layer.has_roles = True  # type: ignore[assignment]

    def add(layer: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        role = _ROLE.get()
        pair = None if role is None else role.at(name)
        return None if pair is None else out + pair(layer, args[0]).to(out.dtype)

    layer.register_forward_hook(add)
