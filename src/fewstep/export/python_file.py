"""The generator as a folder of weights and readable Python, which needs torch alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import indent

import torch
from torch import Tensor

from fewstep.base import disk, tensor_file
from fewstep.base.errors import UserError
from fewstep.export import words
from fewstep.export.contents import Contents, Inputs
from fewstep.export.python_code import functions_of, tensors_of
from fewstep.run.checkpoint.format import serialise

WEIGHTS, CODE = "weights.safetensors", "generator.py"

LOADER = '''\
def load(path, device="cpu"):
    """The tensors of a safetensors file by name: a size, a header in JSON, the numbers."""
    kinds = {
        "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
        "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool,
    }
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        content = bytearray(file.read())
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        first, end = entry["data_offsets"]
        numbers = torch.frombuffer(content[first:end], dtype=kinds[entry["dtype"]])
        tensors[name] = numbers.reshape(entry["shape"]).to(device)
    return tensors
'''

_HEAD = '''\
"""{title}.

{example}

{inputs}
"""

import json

import torch

aten = torch.ops.aten


{loader}

{functions}'''

# Reads the inputs' file, and writes the samples' numbers as they lie in memory.
_TRIAL = """\
import sys

sys.modules["fewstep"] = None
sys.path.insert(0, sys.argv[1])
import torch
from generator import load, sample

torch.set_num_threads(int(sys.argv[3]))
x = sample(load(sys.argv[1] + "/weights.safetensors"), **load(sys.argv[2]))
sys.stdout.buffer.write(x.contiguous().numpy().tobytes())
"""


class PythonFolder:
    """A folder, run by a fresh interpreter in which this package cannot be imported."""

    def __init__(self, folder: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        self.folder, self.dtype, self.shape = folder, dtype, shape

    def __call__(self, inputs: Inputs) -> Tensor:
        """The samples. Raises UserError where the code fails."""
        file = disk.temporary(self.folder / "inputs.safetensors")
        file.write_bytes(serialise(inputs))
        arguments = [str(self.folder), str(file), str(torch.get_num_threads())]
        try:
            result = subprocess.run(
                [sys.executable, "-I", "-B", "-c", _TRIAL, *arguments],
                capture_output=True,
                check=False,
            )
        finally:
            file.unlink()
        if result.returncode:
            reason = result.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise UserError(f"{CODE} fails: {reason}; expected operators that torch has anywhere")
        numbers = torch.frombuffer(bytearray(result.stdout), dtype=self.dtype)
        return numbers.reshape(-1, *self.shape)


def write(contents: Contents, folder: Path) -> PythonFolder:
    """Writes weights and code. Raises UserError for a graph that Python cannot say."""
    program = contents.program
    tensors = tensors_of(program)
    disk.write(folder / WEIGHTS, serialise(tensors))
    disk.write(folder / CODE, code_of(contents).encode())
    output = contents.to_json()["output"]
    dtype = tensor_file.DTYPES["F64" if output["dtype"] == "float64" else "F32"]
    return PythonFolder(folder, dtype, contents.generator.facts.shape)


def code_of(contents: Contents) -> str:
    """The text of the code."""
    about = contents.to_json()
    return _HEAD.format(
        title=_harmless(words.title(contents)),
        example=indent(words.python_example(contents), "    "),
        inputs=words.inputs_text(contents),
        loader=LOADER,
        functions=functions_of(contents.program, list(about["inputs"])),
    )


def _harmless(text: str) -> str:
    """The text for a docstring: a run's file may hold any, and could end the string there."""
    return "".join(c for c in text if c.isascii() and c.isprintable() and c not in '\\"')
