"""What an export is of: a generator with one way to sample it, and the graph that this makes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from fewstep.base.conditions import Cond, leaves
from fewstep.base.randomness import SAMPLING_BLOCK, normal
from fewstep.base.version import __version__
from fewstep.core.sampling import SAMPLERS
from fewstep.export.graph import input_shapes, trace
from fewstep.export.plan import Plan, plan
from fewstep.run.generator import Generator

FORMAT = "fewstep-export 1"
OUTPUT = "sample"  # the name of the output

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Contents:
    """A generator, its sampler and grid of times, and the plan that these make."""

    generator: Generator
    sampler: str
    plan: Plan
    half: bool = False

    @cached_property
    def program(self) -> ExportedProgram:
        """The graph by torch.export. Raises UserError."""
        return trace(self.generator, self.plan, self.half)

    def inputs(self, n: int, seed: int = 0, cond: Cond | int | str = None) -> Inputs:
        """What makes the graph give the n samples of `Generator.sample` with this seed."""
        generator = self.generator
        shape = generator.facts.shape

        def draw(stream: str) -> Tensor:
            return normal(seed, stream, 0, n, shape, SAMPLING_BLOCK)

        parts = [draw("prior")]
        if self.plan.noisy:
            parts.append(torch.stack([draw(stream) for stream in self.streams[1:]], 1))
        parts += [part for _, part in leaves(generator.fit_conditions(n, cond))]
        return dict(zip(input_shapes(generator, self.plan), parts, strict=True))

    @property
    def streams(self) -> list[str]:
        """The names of the noises that a seed makes: of `noise`, and of each draw in `renoise`."""
        return ["prior", *(f"renoise {number}" for number in self.plan.noisy)]

    @property
    def weights(self) -> int:
        """How many numbers the networks that answer have."""
        return sum(p.numel() for p in self.generator.denoiser.parameters())

    def scales(self) -> Tensor:
        """What a difference of samples is relative to, in the data's units, float64.

        The scale of the units, and of a variable with quantiles its range.
        """
        units, shape = self.generator.facts.units, self.generator.facts.shape
        scales = units.scales(shape).clone()
        for place, law in enumerate(units.quantiles):
            if law is not None:
                part = scales if units.axis is None else scales.select(units.axis, place)
                part.fill_(max(law.values[-1] - law.values[0], 1e-300))
        return torch.where(scales == 0, 1.0, scales)

    def to_json(self) -> dict[str, Any]:
        """What stands beside the weights: JSON's own types, and no path of this machine."""
        generator, run, facts = self.generator, self.generator.run, self.generator.facts
        level = generator.method.process.level
        shapes = input_shapes(generator, self.plan)
        return {
            "format": FORMAT,
            "fewstep": __version__,
            "method": run.method,
            "network": run.network,
            "data": data_name(run.data),
            "trained_steps": generator.step,
            "fingerprint": generator.fingerprint,
            "weights": self.weights,
            "half": self.half,
            "sampler": self.sampler,
            "steps": len(self.plan.times),
            "times": self.plan.times,
            "sigmas": [number(float(level(t))) for t in self.plan.times],
            "inputs": {
                name: {"dtype": str(dtype).removeprefix("torch."), "shape": ["batch", *shape]}
                for name, (dtype, shape) in shapes.items()
            },
            "noise_streams": self.streams,
            "output": {
                "name": OUTPUT,
                "dtype": "float64" if facts.units.need_double else "float32",
                "shape": ["batch", *facts.shape],
            },
            "units": facts.units.to_json(),
            "condition_units": {name: units.to_json() for name, units in facts.cond_units.items()},
            "classes": facts.classes,
            "no_label": -1 if facts.classes and run.label_drop > 0 else None,
            "names": facts.names.to_json(),
        }


def prepare(
    generator: Generator,
    *,
    steps: int | None = None,
    sampler: str | None = None,
    half: bool = False,
) -> Contents:
    """What is exported of a generator; steps, sampler: as for `sample`. Raises UserError."""
    by, grid = generator.schedule(steps, sampler)
    steps_along = plan(generator.method.process, grid, by.step, by.noisy)
    names = [name for name, one in SAMPLERS.items() if one == by]
    return Contents(generator.to("cpu"), names[0] if names else "own", steps_along, half)


def data_name(data: str) -> str:
    """The name of a data set without the folders of this machine."""
    return data if data.startswith("hf:") else PurePath(data.replace("\\", "/")).name


def number(value: float) -> float | None:
    """The number for JSON, which has none that are infinite: None."""
    return value if math.isfinite(value) else None
