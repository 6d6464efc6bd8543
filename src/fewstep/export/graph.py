"""The k-step generator as one module of tensors, whose times are constants, and its trace."""

from __future__ import annotations

import copy
import inspect
import keyword
import logging
import warnings
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.func import functional_call

from fewstep.base.conditions import DTYPES, LABELS, Cond, Kind, apply_mask, kinds
from fewstep.base.errors import UserError
from fewstep.base.surroundings import surroundings
from fewstep.core.denoiser import Preconditioned, Truncated
from fewstep.export.scheme import (
    ANSWER,
    NOISE,
    Combination,
    Scheme,
    X,
    check_linear,
    vectors_of_past,
)
from fewstep.export.units import ToModel, ToUser
from fewstep.run.generator import Generator

# Share of the numbers, and as many more, that half precision leaves as they are: the smallest
# weights are a few hundredths of all, and rounding them costs a third of the accuracy.
SHARE, MORE = 0.05, 10_000
Shapes = dict[str, tuple[torch.dtype, tuple[int, ...]]]

EVALUATION = "evaluation"  # note at a node: the number of the evaluation, and its network's name
# Names that mean something else in a graph or in the Python that is written of it.
_TAKEN = "noise renoise sample w x level end rows network low high aten torch json load self"
_FEW = 2  # rows of the example that is traced


class KSteps(nn.Module):
    """Unit noise and conditions in the user's units -> samples in the data's units.

    forward(noise `[B, *shape]`, renoise `[B, draws, *shape]` where steps take fresh noise, and each
    part of the condition by its name), see `input_shapes`. Nothing in it is random. Each evaluation
    is D(x, t) = skip x + out F(in x, label, cond) with the coefficients of its time as numbers, as
    `Preconditioned` has them.
    """

    def __init__(self, generator: Generator, scheme: Scheme, half: bool = False) -> None:
        super().__init__()
        facts = generator.facts
        self.scheme = scheme
        self.kind = facts.cond
        self.names = list(input_shapes(generator, scheme))
        self.coefficients = [coefficients_at(generator.denoiser, t) for t in scheme.times]
        pairs = zip(scheme.times, scheme.ends, strict=True)
        self.ends = [ends_of(generator, t, to) for t, to in pairs]
        self.uses = [_name_at(generator.denoiser, t) for t in scheme.times]
        self.networks: dict[str, nn.Module] = {}
        for name, network in networks_of(generator.denoiser, scheme).items():
            self.networks[name] = copy.deepcopy(network).cpu().requires_grad_(False).eval()
            self.add_module(name, self.networks[name])
        self.dtypes = {name: _dtypes(network) for name, network in self.networks.items()}
        if half:
            _halve(self)
        self.to_user = ToUser(facts.units, len(facts.shape) + 1)
        parts = dict(kinds(facts.cond))
        self.to_model = nn.ModuleDict(
            {
                _input_name(parts[name], name): ToModel(units, len(_shape(parts[name])) + 1)
                for name, units in facts.cond_units.items()
            }
        )
        self.forward = with_names(self.run, self.names)

    def run(self, **inputs: Tensor) -> Tensor:
        """The samples; what `forward` is, whose arguments have the names of the inputs."""
        cond = self.condition(self.kind, inputs)
        noise = apply_mask(inputs["noise"], cond)
        fresh = [apply_mask(inputs["renoise"][:, i], cond) for i in range(len(self.scheme.noisy))]
        weights = {name: at_least_float32(one) for name, one in self.networks.items()}
        draws, number = iter(fresh), 0
        x = self.scheme.start * noise
        past: list[tuple[Tensor, Tensor]] = []
        for step in self.scheme.steps:
            vectors = {X: x, **vectors_of_past(past)}
            if step.is_noisy:
                vectors[NOISE] = next(draws)
            for place, ask in enumerate(step.asks):
                point = combine(ask.point, vectors)
                vectors[f"{ANSWER} {place}"] = self.denoise(number, point, cond, weights)
                number += 1
            x = combine(step.result, vectors)
            if step.memory is not None:
                start, answer = (combine(part, vectors) for part in step.memory)
                past.append((start, answer))
        return apply_mask(self.to_user(x), cond)

    def denoise(
        self, number: int, x: Tensor, cond: Cond, weights: dict[str, dict[str, Tensor]]
    ) -> Tensor:
        """x0_hat of the evaluation of that number."""
        skip, out, in_, label = self.coefficients[number]
        name = self.uses[number]
        dtype, label_dtype = self.dtypes[name]
        labels = x.new_full((x.shape[0],), label, dtype=label_dtype)
        arguments = ((in_ * x).to(dtype), labels, cond)
        end = [x.new_full((x.shape[0], 1), value, dtype=label_dtype) for value in self.ends[number]]
        more = {"end": torch.cat(end, 1)} if end else {}
        raw = functional_call(self.networks[name], weights[name], arguments, more)
        return apply_mask(skip * x + out * raw.to(x.dtype), cond)

    def condition(self, kind: Kind, inputs: Mapping[str, Tensor], name: str = "") -> Cond:
        """The condition in the model's units, in the form that the network knows."""
        if isinstance(kind, Mapping):
            parts = {key: f"{name}.{key}" if name else key for key in kind}
            return {key: self.condition(kind[key], inputs, parts[key]) for key in kind}
        if kind is None:
            return None
        word = _input_name(kind, name)
        return self.to_model[word](inputs[word]) if word in self.to_model else inputs[word]


