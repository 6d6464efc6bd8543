"""What an export says of itself in words: title, inputs, the code that samples with it."""

from __future__ import annotations

from typing import Any

from fewstep.data.columns import numbers_in
from fewstep.export.contents import Contents
from fewstep.export.diffusers_folder import lcm_timesteps

MOST_ROWS = 24  # of a table in words

DRAW = """\
import hashlib

import torch


def unit_noise(seed, stream, n, shape):
    \"\"\"The unit normals [n, *shape] of a seed and a stream, by blocks of 16 samples.\"\"\"
    digest = hashlib.sha256(f"{seed}|{stream}".encode()).digest()
    keys = [int.from_bytes(digest[i : i + 4], "big") for i in range(0, 16, 4)]
    parts = []
    for block in range(-(-n // 16)):
        left, right = block >> 16, block & 0xFFFF
        for key in keys:
            mix = (right ^ key & 0xFFFF) * 0x9E3779B1 + (key >> 16) & 0xFFFFFFFF
            left, right = right, left ^ (mix ^ mix >> 15) * 0x85EBCA6B >> 13 & 0xFFFF
        source = torch.Generator().manual_seed(left << 16 | right)
        parts.append(torch.empty(16, *shape).normal_(generator=source))
    return torch.cat(parts)[:n]
"""

_OPEN = {
    "onnx": """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("generator.onnx")
source = np.random.default_rng(0)
{inputs}
(samples,) = session.run(["sample"], inputs)""",
    "torch": """\
import torch

sample = torch.export.load("generator.pt2").module()
{inputs}
samples = sample(**inputs)""",
    "safetensors": """\
import torch
from generator import load, sample

weights = load("weights.safetensors")
{inputs}
samples = sample(weights, **inputs)""",
    "diffusers": """\
from diffusers import ConsistencyModelPipeline

pipeline = ConsistencyModelPipeline.from_pretrained({options})
images = pipeline({inputs}).images""",
}


def title(contents: Contents) -> str:
    """One line: samples of which shape, by how many steps of which method."""
    about = contents.to_json()
    steps = count(about["steps"], "step")
    shape = " x ".join(map(str, contents.generator.facts.shape))
    return f"Samples of {shape} numbers in {steps} of {about['method']}, trained on {about['data']}"


def flow_map(contents: Contents) -> list[str]:
    """What a flow map is, of one, with its ends."""
    about = contents.to_json()
    if "ends" not in about:
        return []
    pairs = zip(about["times"], about["ends"], strict=True)
    jumps = ", ".join(f"{t:.4g} to {to:.4g}" for t, to in pairs)
    guidance = f", told the guidance {about['guidance']:g}" if about["guidance"] else ""
    return [
        "It is a flow map: a network of two times, which is told where each of its answers leads;"
        f" here from time {jumps}{guidance}. The run samples in any number of steps."
    ]


def count(n: int, word: str) -> str:
    """1 step, 2 steps."""
    return f"{n:,} {word}" + "s" * (n != 1)


def python_example(contents: Contents, target: str = "safetensors", file: str = "") -> str:
    """The Python that draws 16 samples with a file of that target."""
    if target == "diffusers":
        return _pipeline_call(contents)
    values = {name: _draw(contents, name, entry, target) for name, entry in _inputs(contents)}
    pairs = [f'    "{name}": {value},' for name, value in values.items()]
    code = _OPEN[target].format(inputs="\n".join(["inputs = {", *pairs, "}"]))
    names = {"onnx": "generator.onnx", "torch": "generator.pt2"}
    return code.replace(names[target], file) if file and target in names else code


def _pipeline_call(contents: Contents) -> str:
    timesteps = lcm_timesteps(contents)
    options = '"."' if timesteps else '".", trust_remote_code=True'
    call = ["batch_size=16"]
    if timesteps and len(timesteps) > 1:
        call.append(f"timesteps={timesteps}")
    elif not timesteps:
        call.append(f"num_inference_steps={len(contents.scheme.times)}")
    if contents.generator.facts.classes:
        call.append("class_labels=[0] * 16")
    return _OPEN["diffusers"].format(options=options, inputs=", ".join(call))


