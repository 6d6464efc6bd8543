"""The options of `fewstep train`: a run's fields, how it is launched, its method and network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, fields, make_dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import docstring_parser
import tyro
from tyro.constructors import PrimitiveConstructorSpec

from fewstep import methods, networks
from fewstep.base.options import (
    Base,
    Options,
    checked_options,
    choose,
    kind_of,
    names_of,
    options_of,
)
from fewstep.cli.arguments import Option, options_in
from fewstep.cli.help import screen
from fewstep.run.config import OPEN, Run

# Options of a part inside a method, such as '{"width": 128}'.
AS_JSON = PrimitiveConstructorSpec(
    nargs=1,
    metavar="JSON",
    instance_from_str=lambda words: _options_from(words[0]),
    is_instance=lambda value: value is None or isinstance(value, dict),
    str_from_instance=lambda value: [json.dumps(value)],
)
ABOUT = (
    "Train a generator from a recipe. Every setting of a run is an option.\n\n"
    "example: fewstep train digits --out runs/digits --iterations 2000 --method.c 0.03"
)
BY_DATA = "by the data"  # the default of what the data decide
FIRST = (
    *("recipe", "out", "resume", "method", "data", "network", "teacher", "init", "iterations"),
    *("batch", "lr", "seed", "precision", "device", "quiet"),
)
TOPICS = {  # the field of `Launch` at which each topic begins
    "data_size": "data",
    "accumulate": "optimisation",
    "ema": "averages of the weights",
    "stage": "stages and later steps",
    "threads": "processes",
    "log_every": "log, pictures and checkpoints",
    "shard": "processes",
}


@dataclass(frozen=True, kw_only=True)
class Launch(Run):
    """A run, and where and how it is carried out."""

    recipe: Annotated[str, tyro.conf.Positional]
    """A name, or package.module:function. `fewstep recipes` lists them."""
    convention: Annotated[Options, tyro.conf.Suppress, tyro.conf.Fixed] = field(
        default_factory=dict
    )
    out: Path | None = None
    """Run folder; left out, runs/RECIPE-METHOD-SEED."""
    resume: bool = False
    """Continue the run in --out, bit for bit."""
    log: tuple[str, ...] = ()
    """Loggers beside metrics.jsonl: csv, tensorboard, wandb, trackio."""
    shard: bool = False
    """Of several processes, each holds a part of the weights (FSDP2)."""
    recompute: bool = False
    """Keep no activations of the network's blocks: less memory, about a third more time; no bit
    depends on it.
    """
    workers: int = 0
    """Processes that draw batches ahead; no bit depends on them."""
    prediction: str | None = None
    """What a network of yours predicts, a teacher or initial one that is named as
    package.module:function: eps, v, x0, flow, score, edm, vp or ve.
    """
    process: str | None = None
    """Its process: ddpm, discrete (Stable Diffusion's table), cosine, linear, trig or edm."""
    noise_label: str | None = None
    """What it gets as its time, such as "1000 t"; left out, "t - 1" for tables, else its own."""
    range: str | None = None
    """Range of the data that it learned; left out, [-1, 1]."""
    device: str = "auto"
    """cpu, cuda, mps or auto, the first there is."""
    strict: bool = False
    """Refuse data of which something looks wrong, instead of a warning."""
    quiet: bool = False
    """Print no progress and no notes; warnings and errors still."""


def with_launch(run: Run, parts: dict[str, Any]) -> Any:
    """The run as a `Launch` whose method's and network's options are dataclasses, as `parts`."""
    part_fields: list[Any] = [
        (f"{kind}_options", Annotated[type(value), tyro.conf.arg(name=kind)])
        for kind, value in parts.items()
    ]
    kind = make_dataclass("Train", part_fields, bases=(Launch,), frozen=True, kw_only=True)
    values = {f.name: getattr(run, f.name) for f in fields(Run)}
    values |= {f"{kind}_options": value for kind, value in parts.items()}
    return kind(**values)


def _options_from(word: str) -> Options | None:
    try:
        value = json.loads(word)
    except json.JSONDecodeError:
        raise ValueError(f"{word} is no JSON, such as '{{\"width\": 64}}'") from None
    if value is None or isinstance(value, dict):
        return value
    raise ValueError(f"{word} is no JSON object")


def typed_options(
    kind: str, function: Callable[..., Any], values: Options, argv: list[str], path: str
) -> Any:
    """The options of a method or network as a dataclass value; their help is in its docstring.

    path: how they begin on the command line. A base, named at PATH.base.method, is a dataclass too.
    """
    docstring = docstring_parser.parse(function.__doc__ or "")
    texts = {p.arg_name: p.description or "" for p in docstring.params}
    values = checked_options(kind, function, values)
    option_fields = []
    for name, p in options_of(function).items():
        option_type: Any = kind_of(function, p)
        value = values[name]
        if option_type == Base:
            value = typed_base(kind, value, argv, f"{path}.{name}")
            option_type = type(value)
        text = " ".join(texts.get(name, "").split())
        if option_type == Options | None:
            option_type = Annotated[option_type, AS_JSON]
        hint = Annotated[option_type, tyro.conf.arg(help=text)]
        # A dataclass takes no value that can change as a default.
        option_fields.append((name, hint, field(default_factory=partial(deepcopy, value))))
    return make_dataclass(function.__name__, option_fields, frozen=True)()


def typed_base(kind: str, base: Options, argv: list[str], path: str) -> Any:
    """The options of a base, and its name as one of them."""
    name = last_value(argv, f"{path}.method") or base["method"]
    options = {}
    if name == base["method"]:
        options = {key: value for key, value in base.items() if key != "method"}
    inner = typed_options(kind, choose(kind, methods, name), options, argv, path)
    own = Annotated[str, tyro.conf.arg(help=f"Its name, also as {path} NAME.")]
    with_name = make_dataclass(
        f"base_{name}", [("method", own, field(default=name))], bases=(type(inner),), frozen=True
    )
    return with_name(**{f.name: getattr(inner, f.name) for f in fields(inner)})


def last_value(argv: list[str], option: str) -> str | None:
    """The value of an option that decides which other options there are: its last, as for tyro."""
    value = None
    for word, following in zip_longest(argv, argv[1:]):
        if word.startswith(f"{option}="):
            value = word.partition("=")[2]
        elif word == option:
            value = following
    return value


def typed_names(argv: list[str], path: str) -> set[str]:
    """The options PATH.NAME that are typed, also as PATH.NAME=VALUE or PATH.NAME.OPTION."""
    words = (word for word in argv if word.startswith(f"{path}."))
    return {re.split(r"[.=]", word.removeprefix(f"{path}."))[0].replace("-", "_") for word in words}


def all_options() -> list[Option]:
    """What may be typed before it is known which recipe, method and network it belongs to."""
    options = options_in(Launch)
    functions = [("network", function) for function in names_of(networks).values()]
    for prefix in ("method", "method.base", "method.base.base"):
        functions += [(prefix, function) for function in names_of(methods).values()]
    for prefix, function in functions:
        for name, p in options_of(function).items():
            full = f"{prefix}.{name}".replace("_", "-")
            options.append(Option(full, name, kind_of(function, p), "", None, None, False))
    return options


def help_screen(launch: Any, run: Run, everything: bool) -> str:
    """What most people set, on one screen; or everything, by topic."""
    options = [
        replace(o, default=BY_DATA) if o.name in OPEN and run.is_open(o.name) else o
        for o in options_in(type(launch), launch)
    ]
    first = [next(o for o in options if o.name == name) for name in FIRST]
    groups = {f"options (defaults: recipe {run.recipe}, method {run.method})": first}
    if everything:
        groups |= by_topic([o for o in options if o not in first], launch)
        return screen("train", ABOUT, groups)
    end = (
        f"more: `fewstep train {run.recipe} --help-all` shows the options of method {launch.method}"
        f" and network {launch.network} (such as --network.dropout 0.1), of data, optimisation,"
        " averages, stages, processes and log; `fewstep recipes` lists recipes, methods and"
        " networks"
    )
    return screen("train", ABOUT, groups, end)


def by_topic(options: list[Option], launch: Launch) -> dict[str, list[Option]]:
    """The options in groups, those of the method and the network last."""
    groups: dict[str, list[Option]] = {}
    title = ""
    for option in options:
        title = TOPICS.get(option.field, title)
        part = option.name.partition(".")[0]
        own = f"options of {part} {getattr(launch, part)}" if "." in option.name else title
        groups.setdefault(own, []).append(option)
    return groups
