"""The passes of networks that some work makes, and the same passes with nothing around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from fewstep.base.memory import unwrap
from fewstep.networks.dropout import Masks

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Pass:
    """One call of a network: its arguments, and their tangents where it was derived along some."""

    name: str
    arguments: Arguments
    tangents: Arguments | None
    learns: bool  # with a gradient
    autocast: torch.dtype | None

    @property
    def rows(self) -> int:
        """How many samples were passed."""
        return len(self.arguments[0][0])


@contextmanager
def record(networks: Mapping[str, Callable[..., Any]]) -> Iterator[list[Pass]]:
    """Inside, the list takes each pass of these networks; what is no module is not seen."""
    passes: list[Pass] = []

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, kwargs: passes.append(_pass(name, (args, kwargs)))

    handles = [
        network.register_forward_pre_hook(hook(name), with_kwargs=True)
        for name, network in networks.items()
        if isinstance(network, nn.Module)
    ]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


def _pass(name: str, arguments: Arguments) -> Pass:
    """The pass that is being made."""
    primals = tree_map_only(Tensor, lambda x: _parts(x)[0], arguments)
    tangents = None
    if any(_parts(x)[1] is not None for x in tree_leaves(arguments) if isinstance(x, Tensor)):
        tangents = tree_map_only(Tensor, lambda x: _parts(x)[1], arguments)
    kind = next(x for x in tree_leaves(primals) if isinstance(x, Tensor)).device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return Pass(name, primals, tangents, torch.is_grad_enabled(), autocast)


def _parts(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """A tensor's values, and its tangent inside a forward-mode derivative."""
    tangent = None
    if forward_ad._current_level >= 0:
        x, tangent = forward_ad.unpack_dual(x)
    if tangent is not None:
        return unwrap(x).detach().clone(), unwrap(tangent).detach().clone()
    values = unwrap(x).detach().clone()
    return values.requires_grad_() if x.requires_grad else values, None


def repeat(passes: list[Pass], networks: Mapping[str, Callable[..., Any]]) -> None:
    """The same passes by these networks, under fresh masks of the same kind, and one backward."""
    total: Tensor | None = None
    caches: dict[int, dict[int, Tensor]] = {}

    for one in passes:
        own = tree_map_only(Masks, lambda masks: masks.anew(caches), one.arguments)
        kind = own[0][0].device.type
        with (
            torch.set_grad_enabled(one.learns),
            torch.autocast(kind, one.autocast, enabled=one.autocast is not None),
        ):
            result = _call(networks[one.name], replace(one, arguments=own))
        if result.requires_grad:
            end = result.float().sum()
            total = end if total is None else total + end
    if total is not None:
        total.backward()


def _call(network: Callable[..., Any], one: Pass) -> Tensor:
    """The output of a network, the first where it has several; derived where the pass was."""
    if one.tangents is None:
        args, kwargs = one.arguments
        return _first(network(*args, **kwargs))
    leaves, shape = tree_flatten(one.arguments)
    tangents = tree_leaves(one.tangents)
    moving = [place for place, tangent in enumerate(tangents) if isinstance(tangent, Tensor)]

    def along(*values: Tensor) -> Tensor:
        given = dict(zip(moving, values, strict=True))
        args, kwargs = tree_unflatten([given.get(n, x) for n, x in enumerate(leaves)], shape)
        return _first(network(*args, **kwargs))

    points = tuple(leaves[place] for place in moving)
    directions = tuple(tangents[place] for place in moving)
    result: Tensor = torch.func.jvp(along, points, directions)[0]
    return result


def _first(result: Any) -> Tensor:
    return next(x for x in tree_leaves(result) if isinstance(x, Tensor))
