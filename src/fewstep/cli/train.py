"""fewstep train: a recipe, overridden by dotted names, becomes a run folder."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from dataclasses import asdict, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import docstring_parser
import tyro

from fewstep import methods, networks
from fewstep.base.errors import StorageError, UserError, unknown
from fewstep.base.options import Base, Options, checked_options, choose, kind_of, options_of
from fewstep.cli.parse import parse
from fewstep.cli.user_code import imported
from fewstep.run import lock
from fewstep.run.config import Run, read_run
from fewstep.run.recipes import RECIPES

log = logging.getLogger("fewstep")

DESCRIPTION = (
    "Train a generator from a recipe; every field of the run can be overridden by its name.\n\n"
    "example: fewstep train digits --out runs/digits --iterations 2000 --method.c 0.03"
)


RECIPE_HELP = "First: a name, or package.module:function."


def find_recipe(name: str) -> Callable[..., Run]:
    """A recipe by name, or the function that the user named as package.module:function."""
    if ":" in name:
        return imported("recipe", name)
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]


def peek(argv: list[str], option: str) -> str | None:
    """The value of an option whose choice decides which other options there are: its last, as for
    the parser.
    """
    found = None
    for word, following in zip(argv, [*argv[1:], None], strict=True):
        if word.startswith(f"{option}="):
            found = word.partition("=")[2]
        elif word == option:
            found = following
    return found


def base_run(argv: list[str]) -> Run:
    """What the overrides start from: the recipe with its method, or the run that is to be resumed."""
    name = argv[0] if argv and not argv[0].startswith("-") else "digits"
    recipe, method = find_recipe(name), peek(argv, "--method")
    try:
        run = recipe() if method is None else recipe(method=method)
    except UserError:
        raise
    except Exception as error:  # a recipe is the user's own function
        raise UserError(f"recipe {name!r}: {type(error).__name__}: {error}") from error
    if not isinstance(run, Run):
        raise UserError(f"recipe {name!r} returned {type(run).__name__}: expected a fewstep.Run")
    run = replace(run, recipe=name) if ":" in name else run
    if speaks() and not {"-h", "--help"} & set(argv):
        lock.refuse_second(
            out_folder(run, argv)
        )  # before torch is imported, which takes longer than to say so
    stored = stored_run(out_folder(run, argv)) if "--resume" in argv else None
    if stored is not None and stored.recipe != run.recipe:
        raise UserError(
            f"{out_folder(run, argv)} holds a run of recipe {stored.recipe!r}, not {run.recipe!r}"
        )
    return stored or run


def speaks() -> bool:
    """Whether this is the first of the processes that a launcher started, or alone."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def out_folder(run: Run, argv: list[str]) -> Path:
    """--out, or runs/RECIPE-METHOD-SEED of what was asked for."""
    out, seed = peek(argv, "--out"), peek(argv, "--seed")
    named = f"{run.recipe}-{run.method}-{run.seed if seed is None else seed}".replace(":", ".")
    return Path("runs") / named if out is None else Path(out)


def stored_run(folder: Path) -> Run | None:
    """The run that the folder holds, from run.json, or its newest checkpoint where that is lost;
    None without any.
    """
    from fewstep.run.checkpoint import RunFolder

    try:
        return read_run(folder / "run.json")
    except (StorageError, UserError) as error:
        saved = RunFolder(folder).newest()
        if saved is None and not (folder / "run.json").exists():
            return None
        if saved is None:
            raise
        log.warning("fewstep: %s: going on with the run that %s holds", error, saved.path.name)
        return saved.record.run


def typed_options(
    kind: str, function: Callable[..., Any], given: Options, argv: list[str], path: str
) -> Any:
    """The options of a method or network as a dataclass value; their help comes from the docstring.

    path: how they begin on the command line. A base, named at PATH.base.method, is a dataclass in
    its turn.
    """
    told = {
        p.arg_name: p.description or ""
        for p in docstring_parser.parse(function.__doc__ or "").params
    }
    values, typed = checked_options(kind, function, given), []
    for name, p in options_of(function).items():
        wanted, value = kind_of(function, p), values[name]
        if wanted == Base:
            value = typed_base(kind, value, argv, f"{path}.{name}")
            wanted = type(value)
        typed.append(
            (name, Annotated[wanted, tyro.conf.arg(help=told.get(name, ""))], field(default=value))
        )
    return make_dataclass(function.__name__, typed, frozen=True)()


