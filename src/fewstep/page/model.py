"""What the page is given of generators: their networks as ONNX files, and all else as JSON.

The page makes the steps itself: a scheme of the export says which numbers stand around each
evaluation, so that one file of a network serves every number of steps.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fewstep.base.conditions import DTYPES, Kind, kinds, leaves
from fewstep.base.errors import UserError, require
from fewstep.core.sampling import sampler
from fewstep.data.units import EDM2_LATENTS, SD_LATENTS
from fewstep.export.contents import data_name, number
from fewstep.export.graph import condition_shapes, trace_module
from fewstep.export.one_pass import numbers, pass_shapes, trace_pass
from fewstep.export.onnx_file import onnx_bytes
from fewstep.export.scheme import Scheme, check_linear, scheme
from fewstep.export.units import ToUser
from fewstep.run.generator import Generator

STEPS = (1, 2, 4, 8)  # numbers of steps that stand side by side
MOST = 2**26  # bytes of weights that a browser tab is given
CHECKED = 4  # samples that the page makes again and compares
WIDEST = 16  # numbers of a condition that have a control each
DATA = "model.json"


@dataclass(frozen=True)
class Model:
    """The JSON that the page reads first, and the files that it names."""

    facts: dict[str, Any]
    files: dict[str, bytes]

    def all_files(self) -> dict[str, bytes]:
        """The files with the JSON among them."""
        return {**self.files, DATA: json.dumps(self.facts, allow_nan=False).encode()}


def model_of(generator: Generator, teacher: Generator | None = None, half: bool = False) -> Model:
    """A generator for the page, and one to compare it with. Raises UserError for another shape.

    half: weights as float16, which are computed with in float32. A network that has no such file,
    or more than `MOST` bytes of it, is left out, and the JSON says why: a server samples it.
    """
    facts = generator.facts
    files: dict[str, bytes] = {}
    # The teacher first: one that does not fit is refused before a network is traced.
    others = [] if teacher is None else [_teacher(teacher, generator, half, files)]
    makers = [_maker("student", generator, counts_of(generator), half, files), *others]
    return Model(
        {
            "data": data_name(generator.run.data),
            "about": about(generator),
            "shape": list(facts.shape),
            "view": view(generator),
            "labels": labels(generator),
            "conditions": conditions(generator),
            "makers": makers,
            "check": _check(generator) if makers[0]["file"] else None,
        },
        files,
    )


def _teacher(
    teacher: Generator, generator: Generator, half: bool, files: dict[str, bytes]
) -> dict[str, Any]:
    """The generator beside. Raises UserError for one that samples something else."""
    one, other = (
        (facts.shape, facts.cond, facts.names.classes) for facts in (teacher.facts, generator.facts)
    )
    need = f"one of the shape and conditions of the run, {generator.facts.shape}"
    require(one == other, "teacher", teacher.facts.shape, need)
    result = _maker("teacher", teacher, [teacher.default_steps()], half, files)
    # The server that stands in for a tab has the run's own generator alone.
    need = f"another: {result['why']}"
    require(result["file"] is not None, "teacher", result["method"], need)
    return result


def view(generator: Generator) -> dict[str, Any]:
    """How samples are drawn."""
    facts, look = generator.facts, generator.facts.look
    grey = look.black_and_white
    return {
        "kind": look.kind,
        "grey": list(grey) if grey else None,
        "columns": [
            {"name": one.name, "type": one.type, "categories": list(one.categories)}
            for one in look.columns
        ],
        "axis": None if len(facts.shape) == 1 else look.axis,
        "latents": are_latents(generator),
    }


def are_latents(generator: Generator) -> bool:
    """Whether samples are an autoencoder's latents, as far as a run knows; not of which one."""
    run = generator.run
    return run.latents is not None or run.units in (EDM2_LATENTS, SD_LATENTS)


def about(generator: Generator) -> dict[str, Any]:
    """What the page says of the run in its foot."""
    run = generator.run
    count = sum(p.numel() for p in generator.denoiser.parameters())
    return {
        "method": run.method,
        "network": run.network,
        "weights": count,
        "trained_steps": generator.step,
        "fingerprint": generator.fingerprint,
    }


def counts_of(generator: Generator) -> list[int]:
    """Those of `STEPS` that its sampler makes, and its default."""
    by = sampler(generator.method.sampler)
    default = generator.default_steps()
    counts = [count for count in STEPS if by.makes(count) and not generator.has_own_levels]
    return sorted({*counts, default})


def labels(generator: Generator) -> dict[str, Any] | None:
    """The classes, by their names where they have some; None without any."""
    facts = generator.facts
    if not facts.classes:
        return None
    return {
        "count": facts.classes,
        "names": list(facts.names.classes),
        "occurring": list(facts.names.occurring),
        "any": generator.run.label_drop > 0,
    }


