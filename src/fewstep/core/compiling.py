"""Passes of networks that torch compiles: each as a whole, with its dropout drawn before."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode
from torch.utils._pytree import tree_map_only

from fewstep.base.conditions import Cond
from fewstep.base.device import first_weight
from fewstep.base.errors import UserError, require
from fewstep.core.denoiser import Denoiser, Masks, Preconditioned, Truncated, chain

Mode = Literal["off", "on", "graphs"]

BACKEND = "inductor"
# Of torch.compile: graphs replays a pass as one launch of a CUDA graph.
MODES: dict[Mode, str | None] = {"on": None, "graphs": "reduce-overhead"}
# Versions of a pass: with a gradient and without, masks, rows of one number, of one and of others.
VERSIONS = 64
_NUMBERS = itertools.count()  # of programs
LAYER = 0.7  # seconds that each layer of a pass takes to compile on a CPU (docs/speed.md)


@dataclass
class Compiled:
    """(x, noise_label, cond, masks, end=) -> the network's output, by a compiled pass.

    Inside a forward derivative it is the network itself, since torch compiles derivatives only
    together with what derives, and where operations are counted. Raises UserError where something
    breaks the graph, or no compiler is here.
    """

    network: nn.Module
    run: Callable[..., Any]
    is_graph: bool = False  # the next pass overwrites what this one gave
    # The masks that a pass asks for, by the shape of a sample.
    sites: dict[tuple[int, ...], Any] = field(default_factory=dict)

    def __call__(self, x: Tensor, label: Tensor, cond: Cond, *masks: Masks, **end: Tensor) -> Any:
        if forward_ad._current_level >= 0 or is_in_torch_dispatch_mode():
            return self.network(x, label, cond, *masks, **end)
        for one in masks:
            self._draw(one, x, label, cond, **end)
        try:
            result = self.run(x, label, cond, *masks, **end)
            return tree_map_only(Tensor, Tensor.clone, result) if self.is_graph else result
        except RuntimeError as error:
            from torch._dynamo.exc import TorchDynamoException

            if not isinstance(error, TorchDynamoException):
                raise
            lines = filter(None, map(str.strip, str(error).splitlines()))
            raise UserError(
                f"compile: torch cannot compile a pass of {type(self.network).__name__}:"
                f" {next(lines, type(error).__name__)}; leave compile out"
            ) from error

    def _draw(self, masks: Any, x: Tensor, label: Tensor, cond: Cond, **end: Tensor) -> None:
        """All masks of the pass, since a generator cannot be compiled."""
        shape = tuple(x.shape[1:])
        if shape not in self.sites:
            with torch.no_grad():
                self.network(x, label, cond, masks, **end)
            self.sites[shape] = masks.sites
        masks.draw_all(self.sites[shape], x.device)


def compile_passes(denoiser: Denoiser, mode: Mode) -> None:
    """Compiles the passes of all networks that a denoiser asks, when they are first made.

    Its copies are not compiled. Raises UserError for graphs without CUDA.
    """
    if mode == "off":
        return
    for one in parts(denoiser):
        if one.program is None:
            one.program = compile_network(one.network, mode)


def compile_network(network: nn.Module, mode: Mode) -> Compiled:
    """The network's pass, compiled when it is first made. Raises UserError as `compile_passes`."""
    weight = first_weight(network)
    kind = "cpu" if weight is None else weight.device.type
    require(mode != "graphs" or kind == "cuda", "compile", mode, f"on or off on {kind}")

    def run(*args: Any, **options: Any) -> Any:
        return network(*args, **options)

    # By a name of its own: torch keeps what sizes it has seen by the name of a function's code.
    run.__code__ = run.__code__.replace(co_name=f"pass_{next(_NUMBERS)}")
    options: dict[str, Any] = {"backend": BACKEND, "recompile_limit": VERSIONS}
    if "isolate_recompiles" in inspect.signature(torch.compile).parameters:
        options["isolate_recompiles"] = True
    if MODES[mode] is not None:
        options["mode"] = MODES[mode]
    program = torch.compile(run, fullgraph=True, **options)
    return Compiled(network, program, is_graph=mode == "graphs")


def parts(denoiser: Denoiser) -> Iterator[Preconditioned]:
    """The preconditioned networks that a denoiser asks."""
    for one in chain(denoiser):
        if isinstance(one, nn.Module):
            yield from (part for part in one.modules() if isinstance(part, Preconditioned))
            return


def is_compiled(denoiser: Denoiser) -> bool:
    """Whether passes of it are compiled."""
    return any(one.program is not None for one in parts(denoiser))


def with_passes(denoiser: nn.Module, mode: Mode) -> nn.Module:
    """The denoiser on the same weights, with compiled passes or, off, with ordinary ones.

    Raises UserError where it has no network that could be compiled.
    """
    if isinstance(denoiser, Truncated):
        pair: Any = denoiser
        low, high = (with_passes(one, mode) for one in (pair.low, pair.high))
        return Truncated(low, high, denoiser.t_prime)
    if isinstance(denoiser, Preconditioned):
        denoiser = copy.copy(denoiser)
        compile_passes(denoiser, mode)
        return denoiser
    if mode == "off":
        return denoiser
    raise UserError(f"compile = {mode}: {type(denoiser).__name__} is no network: leave it out")


def forecast(denoiser: Denoiser, passes: int) -> str:
    """What it costs to compile so many kinds of passes, in words; "" where it takes seconds."""
    layers = sum(1 for one in parts(denoiser) for part in one.modules() if not part._modules)
    weight = first_weight(next(parts(denoiser)))
    if weight is None or weight.device.type != "cpu":
        return ""
    minutes = passes * LAYER * layers / 60
    return (
        f"torch compiles {layers} layers first, which takes about {minutes:.1g} min on a CPU, and"
        " seconds where its cache has them"
    )