def combine(combination: Combination, vectors: Mapping[str, Tensor]) -> Tensor:
    """The sum of factor * vector."""
    terms = [vectors[k] if factor == 1 else factor * vectors[k] for k, factor in combination]
    if not terms:
        return torch.zeros_like(vectors[X])
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def input_shapes(generator: Generator, scheme: Scheme) -> Shapes:
    """The type of each input and its shape without the axis of samples, by name, in their order."""
    facts = generator.facts
    result: Shapes = {"noise": (torch.float32, facts.shape)}
    if scheme.noisy:
        result["renoise"] = (torch.float32, (len(scheme.noisy), *facts.shape))
    return result | condition_shapes(generator, result)


def condition_shapes(generator: Generator, others: Container[str]) -> Shapes:
    """The inputs of the condition's parts; others: the names of inputs beside them."""
    result: Shapes = {}
    for name, kind in kinds(generator.facts.cond):
        dtype = torch.int64 if kind == LABELS else DTYPES[kind[0]]  # type: ignore[index]
        word = _input_name(kind, name)
        if word in others or word in result:
            raise UserError(f"a condition of the name {name!r}: expected none like another input's")
        result[word] = (dtype, _shape(kind))
    return result


@surroundings()
def trace(generator: Generator, scheme: Scheme, half: bool = False) -> ExportedProgram:
    """The generator as a graph of torch's operators, for any number of samples.

    half: large weights are stored in float16, and computed with in float32. Raises UserError for a
    network that cannot be traced.
    """
    check_linear(scheme)
    module = KSteps(generator, scheme, half)
    name = generator.run.network
    return trace_module(module, input_shapes(generator, scheme), module.networks, name)


def trace_module(
    module: nn.Module, shapes: Shapes, networks: Container[str], name: str
) -> ExportedProgram:
    """The graph of a module for any number of rows of these inputs.

    networks: the names of those inside; name: what messages call them. Raises UserError.
    """
    example = {
        name: torch.zeros(_FEW, *shape, dtype=dtype) for name, (dtype, shape) in shapes.items()
    }
    rows = Dim("batch")
    sizes = {name: {0: rows} for name in example}
    failure: Exception | None = None
    for strict in (False, True):  # the second reads Python itself: it sees len(x) as a variable
        try:
            with quiet_tracing():
                program = torch.export.export(
                    module, (), example, dynamic_shapes=sizes, strict=strict
                )
            return without_traces(program, networks)
        except Exception as error:  # of torch, or of the user's own network
            failure = failure or error
    raise refusal(f"the network {name!r} cannot be traced", failure)


def refusal(what: str, error: Exception | None) -> UserError:
    """The error for a network that has no such form, with the first line of torch's reason."""
    reason = str(error).strip().partition("\n")[0]
    return UserError(
        f"{what}: {type(error).__name__}: {reason}; expected operators of torch whose shapes alone"
        " depend on the number of samples"
    )


def without_traces(program: ExportedProgram, networks: Container[str]) -> ExportedProgram:
    """The program without the places in files that its operators come from.

    Nodes of an evaluation of a network keep a note of its number.
    """
    numbers: dict[str, int] = {}
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in list(module.graph.nodes):
                for key, (path, _) in node.meta.pop("nn_module_stack", {}).items():
                    name = path.removeprefix("L['self'].").partition("@")[0]
                    if name in networks:
                        number = numbers.setdefault(key, len(numbers))
                        node.meta[EVALUATION] = (number, name)
                for key in ("stack_trace", "from_node", "source_fn_stack"):
                    node.meta.pop(key, None)
                if node.target is torch.ops.aten._assert_tensor_metadata.default:
                    module.graph.erase_node(node)
            module.recompile()
    return program


