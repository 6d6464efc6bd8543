"""The blocks of a network: what is sharded, and what is computed again, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

LISTS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


class Block(nn.Module):
    """A part that a network repeats and calls as a whole."""


def blocks_of(network: nn.Module) -> dict[str, nn.Module]:
    """The blocks by their names in the network, none inside another; none: it is one piece.

    A wrapper of somebody's network names the classes of its blocks, as `block_kinds`. Where there
    are none they are the members of its lists (`ModuleList`, `ModuleDict`, `Sequential`), unless
    some of its weights are used in two places.
    """
    common = getattr(network, "common", None)  # of a role
    if common is not None:
        return {f"base.{name}": block for name, block in blocks_of(common.value).items()}
    kinds = getattr(network, "block_kinds", ())

    def is_block(_: nn.Module, module: nn.Module) -> bool:
        return isinstance(module, Block) or type(module).__name__ in kinds

    ours = dict(_outermost(network, is_block))
    if ours or _shares(network):
        return ours
    return dict(_outermost(network, _is_member))


def _is_member(parent: nn.Module, module: nn.Module) -> bool:
    """Whether a list holds it, and it is a module with weights that can be called."""
    is_list = isinstance(module, nn.ModuleList | nn.ModuleDict)
    return isinstance(parent, LISTS) and not is_list and any(True for _ in module.parameters())


def _outermost(
    parent: nn.Module, is_block: Callable[[nn.Module, nn.Module], bool], path: str = ""
) -> Iterator[tuple[str, nn.Module]]:
    for name, module in parent.named_children():
        if is_block(parent, module):
            yield path + name, module
        else:
            yield from _outermost(module, is_block, f"{path}{name}.")


def _shares(network: nn.Module) -> bool:
    names = network.named_parameters(remove_duplicate=False)
    return sum(1 for _ in names) > sum(1 for _ in network.parameters())


@contextmanager
def watch_calls(blocks: dict[str, nn.Module]) -> Iterator[set[str]]:
    """Inside, the set fills with the names of the blocks that were called."""
    names: set[str] = set()
    hooks = [
        block.register_forward_pre_hook(lambda *_, name=name: names.add(name))
        for name, block in blocks.items()
    ]
    try:
        yield names
    finally:
        for hook in hooks:
            hook.remove()


class _Again:
    """Before a block's class: its activations are not kept, the backward pass computes them again.

    What torch's generators draw is drawn again, too. A pass without gradient keeps nothing anyway.
    """

    is_asked = False

    def forward(self, *args: Any, **options: Any) -> Any:
        own = super().forward  # type: ignore[misc]
        if not (self.is_asked and torch.is_grad_enabled()):
            return own(*args, **options)
        context = copy_context()  # so that the same role plays then (`networks.roles`)

        def run(*args: Any, **options: Any) -> Any:
            return context.copy().run(own, *args, **options)

        return checkpoint(run, *args, use_reentrant=False, **options)


@contextmanager
def recompute(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, the blocks compute their activations again where a backward pass needs them."""
    blocks = list(blocks)
    for block in blocks:
        kind = type(block)
        if not isinstance(block, _Again):
            block.__class__ = type(kind.__name__, (_Again, kind), {})
        block.is_asked = True  # type: ignore[assignment]
    try:
        yield
    finally:
        for block in blocks:
            block.is_asked = False  # type: ignore[assignment]