def typed_base(kind: str, given: Options, argv: list[str], path: str) -> Any:
    """The options of a base, and its name as one of them."""
    name = peek(argv, f"{path}.method") or given["method"]
    options = (
        {key: value for key, value in given.items() if key != "method"}
        if name == given["method"]
        else {}
    )
    inner = typed_options(kind, choose(kind, methods, name), options, argv, path)
    own = Annotated[str, tyro.conf.arg(help=f"Its name, also as {path} NAME.")]
    base = make_dataclass(
        f"base_{name}", [("method", own, field(default=name))], bases=(type(inner),), frozen=True
    )
    return base(**{f.name: getattr(inner, f.name) for f in fields(inner)})


def with_launch(run: Run, parts: dict[str, Any]) -> Any:
    """The run as a dataclass value that also says where and how it is launched, its options typed."""
    launch: list[Any] = [
        (
            "recipe",
            Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE", help=RECIPE_HELP)],
        ),
        (
            "out",
            Annotated[
                Path | None, tyro.conf.arg(help="Run folder; left out, runs/RECIPE-METHOD-SEED.")
            ],
        ),
        ("resume", Annotated[bool, tyro.conf.arg(help="Continue the run in --out, bit for bit.")]),
        (
            "shard",
            Annotated[
                bool,
                tyro.conf.arg(
                    help="Of several processes, each holds a part of the weights (FSDP2)."
                ),
            ],
        ),
        (
            "workers",
            Annotated[
                int,
                tyro.conf.arg(help="Processes that draw batches ahead; no bit depends on them."),
            ],
        ),
        (
            "device",
            Annotated[str, tyro.conf.arg(help="cpu, cuda, mps or auto, the first there is.")],
        ),
    ]
    launch += [
        (f"{kind}_options", Annotated[type(v), tyro.conf.arg(name=kind)])
        for kind, v in parts.items()
    ]
    kind = make_dataclass("Train", launch, bases=(Run,), frozen=True, kw_only=True)
    values = {f.name: getattr(run, f.name) for f in fields(Run)}
    values |= {f"{kind}_options": value for kind, value in parts.items()}
    return kind(
        **values | {"out": None, "resume": False, "shard": False, "workers": 0, "device": "auto"}
    )


def written_out(argv: list[str]) -> list[str]:
    """--method.base NAME as the --method.base.method NAME that it stands for."""
    return [re.sub(r"^(--method(\.base)+)(=|$)", r"\1.method\3", word) for word in argv]


def main(argv: list[str]) -> int:
    argv = written_out(argv)
    helping = bool({"-h", "--help"} & set(argv))
    if not helping and (not argv or argv[0].startswith("-")):
        raise UserError(
            "name a recipe first, for example 'fewstep train digits' (there is:"
            f" {', '.join(RECIPES)})"
        )
    run = base_run(argv)
    parts, own = {}, {}
    for kind, module in (("method", methods), ("network", networks)):
        typed = peek(argv, f"--{kind}")
        name = typed or getattr(run, kind)
        if (
            ":" in name and typed is None
        ):  # a file or recipe says so: only the user may have code imported
            raise UserError(
                f"this run's {kind} is {name!r}, which is not ours: type --{kind} {name} to"
                " import it"
            )
        if ":" in name:
            own[kind] = imported(kind, name)
        given = getattr(run, f"{kind}_options") if name == getattr(run, kind) else {}
        function = own.get(kind) or choose(kind, module, name)
        parts[kind] = typed_options(kind, function, given, argv, f"--{kind}")
    launch, words = (
        with_launch(run, parts),
        ["--help"] if helping else argv,
    )  # help without what was already given
    args = parse(type(launch), words, verb="train", description=DESCRIPTION, default=launch)
    chosen = {f.name: getattr(args, f.name) for f in fields(Run)}
    chosen |= {f"{kind}_options": asdict(getattr(args, f"{kind}_options")) for kind in parts}
    given = {name: getattr(args, name) for name in ("resume", "shard", "workers", "device")}
    return start(Run(**{**chosen, "recipe": run.recipe}), out_folder(run, argv), own, **given)


def start(run: Run, out: Path, own: dict[str, Any], **launch: Any) -> int:
    """Trains and says where the result is."""
    from fewstep.training.train import train

    generator = train(run, out=out, **launch, **own)
    if not speaks():
        return 0
    print(
        f"{out}: step {generator.step} of {run.iterations}, fingerprint"
        f" {generator.fingerprint[:16]}"
    )
    again = "".join(f" --{kind} {getattr(run, kind)}" for kind in own)
    cond = "" if generator.facts.cond in (None, "labels") else " --cond FILE"
    print(f"next: fewstep sample {out}{again}{cond}   fewstep eval {out}{again}")
    return 0