@contextmanager
def quiet_tracing() -> Iterator[None]:
    """Inside, torch says nothing of its own deprecations and of libraries that are not here."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export")]
    before = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)


def networks_of(denoiser: nn.Module, scheme: Scheme) -> dict[str, nn.Module]:
    """The networks that answer at the times of a scheme, by name. Raises UserError."""
    uses = {_name_at(denoiser, t) for t in scheme.times}
    return {name: part.network for name, part in _parts(denoiser).items() if name in uses}


def _parts(denoiser: nn.Module) -> dict[str, Preconditioned]:
    """The networks that a denoiser consists of. Raises UserError for one of another kind."""
    parts: dict[str, Any] = {"network": denoiser}
    if isinstance(denoiser, Truncated):
        parts = {"low": denoiser.low, "high": denoiser.high}
    for part in parts.values():
        if not isinstance(part, Preconditioned):
            raise UserError(
                f"a denoiser of type {type(part).__name__}: expected a network under a"
                " preconditioning, as runs have it"
            )
    return parts


def _name_at(denoiser: nn.Module, t: float) -> str:
    """Which of the denoiser's networks answers at that time."""
    if isinstance(denoiser, Truncated):
        return "high" if t >= denoiser.t_prime else "low"
    return "network"


def coefficients_at(denoiser: nn.Module, t: float) -> tuple[float, float, float, float]:
    """skip, out, in and noise label at that time, in float64."""
    part = _parts(denoiser)[_name_at(denoiser, t)]
    c = part.scaling(part.process, torch.tensor([t], dtype=torch.float64))
    skip, out, in_, label = (float(value.reshape(-1)[0]) for value in c)
    return skip, out, in_, label


def ends_of(generator: Generator, t: float, to: float | None) -> list[float]:
    """What the network is told of where its answer leads, in float64; of one time nothing."""
    denoiser = generator.denoiser
    part = _parts(denoiser)[_name_at(denoiser, t)]
    if to is None or not part.ends:
        return []
    end = part.end(torch.tensor([t], dtype=torch.float64), to)
    assert end is not None
    numbers: list[float] = end[0].tolist()
    return numbers if generator.instruction is None else [numbers[0], *generator.instruction]


def _dtypes(network: nn.Module) -> tuple[torch.dtype, torch.dtype]:
    """What a network computes in, and what its noise label has, as in `Preconditioned`."""
    dtype = next((weight.dtype for weight in network.parameters()), torch.float32)
    return dtype, torch.promote_types(dtype, torch.float32)


def _halve(module: nn.Module) -> None:
    """Rounds all but the smallest weights to float16. Raises UserError for one beyond its range."""
    weights = sorted(module.named_parameters(), key=lambda pair: pair[1].numel())
    rest = SHARE * sum(weight.numel() for _, weight in weights) + MORE
    for name, weight in weights:
        rest -= weight.numel()
        if rest >= 0 or weight.dtype != torch.float32:
            continue
        small = weight.data.half()
        if not bool(small.isfinite().all()):
            raise UserError(f"the weight {name} is beyond float16's range: leave out --half")
        weight.data = small


def at_least_float32(network: nn.Module) -> dict[str, Tensor]:
    """The network's weights, those in half precision as float32."""
    parameters = network.named_parameters()
    return {k: w.float() if w.dtype == torch.float16 else w for k, w in parameters}


def with_names(run: Any, names: list[str]) -> Any:
    """run(**inputs) as a function of arguments of these names, which the trace keeps."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD

    def forward(*args: Tensor, **inputs: Tensor) -> Tensor:
        return run(**dict(zip(names, args, strict=False)), **inputs)

    forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind) for name in names]
    )
    return forward


def _shape(kind: Kind) -> tuple[int, ...]:
    """The shape of a row of that kind."""
    return tuple(kind[1]) if isinstance(kind, list) else ()


def _input_name(kind: Kind, name: str) -> str:
    """What the input of a condition's part is called; a sole part has no name of its own."""
    return _word(name) or ("label" if kind == LABELS else "features")


def _word(name: str) -> str:
    """The name as a word of Python that nothing else has."""
    word = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
    if word[:1].isdigit() or keyword.iskeyword(word) or word in _TAKEN.split():
        return f"part_{word}"
    return word
