"""A traced graph as plain Python that needs torch alone."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from fewstep.base.errors import UserError

MOST_INDEX = 2**63 - 1  # the end of a slice that has none

SIGNS: dict[Any, str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.floordiv: "//",
    operator.mod: "%",
}
_CHECKS = ("_assert", "sym_constrain", "_check")  # operators that compute nothing
_IDENTITIES = ("aten.alias", "aten.detach", "aten.lift_fresh_copy")
_WITHOUT = ("pin_memory", "layout", "non_blocking")  # arguments that say nothing here

Namer = Callable[[Any], str]


def tensors_of(program: ExportedProgram) -> dict[str, Tensor]:
    """The weights and constants that the code reads, by the names that it has for them."""
    result = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind is not InputKind.USER_INPUT and spec.target is not None:
            stored = program.state_dict.get(spec.target)
            value = program.constants.get(spec.target) if stored is None else stored
            if isinstance(value, Tensor):
                result[spec.target] = value.detach()
    return result


def function_of(program: ExportedProgram, inputs: list[str]) -> str:
    """The graph as `def sample(w, ...)`, a line for each operator; a tensor is freed after its use.

    inputs: the names of the arguments. Raises UserError for a graph that has another graph inside.
    """
    kinds = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    names: dict[fx.Node, str] = {}
    users = iter(inputs)
    lines = []
    dying = _last_uses(program.graph)
    for node in program.graph.nodes:
        if node.op == "placeholder":
            is_input = kinds[node.name].kind is InputKind.USER_INPUT
            names[node] = next(users) if is_input else f'w["{kinds[node.name].target}"]'
        elif node.op == "output":
            lines.append(f"return {names[node.args[0][0]]}")
        elif _is_identity(node):
            names[node] = names[node.args[0]]
        elif not any(str(node.target).removeprefix("aten.").startswith(c) for c in _CHECKS):
            names[node] = node.name
            ends = [one for one in dying.get(node, ()) if one != node.name]
            free = f"; del {', '.join(ends)}" if ends else ""
            lines.append(f"{node.name} = {_call(node, names)}{free}")
    head = ", ".join(["w", *inputs])
    return "\n".join([f"def sample({head}):", *(f"    {line}" for line in lines)])


def _last_uses(graph: fx.Graph) -> dict[fx.Node, list[str]]:
    """The variables that no node after this one reads; one that stands for another is that one."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        for part in node.all_input_nodes:
            last[_origin(part)] = node
    result: dict[fx.Node, list[str]] = {}
    for part, node in last.items():
        if part.op != "placeholder" and node.op != "output" and not _is_identity(node):
            result.setdefault(node, []).append(part.name)
    return result


def _origin(node: fx.Node) -> fx.Node:
    while _is_identity(node):
        node = node.args[0]  # type: ignore[assignment]
    return node


def _is_identity(node: fx.Node) -> bool:
    """Whether a node gives what it takes: slices of all, casts to the type that is there."""
    target = str(node.target)
    if target.startswith(_IDENTITIES):
        return True
    if target == "aten.slice.Tensor":
        _, _, start, end, *step = (*node.args, *[None] * (4 - len(node.args)))[:5]
        return start in (None, 0) and end in (None, MOST_INDEX) and step in ([], [1])
    if target == "aten.to.dtype" and isinstance(node.args[0], fx.Node):
        return bool(node.args[0].meta["val"].dtype == node.args[1])
    return False


def _call(node: fx.Node, names: dict[fx.Node, str]) -> str:
    """The expression of a node. Raises UserError where Python with torch alone has none."""
    args = [_text(value, names) for value in node.args]
    if node.target is operator.getitem:
        return f"{args[0]}[{args[1]}]"
    if node.target in SIGNS:
        return f"{args[0]} {SIGNS[node.target]} {args[1]}"
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        raise UserError(
            f"the graph has {str(node.target)[:80]!r}, which is no operator of torch's: expected"
            " --to torch or onnx"
        )
    options = [f"{k}={v}" for k, v in _options(node, names)]
    name = str(node.target).removesuffix(".default")
    return f"{name}({', '.join([*args, *options])})"


def _options(node: fx.Node, names: dict[fx.Node, str]) -> Iterator[tuple[str, str]]:
    """The named arguments; a new tensor is made where the noise is."""
    for key, value in node.kwargs.items():
        if key == "device":
            yield key, "noise.device"
        elif key not in _WITHOUT and value is not None:
            yield key, _text(value, names)


def _text(value: Any, names: dict[fx.Node, str]) -> str:
    """An argument as Python writes it."""
    if isinstance(value, fx.Node):
        return names[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(_text(one, names) for one in value)}]"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, torch.device):
        return "noise.device"
    return repr(value)