def inputs_text(contents: Contents) -> str:
    """A line for each input, and one for the samples."""
    about = contents.to_json()
    lines = [
        f"{name} {shape_text(entry)}: {_meaning(contents, name)}"
        for name, entry in _inputs(contents)
    ]
    return "\n".join([*lines, f"sample {shape_text(about['output'])}: {units_text(contents)}"])


def shape_text(entry: dict[str, Any]) -> str:
    """float32 [batch, 1, 8, 8]."""
    return f"{entry['dtype']} [{', '.join(map(str, entry['shape']))}]"


def units_text(contents: Contents) -> str:
    """What the numbers of a sample are."""
    units = contents.generator.facts.units
    if units.clip and units.shift == units.scale == 127.5:
        return "pictures whose pixels are 0 .. 255, not rounded"
    return "in the data's units" + (" within the range of the data" if units.clip else "")


def class_rows(contents: Contents) -> list[list[str]]:
    """Number and name of each class, as far as they fit."""
    names = contents.generator.facts.names
    occurring = set(names.occurring)
    rows = [
        [str(label), name]
        for label, name in enumerate(names.classes)
        if not occurring or label in occurring
    ]
    return shorten(rows)


def variable_rows(contents: Contents) -> list[list[str]]:
    """Name, shift and scale of each variable, as far as they fit."""
    facts = contents.generator.facts
    units = facts.units
    if units.axis is None:
        return [["all numbers", f"{units.of(0).shift:.6g}", f"{units.of(0).scale:.6g}"]]
    places = facts.shape[units.axis]
    names = [column.name for column in numbers_in(facts.names.columns, places)]
    rows = []
    for place, name in enumerate(names[: MOST_ROWS + 1]):
        one = units.of(place)
        ends = one.quantiles.values if one.quantiles else ()
        texts = [f"{ends[0]:.6g}", f"to {ends[-1]:.6g}, by quantiles"] if ends else []
        rows.append([name, *(texts or [f"{one.shift:.6g}", f"{one.scale:.6g}"])])
    return shorten(rows, places)


def shorten(rows: list[list[str]], total: int | None = None) -> list[list[str]]:
    """The rows that fit, and one that says how many more there are."""
    total = len(rows) if total is None else total
    if total <= MOST_ROWS:
        return rows
    rest = f"... and {total - MOST_ROWS} more"
    return [*rows[:MOST_ROWS], [rest, *[""] * (len(rows[0]) - 1)]]


def _inputs(contents: Contents) -> list[tuple[str, dict[str, Any]]]:
    return list(contents.to_json()["inputs"].items())


def _meaning(contents: Contents, name: str) -> str:
    """What goes into an input."""
    facts = contents.generator.facts
    if name in ("noise", "renoise"):
        fresh = ", of the steps after the first" if name == "renoise" else ""
        return f"unit normals{fresh}"
    if name == "label":
        none = "; -1 is any class" if contents.to_json()["no_label"] == -1 else ""
        return f"numbers of classes, 0 .. {facts.classes - 1}{none}"
    if name == "mask":
        return "False where a sample has no element"
    return "a part of the condition, in the data's units"


def _draw(contents: Contents, name: str, entry: dict[str, Any], target: str) -> str:
    """An expression for 16 rows of an input."""
    shape = ", ".join(map(str, [16, *entry["shape"][1:]]))
    classes = contents.generator.facts.classes
    if target == "onnx":
        if entry["dtype"] == "float32" and name in ("noise", "renoise"):
            return f"source.standard_normal(({shape}), dtype=np.float32)"
        if name == "label":
            return f"np.arange(16) % {classes}"
        fill = "ones" if entry["dtype"] == "bool" else "zeros"
        return f'np.{fill}(({shape},), dtype="{entry["dtype"]}")'
    if name in ("noise", "renoise"):
        return f"torch.randn({shape})"
    if name == "label":
        return f"torch.arange(16) % {classes}"
    fill = "ones" if entry["dtype"] == "bool" else "zeros"
    return f"torch.{fill}({shape}, dtype=torch.{entry['dtype']})"
