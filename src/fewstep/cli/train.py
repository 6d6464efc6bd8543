"""fewstep train: a recipe, overridden by dotted names, becomes a run folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, field, fields, make_dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import docstring_parser
import tyro

from fewstep import methods, networks
from fewstep.cli.parse import parse
from fewstep.config import Options, Run, checked_options, choose, options_of, run_from_json
from fewstep.errors import StorageError, UserError, unknown
from fewstep.recipes import RECIPES

DESCRIPTION = (
    "Train a generator from a recipe; every field of the run can be overridden by its name.\n\n"
    "example: fewstep train digits --out runs/digits --iterations 2000 --method.c 0.03"
)


def find_recipe(name: str) -> Callable[..., Run]:
    """A recipe by name, or the function that the user named as package.module:function."""
    module, colon, function = name.partition(":")
    if not colon:
        if name not in RECIPES:
            raise unknown("recipe", name, RECIPES)
        return RECIPES[name]
    sys.path.insert(0, "")  # as `python -m` does, so that a file beside the user is found
    try:
        recipe: Callable[..., Run] = getattr(import_module(module), function)
        return recipe
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"recipe {name!r}: {error}") from error


def peek(argv: list[str], option: str) -> str | None:
    """The value of an option whose choice decides which other options there are."""
    for position, word in enumerate(argv):
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
        if word == option and position + 1 < len(argv):
            return argv[position + 1]
    return None


def base_run(argv: list[str]) -> Run:
    """What the overrides start from: the recipe with its method, or the run that is to be resumed."""
    recipe = find_recipe(argv[0] if argv and not argv[0].startswith("-") else "digits")
    out = peek(argv, "--out")
    stored = None if out is None or "--resume" not in argv else Path(out) / "run.json"
    if stored is not None and stored.is_file():
        run = stored_run(stored)
        if run.recipe != argv[0]:
            raise UserError(f"{out} holds a run of recipe {run.recipe!r}, not {argv[0]!r}")
        return run
    method = peek(argv, "--method")
    run = recipe() if method is None else recipe(method=method)
    if not isinstance(run, Run):
        raise UserError(f"recipe {argv[0]!r} returned {type(run).__name__}: expected a fewstep.Run")
    return replace(run, recipe=argv[0]) if ":" in argv[0] else run


def stored_run(path: Path) -> Run:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}") from error
    return run_from_json(values)


def typed_options(kind: str, function: Callable[..., Any], given: Options) -> Any:
    """The options of a method or network as a dataclass value; their help comes from the docstring."""
    told = {p.arg_name: p.description or "" for p in docstring_parser.parse(function.__doc__ or "").params}
    values = checked_options(kind, function, given)
    typed = [
        (name, Annotated[p.annotation, tyro.conf.arg(help=told.get(name, ""))], field(default=values[name]))
        for name, p in options_of(function).items()
    ]
    return make_dataclass(function.__name__, typed, frozen=True)()


def with_launch(run: Run, parts: dict[str, Any]) -> Any:
    """The run as a dataclass value that also says where and how it is launched, its options typed."""
    launch: list[Any] = [
        ("recipe", Annotated[str, tyro.conf.Positional, tyro.conf.arg(help="Name, or package.module:function.")]),
        ("out", Annotated[Path | None, tyro.conf.arg(help="Run folder; left out, runs/RECIPE-METHOD-SEED.")]),
        ("resume", Annotated[bool, tyro.conf.arg(help="Continue the run in --out, bit for bit.")]),
        ("device", Annotated[str, tyro.conf.arg(help="cpu, cuda, mps or auto, the first there is.")]),
    ]
    launch += [(f"{kind}_options", Annotated[type(v), tyro.conf.arg(name=kind)]) for kind, v in parts.items()]
    kind = make_dataclass("Train", launch, bases=(Run,), frozen=True, kw_only=True)
    values = {f.name: getattr(run, f.name) for f in fields(Run)}
    values |= {f"{kind}_options": value for kind, value in parts.items()}
    return kind(**values | {"out": None, "resume": False, "device": "auto"})


def main(argv: list[str]) -> int:
    named = bool(argv) and not argv[0].startswith("-")
    if not named and not {"-h", "--help"} & set(argv):
        raise UserError(f"name a recipe first, for example 'fewstep train digits' (there is: {', '.join(RECIPES)})")
    run = base_run(argv)
    method, network = peek(argv, "--method") or run.method, peek(argv, "--network") or run.network
    parts = {
        "method": typed_options(
            "method", choose("method", methods, method), run.method_options if method == run.method else {}
        ),
        "network": typed_options(
            "network", choose("network", networks, network), run.network_options if network == run.network else {}
        ),
    }
    args = parse(type(launch := with_launch(run, parts)), argv, verb="train", description=DESCRIPTION, default=launch)
    chosen = {f.name: getattr(args, f.name) for f in fields(Run)}
    chosen |= {f"{kind}_options": asdict(getattr(args, f"{kind}_options")) for kind in parts}
    return start(Run(**{**chosen, "recipe": run.recipe}), args.out, args.resume, args.device)


def start(run: Run, out: Path | None, resume: bool, device: str) -> int:
    """Trains and says where the result is."""
    from fewstep.training import train

    out = out or Path("runs") / f"{run.recipe}-{run.method}-{run.seed}"
    generator = train(run, out=out, resume=resume, device=device)
    print(f"{out}: step {generator.step} of {run.iterations}, fingerprint {generator.fingerprint[:16]}")
    print(f"next: fewstep sample {out}   fewstep eval {out}")
    return 0
