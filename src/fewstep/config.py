"""A run is a value: one frozen dataclass that prints, compares, and survives JSON. Needs no torch."""

from __future__ import annotations

import inspect
import json
import math
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from fewstep.errors import StorageError, UserError, require, shown, unknown
from fewstep.schedules import profile

Options = dict[str, Any]
Base = str | Options | Any  # a method that another is built on: its name, {"method": name, **options}, or itself

MOST_COUNT = 2**31  # iterations, samples of a batch and other counts are below
MOST_OPTION = 10**6  # integers in options: they say how many levels, layers or channels are made
MOST_DEEP, MOST_ITEMS = 8, 1000  # levels and entries of options
MOST_TEXT = 4096  # characters of a name or path
MOST_THREADS = 1024
MOST_BYTES = 2**20  # of run.json


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that decides the weights a run ends with, on one kind of machine."""

    recipe: str
    """Name of the recipe."""
    method: str = "ect"
    """Name of the method."""
    method_options: Options = field(default_factory=dict)
    """The method's options where they differ from its defaults."""
    network: str = "mlp"
    """Name of the network."""
    network_options: Options = field(default_factory=dict)
    """The network's options where they differ from its defaults."""
    data: str = "digits"
    """digits, ring8, grid25, spiral, glyphs, glyphs64, or PATH: .npy, .npz, .safetensors, .parquet, a folder or zip of
    pictures, hf:NAME or exact:NAME."""
    data_size: int | None = None
    """Crop the pictures of PATH to their middle square and resize it to this side; None takes them as they are."""
    bad_files: Literal["fail", "skip"] = "fail"
    """Of pictures that cannot be read: fail names the first; skip leaves out up to 0.1 %, counted and listed."""
    labels: bool = True
    """Use the classes of the data; False trains on the samples alone."""
    label_drop: float = 0.0
    """Share of the samples that are trained on without their label, so that cond=-1 asks for any class."""
    sigma_data: float | None = None
    """Standard deviation of the data for the preconditioning; None measures the training split."""
    seed: int = 0
    """Every random number of the run follows from it."""
    iterations: int = 4000
    """Optimizer steps in all; schedules are functions of step / iterations."""
    batch: int = 256
    """Samples of a step."""
    accumulate: int = 1
    """Parts that a batch is cut in to save memory: the gradient is the whole batch's."""
    elastic_exact: int = 0
    """0, or a power of 2: parts of a batch whose gradients are added in a fixed order, so that any number of processes
    that divides it ends with the same bits; `accumulate` then counts for nothing."""
    block: int = 32
    """Samples whose randomness is drawn at once; divides batch."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the networks' passes while training; weights, losses and sampling stay in fp32."""
    optimizer: Literal["adam", "adamw", "radam", "lion"] = "adam"
    """Name of the optimizer; lion wants a learning rate 3 to 10 times lower than the others."""
    lr: float = 2e-3
    """Learning rate at its peak."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of the optimizer's moments."""
    weight_decay: float = 0.0
    """Pull of the weights to 0: part of the gradient in adam and radam, apart from it in adamw and lion."""
    warmup: float = 0.02
    """Share of the run over which the learning rate rises from 0."""
    constant: float = 0.3
    """Share of the run after which it falls."""
    decay: Literal["cosine", "inverse_sqrt"] = "cosine"
    """How it falls: as a cosine to `final`, or as 1 / sqrt(progress / constant)."""
    final: float = 0.02
    """Learning rate at the end of the cosine, as a share of the peak."""
    clip: float = 10.0
    """Largest norm of the gradient; longer ones are scaled down."""
    ema: float = 0.999
    """Share of the weights' average that a step keeps."""
    averages: tuple[str, ...] = ()
    """More averages: decay:0.9993, halflife:500000 (samples), power:0.05 (standard deviation over time)."""
    snapshot_every: int = 0
    """Steps between snapshots of the power averages, from which others are reconstructed; 0 keeps none."""
    init: str | None = None
    """Initial weights: a run folder, checkpoint folder, shipped name or .safetensors file."""
    teacher: str | None = None
    """Teacher of a method that learns from one: like init, or exact:NAME."""
    stage: Literal[1, 2] | None = None
    """Where a method of two stages starts; None: at 2 where init is a consistency model, else at 1."""
    split: float = 0.5
    """Share of the iterations that the first stage of two gets."""
    stage_lr: float = 1.0
    """Factor of the learning rate in the second stage."""
    lr_clock: Literal["run", "stage"] = "run"
    """What the learning rate's schedule goes over: the whole run, or each of two stages anew."""
    age: int | None = None
    """Steps that averages and learning rate count from; None: those of a first stage given as init, else 0."""
    middle_times: tuple[float, ...] | None = None
    """Noise levels of the later steps when sampling in as many steps and one more; None: the method's own."""
    threads: int = 1
    """CPU threads of an operation: another number gives other last bits."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl."""
    picture_every: int = 1000
    """Steps between picture grids; 0 draws only the last."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; the last step always makes one."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for name in (f.name for f in fields(Run)):
            object.__setattr__(self, name, _typed(name, getattr(self, name), hints[name]))
        for kind in ("method", "network"):
            if isinstance(options := getattr(self, f"{kind}_options"), dict):  # the command line's are dataclasses
                _plain(kind, options)
        names = [profile(text).name for text in self.averages]
        checks = {
            "iterations": (0 < self.iterations < MOST_COUNT, "at least 1, below 2^31"),
            "block": (0 < self.block < MOST_COUNT, "at least 1, below 2^31"),
            "batch": (
                self.block > 0 and 0 < self.batch < MOST_COUNT and self.batch % self.block == 0,
                f"a multiple of block={self.block}, below 2^31",
            ),
            "accumulate": (
                self.accumulate > 0 and self.batch % max(1, self.block * self.accumulate) == 0,
                f"a number that cuts batch={self.batch} in equal parts of whole blocks of {self.block}",
            ),
            "elastic_exact": (
                self.elastic_exact in (0, *_powers(self.batch))
                and self.batch % (self.block * self.elastic_exact or 1) == 0,
                f"0, or a power of 2 that cuts batch={self.batch} in equal parts of whole blocks of {self.block}",
            ),
            "seed": (0 <= self.seed < 2**63, "in 0 .. 2^63 - 1"),
            "lr": (0 < self.lr < float("inf"), "above 0"),
            "warmup": (0 <= self.warmup <= self.constant, f"in 0 .. constant={self.constant}"),
            "constant": (0 <= self.constant <= 1, "a share in 0 .. 1"),
            "final": (0 <= self.final <= 1, "a factor in 0 .. 1"),
            "clip": (0 < self.clip < float("inf"), "above 0"),
            "ema": (0 <= self.ema < 1, "in 0 .. 1, below 1"),
            "sigma_data": (self.sigma_data is None or 0 < self.sigma_data < float("inf"), "above 0"),
            "weight_decay": (0 <= self.weight_decay < float("inf"), "0 or more"),
            "decay": (self.decay == "cosine" or self.constant > 0, "cosine where constant = 0"),
            "averages": (len(set(names)) == len(names), "each of them once"),
            "snapshot_every": (
                self.snapshot_every == 0 or (self.snapshot_every > 0 and any(n.startswith("power") for n in names)),
                "0, or more where averages has a power:STD to keep",
            ),
            "data_size": (self.data_size is None or 0 < self.data_size <= 2**15, "in 1 .. 32768"),
            "label_drop": (0 <= self.label_drop <= 1, "a share in 0 .. 1"),
            "betas": (all(0 <= b < 1 for b in self.betas), "in 0 .. 1, below 1"),
            "split": (0 <= self.split <= 1, "a share in 0 .. 1"),
            "stage_lr": (0 < self.stage_lr < float("inf"), "above 0"),
            "age": (self.age is None or 0 <= self.age < MOST_COUNT, "0 or more, below 2^31"),
            "middle_times": (
                all(a > b for a, b in pairwise((*(self.middle_times or ()), 0.0))),
                "decreasing and above 0",
            ),
            "threads": (0 < self.threads <= MOST_THREADS, f"in 1 .. {MOST_THREADS}"),
            "log_every": (0 < self.log_every < MOST_COUNT, "at least 1, below 2^31"),
            "picture_every": (0 <= self.picture_every < MOST_COUNT, "0 or more, below 2^31"),
            "checkpoint_every": (0 < self.checkpoint_every < MOST_COUNT, "at least 1, below 2^31"),
        }
        for name, (fine, expected) in checks.items():
            require(fine, name, getattr(self, name), expected)

    def to_json(self) -> dict[str, Any]:
        """The run as JSON's own types."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


