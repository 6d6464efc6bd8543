"""One evaluation of a generator's network as a graph; whoever runs it makes the steps around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.func import functional_call

from fewstep.base.errors import UserError
from fewstep.base.surroundings import surroundings
from fewstep.export.graph import (
    KSteps,
    Shapes,
    at_least_float32,
    coefficients_at,
    condition_shapes,
    ends_of,
    trace_module,
    with_names,
)
from fewstep.export.scheme import Scheme
from fewstep.run.generator import Generator


class OnePass(nn.Module):
    """One evaluation of the network alone: (x, level, end, each part of the condition) -> F.

    Around it D(x_t, t) = skip x_t + out F(in x_t, level, end, cond), with numbers that depend on
    the time alone, see `numbers`. x is `[B, *shape]`, level `[B]`, end `[B, ends]` of flow maps.
    """

    def __init__(self, generator: Generator, scheme: Scheme, half: bool = False) -> None:
        super().__init__()
        self.steps = KSteps(generator, scheme, half)
        if len(self.steps.networks) > 1:
            raise UserError("a first stage answers beside the second: expected one network")
        ((self.name, self.network),) = self.steps.networks.items()
        self.networks = self.steps.networks
        self.forward = with_names(self.run, list(pass_shapes(generator, scheme)))

    def run(self, x: Tensor, level: Tensor, end: Tensor | None = None, **inputs: Tensor) -> Tensor:
        """The network's answer; what `forward` is, whose arguments have the names of the inputs."""
        cond = self.steps.condition(self.steps.kind, inputs)
        dtype, fine = self.steps.dtypes[self.name]
        more = {} if end is None else {"end": end.to(fine)}
        weights = at_least_float32(self.network)
        raw: Tensor = functional_call(
            self.network, weights, (x.to(dtype), level.to(fine), cond), more
        )
        return raw.float()


def pass_shapes(generator: Generator, scheme: Scheme) -> Shapes:
    """The inputs of `OnePass`, as of `input_shapes`."""
    shapes: Shapes = {"x": (torch.float32, generator.facts.shape), "level": (torch.float32, ())}
    if count := len(ends_of(generator, scheme.times[0], scheme.ends[0])):
        shapes["end"] = (torch.float32, (count,))
    return shapes | condition_shapes(generator, shapes)


def numbers(generator: Generator, scheme: Scheme) -> list[dict[str, Any]]:
    """What each evaluation of a scheme is told beside x and the condition, in float64."""
    names = ("skip", "out", "in", "level")
    return [
        dict(zip(names, coefficients_at(generator.denoiser, t), strict=True))
        | {"end": ends_of(generator, t, to)}
        for t, to in zip(scheme.times, scheme.ends, strict=True)
    ]


@surroundings()
def trace_pass(generator: Generator, scheme: Scheme, half: bool = False) -> ExportedProgram:
    """The graph of one evaluation; half: as for `graph.trace`. Raises UserError."""
    module = OnePass(generator, scheme, half)
    name = generator.run.network
    return trace_module(module, pass_shapes(generator, scheme), module.networks, name)
