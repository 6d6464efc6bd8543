"""The whole generator as one ONNX graph."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from fewstep.base import disk
from fewstep.base.errors import UserError
from fewstep.export.contents import OUTPUT, Contents, Inputs
from fewstep.export.graph import quiet_tracing, refusal

NAME = "generator.onnx"
_SMALL = 64  # bytes of a constant that may stand several times
MOST = 2**31 - 2**20  # bytes of a protobuf message, with room for the graph


class OnnxFile:
    """A file in onnxruntime: `inputs -> samples`."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(path.read_bytes(), providers=providers)

    def __call__(self, inputs: Inputs) -> Tensor:
        values = {name: value.contiguous().numpy() for name, value in inputs.items()}
        return torch.from_numpy(self.session.run([OUTPUT], values)[0])


def check(contents: Contents) -> None:
    """Raises UserError where a library is missing, or one file has no room for the weights."""
    check_libraries()
    size = contents.weights * (2 if contents.half else 4)
    if size > MOST:
        raise UserError(
            f"{size} bytes of weights: an ONNX file has at most {MOST}: expected --half, or --to"
            " torch or safetensors"
        )


def write(contents: Contents, folder: Path) -> OnnxFile:
    """Writes `NAME`, and opens it again. Raises UserError where the graph has no such form."""
    check(contents)
    about = contents.to_json()
    name = contents.generator.run.network
    disk.write(folder / NAME, onnx_bytes(contents.program, list(about["inputs"]), about, name))
    return OnnxFile(folder / NAME)


def onnx_bytes(
    program: ExportedProgram, inputs: Sequence[str], about: Mapping[str, Any], network: str
) -> bytes:
    """A graph as an ONNX file; about: JSON that it carries. Raises UserError."""
    check_libraries()
    model = _convert(program, inputs, network)
    _strip(model)
    _shorten(model.graph)
    _name_batch(model)
    note = model.metadata_props.add()
    note.key, note.value = "fewstep", json.dumps(about)
    result: bytes = model.SerializeToString(deterministic=True)
    return result


def check_libraries() -> None:
    """Raises UserError where one is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError("ONNX needs onnx and others: pip install 'fewstep[onnx]'") from None


def _convert(program: ExportedProgram, inputs: Sequence[str], network: str) -> Any:
    """The graph as onnx.ModelProto. Raises UserError."""
    try:
        with quiet_tracing():
            result = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=list(inputs),
                output_names=[OUTPUT],
                opset_version=20,
            )
    except Exception as error:  # torch.onnx's own, of many kinds
        what = f"the network {network!r} has no ONNX form"
        raise refusal(what, error) from error
    assert result is not None
    return result.model_proto


def _strip(model: Any) -> None:
    """Removes all notes: the exporter's name files of this machine, and take much room."""
    for graph in (model.graph, *model.functions):
        _strip_graph(graph)
    del model.metadata_props[:]
    model.ClearField("doc_string")


def _strip_graph(graph: Any) -> None:
    del graph.value_info[:]  # a reader infers them
    parts: list[Iterable[Any]] = [[graph], graph.node, graph.input, graph.output]
    parts.append(getattr(graph, "initializer", ()))  # a function has none
    for part in (one for group in parts for one in group):
        part.ClearField("doc_string")
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            for inside in (attribute.g, *attribute.graphs):
                if inside.node:
                    _strip_graph(inside)


def _shorten(graph: Any) -> None:
    """Numbers what nodes give, and merges equal numbers: names are most of a small file."""
    values = {entry.name for entry in (*graph.input, *graph.output)}
    short: dict[str, str] = {}
    names: dict[bytes, str] = {}
    for entry in list(graph.initializer):
        if len(entry.raw_data) > _SMALL:
            continue
        name, entry.name = entry.name, ""
        content = entry.SerializeToString(deterministic=True)
        if content in names:
            graph.initializer.remove(entry)
        entry.name = short[name] = names.setdefault(content, f"c{len(names)}")
    for node in graph.node:
        for name in node.output:
            if name not in values:
                short[name] = f"v{len(short)}"
    _rename(graph, short)


def _rename(graph: Any, short: Mapping[str, str]) -> None:
    """Gives values their short names, also inside the graphs of nodes."""
    for node in graph.node:
        node.ClearField("name")
        node.input[:] = [short.get(name, name) for name in node.input]
        node.output[:] = [short.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for inside in (attribute.g, *attribute.graphs):
                if inside.node:
                    _rename(inside, short)


def _name_batch(model: Any) -> None:
    """Calls the axis of samples `batch` in inputs and output."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