def run_from_json(values: Any) -> Run:
    """The run that `Run.to_json` gave; unknown keys and wrong types are a UserError that names them."""
    if not isinstance(values, dict) or "recipe" not in values:
        raise UserError(f"a run is stored as a JSON object with its recipe: got {shown(values)}")
    return Run(**_known(values))


def read_run(path: Path) -> Run:
    """The run in a run.json. Raises StorageError where it cannot be read, UserError where it holds no run."""
    from fewstep.untrusted import document  # which needs torch

    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error
    return run_from_json(document(content, path, MOST_BYTES))


def changed(run: Run, values: dict[str, Any]) -> Run:
    """The run with other fields; a name it does not have is a UserError with the nearest one."""
    return replace(run, **_known(values))


def _powers(most: int) -> list[int]:
    """The powers of 2 up to a number."""
    return [2**k for k in range(max(most, 0).bit_length())]


def _known(values: dict[str, Any]) -> dict[str, Any]:
    known = {f.name for f in fields(Run)}
    for name in values:
        if name not in known:
            raise unknown("field of a run", name, known)
    return values


def _typed(name: str, value: Any, kind: Any) -> Any:
    """The value as the declared type: lists to tuples, integers to floats; anything else must match."""
    origin = typing.get_origin(kind) or kind
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _typed(name, value, typing.get_args(kind)[0])
    if origin is typing.Literal:
        if not any(type(value) is type(one) and value == one for one in typing.get_args(kind)):
            raise unknown(name, value, map(str, typing.get_args(kind)))
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return _listed(name, value, typing.get_args(kind))
    if origin is float and type(value) is int and abs(value) < 2**63:
        return float(value)
    if type(value) is not origin:
        raise UserError(f"{name} = {shown(value)}: expected {getattr(kind, '__name__', kind)}")
    return _within(name, value)


