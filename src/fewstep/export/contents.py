"""What an export is of: a generator with one way to sample it, and the graph that this makes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from fewstep.base.conditions import Cond, Kind, each, leaves
from fewstep.base.errors import require
from fewstep.base.randomness import SAMPLING_BLOCK, normal
from fewstep.base.version import __version__
from fewstep.core.denoiser import Preconditioned
from fewstep.core.sampling import SAMPLERS, Sampler
from fewstep.data import Units, change_cond
from fewstep.export.graph import input_shapes, networks_of, trace
from fewstep.export.scheme import Scheme, scheme
from fewstep.run.generator import Generator

FORMAT = "fewstep-export 1"
OUTPUT = "sample"  # the name of the output

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Contents:
    """A generator, the steps and sampler as for its `sample`, and the scheme that these make."""

    generator: Generator
    scheme: Scheme
    steps: int | None = None
    sampler: str | None = None
    half: bool = False  # large weights are stored in half precision

    @cached_property
    def program(self) -> ExportedProgram:
        """The graph by torch.export. Raises UserError."""
        return trace(self.generator, self.scheme, self.half)

    def inputs(self, n: int, seed: int = 0, cond: Cond | int | str = None) -> Inputs:
        """What makes the graph give the n samples of `Generator.sample` with this seed."""
        generator = self.generator
        shape = generator.facts.shape

        def draw(stream: str) -> Tensor:
            return normal(seed, stream, 0, n, shape, SAMPLING_BLOCK)

        parts = [draw("prior")]
        if self.scheme.noisy:
            parts.append(torch.stack([draw(stream) for stream in self.streams[1:]], 1))
        parts += [part for _, part in leaves(generator.fit_conditions(n, cond))]
        return dict(zip(input_shapes(generator, self.scheme), parts, strict=True))

    def samples(self, n: int, seed: int = 0, cond: Cond | int | str = None) -> Tensor:
        """The samples of the generator itself, which those of an export are compared with."""
        return self.generator.sample(
            n, steps=self.steps, sampler=self.sampler, seed=seed, cond=cond
        )

    def schedule(self) -> tuple[Sampler, list[float]]:
        """The sampler and its times."""
        return self.generator.schedule(self.steps, self.sampler)

    @property
    def sampler_name(self) -> str:
        """The name of the sampler whose step it makes; `own` of one that has none."""
        by, _ = self.schedule()
        return next((name for name, one in SAMPLERS.items() if one.step is by.step), "own")

    @property
    def streams(self) -> list[str]:
        """The names of the noises that a seed makes: of `noise`, and of each draw in `renoise`."""
        return ["prior", *(f"renoise {step}" for step in self.scheme.noisy)]

    @property
    def weights(self) -> int:
        """How many numbers the networks that answer have."""
        networks = networks_of(self.generator.denoiser, self.scheme).values()
        return sum(p.numel() for network in networks for p in network.parameters())

    @property
    def amplification(self) -> float:
        """How much a sample may enlarge an error of a network's output; at least 1.

        By the sampler's steps, and by the level where the output is noise.
        """
        denoiser: Any = self.generator.denoiser
        if not isinstance(denoiser, Preconditioned):
            return self.scheme.amplification
        times = torch.tensor(self.scheme.times, dtype=torch.float64)
        out = denoiser.scaling(denoiser.process, times).out.abs().max()
        return self.scheme.amplification * max(1.0, float(out))

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
        shapes = input_shapes(generator, self.scheme)
        more: dict[str, Any] = {}
        if generator.method.ends:
            more = {"ends": self.scheme.ends, "guidance": generator.guidance}
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
            "sampler": self.sampler_name,
            "steps": len(self.scheme.times),
            "times": self.scheme.times,
            "sigmas": [number(float(level(t))) for t in self.scheme.times],
            **more,
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
    is_map = generator.method.ends > 0
    if generator.instruction is None:
        guidance = generator.guidance
        require(guidance == 0, "guidance", guidance, "0: exports have no guidance")
    by, grid = generator.schedule(steps, sampler)
    moves = scheme(generator.method.process, grid, by.step, by.noisy, is_map)
    return Contents(generator.to("cpu"), moves, steps, sampler, half)


def example_condition(generator: Generator, n: int) -> Cond:
    """n conditions in the user's units that try the graph: normals, zeros, masks of all lengths.

    Labels are left out, since they take turns anyway.
    """
    facts = generator.facts
    cond = change_cond(_example(facts.cond, n), facts.cond_units, Units.to_user)
    return each(lambda x: x.float() if x.is_floating_point() else x, cond)


def _example(kind: Kind, n: int, name: str = "") -> Cond:
    if isinstance(kind, Mapping):
        parts = {
            key: _example(one, n, f"{name}.{key}" if name else key) for key, one in kind.items()
        }
        return {key: part for key, part in parts.items() if part is not None}
    if not isinstance(kind, list):
        return None
    shape = (n, *kind[1])
    if kind[0] == "int64":
        return torch.zeros(shape, dtype=torch.int64)
    if kind[0] == "bool":
        count = shape[1] if len(shape) > 1 else 1
        lengths = 1 + torch.arange(n) % count
        rows = torch.arange(count) < lengths[:, None]
        return rows.reshape(n, count, *[1] * (len(shape) - 2)).expand(shape).clone()
    return normal(0, f"example {name}", 0, n, tuple(kind[1]), SAMPLING_BLOCK)


def data_name(data: str) -> str:
    """The name of a data set without the folders of this machine."""
    return data if data.startswith("hf:") else PurePath(data.replace("\\", "/")).name


def number(value: float) -> float | None:
    """The number for JSON, which has none that are infinite: None."""
    return value if math.isfinite(value) else None