def conditions(generator: Generator) -> list[dict[str, Any]]:
    """The other parts of a condition, by the names of a network's inputs, with a value for each."""
    facts = generator.facts
    columns = [column.name for column in facts.names.features]
    inputs = condition_shapes(generator, ())
    middles = dict(leaves(middle(generator)))
    result = []
    for (name, _), (word, (dtype, shape)) in zip(kinds(facts.cond), inputs.items(), strict=True):
        if name not in middles:
            continue  # labels
        value = middles[name].flatten().tolist()
        result.append(
            {
                "name": word,
                "dtype": dtype_name(dtype),
                "shape": list(shape),
                "value": value,
                "columns": columns if len(columns) == len(value) else [],
                "has_controls": len(value) <= WIDEST and dtype == torch.float32,
            }
        )
    return result


def middle(generator: Generator) -> Any:
    """A condition from the middle of the data, without labels: masks with all elements, zeros in
    the model's units.
    """

    def value(kind: Kind, name: str) -> Any:
        if isinstance(kind, Mapping):
            parts = {key: value(one, f"{name}.{key}" if name else key) for key, one in kind.items()}
            return {key: part for key, part in parts.items() if part is not None}
        if not isinstance(kind, list):
            return None
        if kind[0] == "bool":
            return torch.ones(tuple(kind[1]), dtype=torch.bool)
        zero = torch.zeros(1, *kind[1])
        units = generator.facts.cond_units.get(name)
        return (zero if units is None else units.to_user(zero))[0].to(DTYPES[kind[0]])

    return value(generator.facts.cond, "")


def dtype_name(dtype: torch.dtype) -> str:
    """float32, int64 or bool."""
    return str(dtype).removeprefix("torch.")


def _maker(
    name: str, generator: Generator, counts: Sequence[int], half: bool, files: dict[str, bytes]
) -> dict[str, Any]:
    """A generator as the page makes samples by it; its network is put among the files."""
    result = {
        "name": name,
        "method": generator.run.method,
        "sampler_steps": list(counts),
        "default": generator.default_steps(),
        "file": None,
        "units": None,
        "why": "",
        "schemes": {},
    }
    try:
        schemes = {count: scheme_of(generator, count) for count in counts}
        content = network_file(generator, list(schemes.values()), half)
    except UserError as error:
        return {**result, "why": str(error)}
    file, units = f"{name}.onnx", f"{name}-units.onnx"
    files[file], files[units] = content, _units(generator)
    inputs = pass_shapes(generator, next(iter(schemes.values())))
    shapes = {
        key: {"dtype": dtype_name(dtype), "shape": list(shape)}
        for key, (dtype, shape) in inputs.items()
    }
    texts = {str(count): scheme_json(generator, one) for count, one in schemes.items()}
    return {**result, "file": file, "units": units, "inputs": shapes, "schemes": texts}


def scheme_of(generator: Generator, steps: int) -> Scheme:
    """The numbers of so many steps. Raises UserError for a sampler that is not linear."""
    by, grid = generator.schedule(steps)
    is_map = generator.method.ends > 0
    result = scheme(generator.method.process, grid, by.step, by.noisy, is_map)
    check_linear(result)
    return result


def network_file(generator: Generator, schemes: Sequence[Scheme], half: bool) -> bytes:
    """One evaluation of the network as an ONNX file. Raises UserError."""
    size = sum(p.numel() for p in generator.denoiser.parameters()) * (2 if half else 4)
    if size > MOST:
        raise UserError(
            f"{size / 1e6:.0f} MB of weights: a browser tab is given {MOST / 1e6:.0f} at most"
        )
    if generator.guidance and generator.instruction is None:
        raise UserError("guidance asks the network twice, which files do not")
    own = generator.to("cpu")
    whole = replace(schemes[0], steps=tuple(step for one in schemes for step in one.steps))
    program = trace_pass(own, whole, half)
    inputs = list(pass_shapes(own, whole))
    return onnx_bytes(program, inputs, {"inputs": inputs}, own.run.network)


def _units(generator: Generator) -> bytes:
    """Samples in the model's units -> in the data's, as an ONNX file."""
    facts = generator.facts
    module = ToUser(facts.units, len(facts.shape) + 1)
    program = trace_module(module, {"x0": (torch.float32, facts.shape)}, (), "of the units")
    return onnx_bytes(program, ["x0"], {}, "of the units")


def scheme_json(generator: Generator, one: Scheme) -> dict[str, Any]:
    """A scheme in JSON's own types: each ask has the numbers around its evaluation."""
    around = iter(numbers(generator, one))
    return {
        "start": one.start,
        "noises": [f"renoise {step}" for step in one.noisy],
        "times": one.times,
        "levels": [number(float(generator.method.process.level(t))) for t in one.times],
        "steps": [
            {
                "asks": [{"point": ask.point, **next(around)} for ask in step.asks],
                "result": step.result,
                "noisy": step.is_noisy,
                "memory": step.memory,
            }
            for step in one.steps
        ],
    }


def _check(generator: Generator) -> dict[str, Any]:
    """Samples by PyTorch, which the page makes again from the same seed."""
    steps = generator.default_steps()
    own = generator.to("cpu")
    samples = own.sample(CHECKED, steps=steps, seed=0, cond=middle(generator))
    values = np.ascontiguousarray(samples.numpy().astype("<f8"))
    text = base64.b64encode(values.tobytes()).decode()
    return {"seed": 0, "n": CHECKED, "steps": steps, "samples": text}