def _listed(name: str, values: list[Any] | tuple[Any, ...], kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values as a tuple of their declared type and number."""
    if kinds[-1] is not ... and len(values) != len(kinds):
        raise UserError(f"{name} = {shown(values)}: expected {len(kinds)} numbers")
    require(len(values) <= MOST_ITEMS, f"entries of {name}", len(values), f"at most {MOST_ITEMS}")
    return tuple(_typed(name, item, kinds[0]) for item in values)


def _within(name: str, value: Any) -> Any:
    """The value, unless it is one that JSON, a file's name or a counter could not hold."""
    if type(value) is float:
        require(math.isfinite(value), name, value, "a finite number")
    if type(value) is int:
        require(abs(value) < 2**63, name, value, "a whole number below 2^63")
    if type(value) is str:
        fine = len(value) <= MOST_TEXT and not any(c < " " or c == "\x7f" for c in value)
        require(fine, name, value, f"a text of at most {MOST_TEXT} characters, none of them a control character")
    return value


def _plain(path: str, value: Any) -> None:
    """Refuses options that JSON could not hold, or that are too many or too deep for any method or network."""
    stack, seen = [(path, value, 0)], 0
    while stack:
        path, value, depth = stack.pop()
        seen += 1
        if depth > MOST_DEEP or seen > MOST_ITEMS:
            raise UserError(f"{path[:80]}: expected options of at most {MOST_DEEP} levels and {MOST_ITEMS} entries")
        if isinstance(value, dict):
            for key in value:
                require(isinstance(key, str), f"a name in {path}", key, "a text")
            stack += [(f"{path}.{_within(f'a name in {path}', key)}", item, depth + 1) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            stack += [(path, item, depth + 1) for item in value]
        elif value is not None and type(value) not in (bool, int, float, str):
            raise UserError(f"{path} = {shown(value)}: expected a number, a text, a list or a dict of them")
        else:
            _within(path, value)


def options_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters of a method or network: what a run may set of it.

    Without sigma_data, whose home is the run's own field of that name.
    """
    parameters = inspect.signature(function).parameters
    return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY and name != "sigma_data"}


def kind_of(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The declared type of an option, also where its file postpones annotations; else that of its default."""
    if parameter.annotation is parameter.empty:
        return type(parameter.default)
    one = SimpleNamespace(__annotations__={"option": parameter.annotation})
    return typing.get_type_hints(one, vars(sys.modules[function.__module__]))["option"]


def names_of(module: types.ModuleType) -> dict[str, Callable[..., Any]]:
    """The public functions that a module, or a package's files, define: the closed registry behind a name in a run."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and f"{value.__module__}.".startswith(f"{module.__name__}.") and name[0] != "_"
    }


def choose(kind: str, module: types.ModuleType, name: str) -> Callable[..., Any]:
    """The function of that name, of those a module defines."""
    known = names_of(module)
    if name not in known:
        raise unknown(kind, name, known)
    return known[name]


def checked_options(kind: str, function: Callable[..., Any], options: Options, path: str | None = None) -> Options:
    """All options of a method or network, defaults filled in; unknown names and wrong types are a UserError.

    path: how they are named, such as method or method.base; as a rule the kind.
    """
    known, path = options_of(function), kind if path is None else path
    for name in options:
        if name not in known:
            within = "" if path == kind else f" in {path}"
            raise unknown(f"option of {kind} {function.__name__}{within}", name, known)
    for name, p in known.items():
        require(p.default is not p.empty, f"option {name}", None, f"a default in the signature of {function.__name__}")
    return {
        name: _option(kind, function, p, options.get(name, p.default), f"{path}.{name}") for name, p in known.items()
    }


def _option(kind: str, function: Callable[..., Any], parameter: inspect.Parameter, value: Any, path: str) -> Any:
    """One option's checked value; of a base its own options, all of them."""
    wanted = kind_of(function, parameter)
    if wanted != Base:
        found = _typed(path, value, wanted)
        for number in found if isinstance(found, tuple) else (found,):
            require(type(number) is not int or abs(number) <= MOST_OPTION, path, number, f"at most {MOST_OPTION}")
        return found
    name, options = named_base(value, path)
    home = sys.modules[".".join(function.__module__.split(".")[:2])]  # of the function's file, the package
    base = choose(kind, home, name)
    return {"method": name, **checked_options(kind, base, options, path)}


def named_base(base: Any, path: str = "base") -> tuple[str, Options]:
    """The name and the options of a base. Raises UserError."""
    if isinstance(base, str):
        return base, {}
    if not isinstance(base, dict) or not isinstance(base.get("method"), str):
        told = "expected a method's name, or its options with that name as 'method'"
        raise UserError(f"{path} = {shown(base)}: {told}")
    return base["method"], {name: value for name, value in base.items() if name != "method"}
