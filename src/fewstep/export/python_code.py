"""A traced graph as plain Python that needs torch alone.

The network becomes one function, however often the graph evaluates it, as long as each evaluation
does the same; `sample` calls it. A tensor is freed after its last use.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from fewstep.base.errors import UserError
from fewstep.export.graph import EVALUATION

MOST_INDEX = 2**63 - 1  # the end of a slice that has none

SIGNS: dict[Any, str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
    torch.ops.aten.add.Tensor: "+",
    torch.ops.aten.sub.Tensor: "-",
    torch.ops.aten.mul.Tensor: "*",
    torch.ops.aten.div.Tensor: "/",
}
_CHECKS = ("aten._assert", "aten.sym_constrain", "aten._check")  # they compute nothing
_IDENTITIES = ("aten.alias", "aten.detach", "aten.lift_fresh_copy")
_WITHOUT = ("pin_memory", "layout", "non_blocking")  # arguments that say nothing here

Names = dict[fx.Node, str]


def tensors_of(program: ExportedProgram) -> dict[str, Tensor]:
    """The weights and constants that the code reads, by the names that it has for them."""
    result = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind is not InputKind.USER_INPUT and spec.target is not None:
            source = program.state_dict if spec.target in program.state_dict else program.constants
            value = source.get(spec.target)
            if isinstance(value, Tensor):
                result[spec.target] = value.detach()
    return result


def functions_of(program: ExportedProgram, inputs: Sequence[str]) -> str:
    """The functions of the graph; the last is `sample(w, ...)` of inputs with these names.

    Raises UserError for a graph that has another graph inside.
    """
    names = _placeholders(program, inputs)
    parts = _parts(program.graph, names, inputs)
    texts = {number: part.text(part.local) for number, part in parts.items()}
    functions: dict[str, str] = {}
    calls: dict[fx.Node, Part] = {}
    for name in dict.fromkeys(part.name for part in parts.values()):
        own = [number for number, part in parts.items() if part.name == name]
        if len({texts[number] for number in own}) == 1:
            functions[name] = parts[own[0]].function(texts[own[0]])
            calls |= {parts[number].end: parts[number] for number in own}
    inside = {node for part in calls.values() for node in part.nodes} - calls.keys()
    nodes = [node for node in program.graph.nodes if node not in inside]
    body = _body(nodes, names | {node: node.name for node in program.graph.nodes} | names, calls)
    head = f"@torch.no_grad()\ndef sample({', '.join(['w', *inputs])}):"
    return "\n\n\n".join([*functions.values(), f"{head}\n{body}"]) + "\n"


@dataclass(frozen=True)
class Part:
    """The nodes of one evaluation of a network."""

    name: str  # of the network
    nodes: list[fx.Node]
    outside: dict[fx.Node, str]  # what it takes, by the names of its arguments
    end: fx.Node  # what it gives
    globals: Names  # weights and inputs

    @property
    def local(self) -> Names:
        """Names that depend on the place in the evaluation alone."""
        counts: dict[str, int] = {}
        result = self.globals | self.outside
        for node in self.nodes:
            word = _word(node)
            number = counts[word] = counts.get(word, 0) + 1
            result[node] = f"{word}_{number}"
        return result

    def text(self, names: Names) -> str:
        """The body of its function."""
        return f"{_body(self.nodes, names, {})}\n    return {names[_origin(self.end)]}"

    def function(self, body: str) -> str:
        """Its function."""
        return f"def {self.name}({', '.join(['w', *self.outside.values()])}):\n{body}"

    def call(self, names: Names) -> str:
        """The call that stands for its nodes."""
        return f"{self.name}({', '.join(['w', *(names[_origin(n)] for n in self.outside)])})"


def _placeholders(program: ExportedProgram, inputs: Sequence[str]) -> Names:
    """What weights and inputs are called."""
    users = iter(inputs)
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    names = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            spec = specs[node.name]
            is_input = spec.kind is InputKind.USER_INPUT
            names[node] = next(users) if is_input else f"w[{json.dumps(spec.target)}]"
    return names


def _parts(graph: fx.Graph, names: Names, inputs: Sequence[str]) -> dict[int, Part]:
    """The evaluations of networks that give one tensor, by their numbers."""
    groups: dict[int, list[fx.Node]] = {}
    words: dict[int, str] = {}
    for node in graph.nodes:
        if EVALUATION in node.meta and not _is_idle(node):
            number, word = node.meta[EVALUATION]
            groups.setdefault(number, []).append(node)
            words[number] = word
    result = {}
    for number, nodes in groups.items():
        own = set(nodes)
        ends = {
            node for node in nodes for user in _users(node) if user not in own
        }  # what is used outside
        if len(ends) == 1:
            outside = _outside(nodes, names, inputs)
            result[number] = Part(words[number], nodes, outside, ends.pop(), names)
    return result


def _users(node: fx.Node) -> Iterator[fx.Node]:
    """The nodes that read this one, by way of nodes that only stand for it."""
    for user in node.users:
        if _is_identity(user):
            yield from _users(user)
        elif not _is_check(user):
            yield user


def _outside(nodes: Sequence[fx.Node], names: Names, inputs: Sequence[str]) -> dict[fx.Node, str]:
    """What an evaluation takes beside weights, by names for its arguments."""
    own = set(nodes)
    result: dict[fx.Node, str] = {}
    for node in nodes:
        for part in map(_origin, node.all_input_nodes):
            if part in own or part in result or names.get(part, "").startswith("w["):
                continue
            value = part.meta.get("val")
            word = "rows" if not isinstance(value, Tensor) else "x" if value.ndim > 1 else "level"
            others = {*result.values(), *inputs}
            while part not in names and word in others:
                word += "_"
            result[part] = names.get(part, word)
    return result


def _body(nodes: Sequence[fx.Node], names: Names, calls: Mapping[fx.Node, Part]) -> str:
    """The lines of a function; what it made itself is freed after its last use."""
    reads = {node: _reads(node, calls) for node in nodes if not _is_idle(node)}
    last = {part: node for node, parts in reads.items() for part in parts}
    lines = []
    for node in reads:
        if node.op == "placeholder":
            continue
        if node.op == "output":
            lines.append(f"return {names[reads[node][0]]}")
            continue
        call = calls[node].call(names) if node in calls else _expression(node, names)
        ends = [names[part] for part in reads[node] if last[part] is node and part in reads]
        ends = [name for name in dict.fromkeys(ends) if name.isidentifier()]
        free = f"; del {', '.join(ends)}" if ends and node in last else ""
        lines.append(f"{names[node]} = {call}{free}")
    return "\n".join(f"    {line}" for line in lines)


def _reads(node: fx.Node, calls: Mapping[fx.Node, Part]) -> list[fx.Node]:
    """The nodes whose values a line needs."""
    parts = calls[node].outside if node in calls else node.all_input_nodes
    return [_origin(part) for part in parts]


def _word(node: fx.Node) -> str:
    """What a node computes, as a word of Python."""
    if node.target is operator.getitem:
        return f"{_word(node.args[0])}_part"  # type: ignore[arg-type]
    return str(getattr(node.target, "__name__", node.target)).partition(".")[0].strip("_")


def _origin(node: fx.Node) -> fx.Node:
    while _is_identity(node):
        node = node.args[0]  # type: ignore[assignment]
    return node


def _is_idle(node: fx.Node) -> bool:
    """Whether a node makes no line."""
    return _is_identity(node) or _is_check(node)


def _is_check(node: fx.Node) -> bool:
    return str(node.target).startswith(_CHECKS)


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


def _expression(node: fx.Node, names: Names) -> str:
    """What a node computes. Raises UserError where Python with torch alone cannot say it."""
    args = [_text(value, names) for value in node.args]
    if node.target is operator.getitem:
        return f"{args[0]}[{args[1]}]"
    if node.target in SIGNS and not node.kwargs:
        return f"{args[0]} {SIGNS[node.target]} {args[1]}"
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        raise UserError(
            f"the graph has {str(node.target)[:80]!r}, which is no operator of torch's: expected"
            " --to torch or onnx"
        )
    options = [f"{k}={v}" for k, v in _options(node, names)]
    name = str(node.target).removesuffix(".default")
    return f"{name}({', '.join([*args, *options])})"


def _options(node: fx.Node, names: Names) -> Iterator[tuple[str, str]]:
    """The named arguments; a new tensor is made where the weights are."""
    for key, value in node.kwargs.items():
        if key not in _WITHOUT and value is not None:
            yield key, _text(value, names)


def _text(value: Any, names: Names) -> str:
    """An argument as Python writes it."""
    if isinstance(value, fx.Node):
        return names[_origin(value)]
    if isinstance(value, list | tuple):
        return f"[{', '.join(_text(one, names) for one in value)}]"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, torch.device):
        return "next(iter(w.values())).device"
    return repr(value)
