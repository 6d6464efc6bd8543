"""fewstep train: a recipe, overridden by dotted names, becomes a run folder."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from fewstep import methods, networks
from fewstep.base.data_names import check_data_name
from fewstep.base.errors import StorageError, UserError, require, unknown
from fewstep.base.options import choose
from fewstep.cli.arguments import HELP, arrange, is_number, is_option
from fewstep.cli.parse import parse
from fewstep.cli.train_options import (
    all_options,
    help_screen,
    last_value,
    typed_names,
    typed_options,
    with_launch,
)
from fewstep.cli.user_code import import_function, own_network
from fewstep.run import lock
from fewstep.run.config import AUTO, OWN, Run, read_run
from fewstep.run.recipes import RECIPES, SMALL

log = logging.getLogger("fewstep")

PARTS = {"method": methods, "network": networks}


def main(argv: list[str]) -> int:
    args, run, own, out = read(argv)
    is_named = last_value(in_order(argv), "--data") is not None or args.resume
    if run.recipe == AUTO and not is_named and not args.quiet and is_first_process():
        print(f"no --data: the {run.data} that come with the package", flush=True)
    return start(
        run,
        out,
        own,
        quiet=args.quiet,
        resume=args.resume,
        shard=args.shard,
        recompute=args.recompute,
        workers=args.workers,
        log=args.log,
        device=args.device,
        strict=args.strict,
    )


def read(
    argv: list[str], verb: str = "train", recipes: Mapping[str, Callable[..., Run]] = RECIPES
) -> tuple[Any, Run, dict[str, Any], Path]:
    """All options that were typed, the run, what of it is the user's own code, and its folder."""
    argv = in_order(argv, verb)
    is_help = bool(HELP & set(argv))
    run = base_run(argv, recipes, starts=not is_help and verb in ("train", "distill"))
    launch, own = launch_of(run, argv)
    if is_help:
        print(help_screen(launch, run, "--help-all" in argv))
        raise SystemExit(0)
    args = parse(type(launch), argv, verb=verb, description="", default=launch)
    if recipes is RECIPES:  # others have a pipeline's data
        check_data_name(args.data)  # before torch is imported, as the values of options were
    values = {f.name: getattr(args, f.name) for f in fields(Run)}
    for kind in PARTS:
        options = asdict(getattr(args, f"{kind}_options"))
        if run.recipe == AUTO:  # the data decide the others
            names = getattr(run, f"{kind}_options").keys() | typed_names(argv, f"--{kind}")
            options = {name: value for name, value in options.items() if name in names}
        values[f"{kind}_options"] = options
    values["recipe"] = run.recipe
    own |= own_sources(args)
    return args, Run(**values), own, out_folder(run, argv)


def in_order(argv: list[str], verb: str = "train") -> list[str]:
    """The words with the recipe in front. Raises UserError where there is none, but for --help."""
    argv = with_recipe_first(with_base_names(argv))
    if not HELP & set(argv) and (not argv or is_option(argv[0])):
        names = ", ".join(SMALL)
        raise UserError(
            f"name a recipe, for example 'fewstep {verb} digits' (small ones: {names}; `fewstep"
            " recipes` lists all)"
        )
    return argv


def launch_of(run: Run, argv: list[str]) -> tuple[Any, dict[str, Any]]:
    """All options with their defaults, and what of method and network is the user's own code."""
    parts, own = {}, {}
    named: dict[str, Any] = {}
    for kind, module in PARTS.items():
        function, name = chosen_part(kind, module, run, argv)
        named[kind] = name
        if ":" in name:
            own[kind] = function
        values = getattr(run, f"{kind}_options") if name == getattr(run, kind) else {}
        parts[kind] = typed_options(kind, function, values, argv, f"--{kind}")
    return with_launch(replace(run, **named), parts), own


def own_sources(args: Any) -> dict[str, Any]:
    """The teacher and initial network that are typed as package.module:function.

    Raises UserError for words about a network where none is typed so.
    """
    words = {name: getattr(args, name) for name in ("prediction", "process", "range")}
    words |= {"label": args.noise_label}
    words = {name: value for name, value in words.items() if value is not None}
    names = {kind: getattr(args, kind) for kind in ("teacher", "init")}
    names = {kind: name for kind, name in names.items() if is_own(name)}
    if words and not names:
        flag = next(iter(words)).replace("label", "noise-label")
        raise UserError(
            f"--{flag}: it is about a network of yours, --teacher package.module:function; weights"
            " in a file are imported with these words: fewstep import FILE OUT --network NAME"
        )
    by_name = {name: own_network("teacher", name, words) for name in set(names.values())}
    return {kind: by_name[name] for kind, name in names.items()}


def is_own(name: str | None) -> bool:
    """Whether a teacher's or initial network's name is package.module:function."""
    return name is not None and ":" in name and name[:6] != "exact:" and not Path(name).exists()


def start(run: Run, out: Path, own: dict[str, Any], *, quiet: bool, **launch: Any) -> int:
    """Trains and says where the result is."""
    from fewstep.base.data_names import OWN_DATA
    from fewstep.run.checkpoint import RunFolder
    from fewstep.run.checkpoint.best import read_best
    from fewstep.run.datasets import is_any_held_out
    from fewstep.training.train import train

    generator = train(run, out=out, progress=not quiet, **launch, **own)
    if quiet or not is_first_process():
        return 0
    print(
        f"{out}: step {generator.step} of {generator.run.steps}, fingerprint"
        f" {generator.fingerprint[:16]}"
    )
    best = read_best(RunFolder(out).best) if run.eval_every else None
    if best is not None:
        place = shlex.quote(f"{out}/best")
        print(f"best: {place}, step {best.step} with {best.metric} {best.value:.4g}")
    names = {kind: getattr(run, kind) for kind in ("method", "network") if kind in own}
    if "init" in own:  # its network is the student's
        names["network"] = run.init
    again = "".join(f" --{kind} {name}" for kind, name in names.items())
    cond = "" if generator.facts.cond in (None, "labels") else " --cond FILE"
    path = shlex.quote(str(out))
    score = f"   fewstep eval {path}{again}"
    if not is_any_held_out(generator.facts):
        # Rows of a file that were learned cannot be told from new ones.
        score = f"{score} --data FILE" if run.data == OWN_DATA else ""
    print(f"next: fewstep sample {path}{again}{cond}{score}")
    return 0


def with_base_names(argv: list[str]) -> list[str]:
    """--method.base NAME as the --method.base.method NAME that it stands for."""
    return [re.sub(r"^(--method(\.base)+)(=|$)", r"\1.method\3", word) for word in argv]


def with_recipe_first(argv: list[str]) -> list[str]:
    """The words with the recipe in front, wherever it was typed."""
    if not argv or not is_option(argv[0]):
        return argv
    positional, options = arrange(argv, all_options())
    recipe = next((word for word in positional if not is_number(word)), None)
    if recipe is None:
        return argv
    positional.remove(recipe)
    return [recipe, *positional, *options]


def base_run(argv: list[str], recipes: Mapping[str, Callable[..., Run]], starts: bool) -> Run:
    """What the overrides start from: the recipe with its method, or the run to be resumed.

    starts: whether it is to be trained, and not only to be looked at.
    """
    name = argv[0] if argv and not is_option(argv[0]) else "digits"
    run = run_of(name, last_value(argv, "--method"), recipes)
    folder = out_folder(run, argv)
    if not starts:
        return run
    if is_first_process():
        lock.refuse_second(folder)  # before torch is imported, which takes longer than this
        if "--resume" not in argv:
            lock.refuse_old(folder)
    previous = stored_run(folder) if "--resume" in argv else None
    if previous is not None and previous.recipe != run.recipe:
        raise UserError(f"{folder} holds a run of recipe {previous.recipe!r}, not {run.recipe!r}")
    return previous or run


def run_of(
    name: str, method: str | None, recipes: Mapping[str, Callable[..., Run]] = RECIPES
) -> Run:
    """The run that a recipe returns. Raises UserError, also for what a user's recipe raises."""
    recipe = find_recipe(name, recipes)
    try:
        run = recipe() if method is None else recipe(method=method)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"recipe {name!r}: {type(error).__name__}: {error}") from error
    if not isinstance(run, Run):
        raise UserError(f"recipe {name!r} returned {type(run).__name__}: expected a fewstep.Run")
    return replace(run, recipe=name) if ":" in name else run


def find_recipe(
    name: str, recipes: Mapping[str, Callable[..., Run]] = RECIPES
) -> Callable[..., Run]:
    """A recipe by name, with - or _, or the user's function package.module:function."""
    if ":" in name:
        return import_function("recipe", name)
    recipe = recipes.get(name.replace("_", "-"))
    if recipe is None:
        if recipes is not RECIPES:
            raise unknown("recipe", name, recipes)
        raise unknown("recipe", name, recipes, few=SMALL, rest="`fewstep recipes` lists all")
    return recipe


def is_first_process() -> bool:
    """Whether this is the first of the processes that a launcher started, or the only one."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def out_folder(run: Run, argv: list[str]) -> Path:
    """--out, or runs/RECIPE-METHOD-SEED."""
    out, seed = last_value(argv, "--out"), last_value(argv, "--seed")
    if out is not None:
        require(out != "", "--out", "", "a folder")
        return Path(out)
    name = f"{run.recipe}-{run.method}-{run.seed if seed is None else seed}"
    return Path("runs") / name.replace(":", ".")


def stored_run(folder: Path) -> Run | None:
    """The run in a folder, from run.json or else its newest checkpoint; None without both."""
    from fewstep.run.checkpoint import RunFolder

    try:
        return read_run(folder / "run.json")
    except (StorageError, UserError) as error:
        checkpoint = RunFolder(folder).newest()
        if checkpoint is None and not (folder / "run.json").exists():
            return None
        if checkpoint is None:
            raise
        log.warning("fewstep: %s: going on with the run in %s", error, checkpoint.path.name)
        return checkpoint.record.run


def take_no_options() -> None:
    """Stands for a network without a name: the data choose it, it is --init, or a pipeline's."""


def chosen_part(
    kind: str, module: Any, run: Run, argv: list[str]
) -> tuple[Callable[..., Any], str]:
    """The method or network that is typed, or else the run's, and its name. Raises UserError."""
    word = last_value(argv, f"--{kind}")
    name = word or getattr(run, kind)
    if kind == "network" and name == AUTO and run.recipe == AUTO:
        option = next((word for word in argv if word.startswith("--network.")), None)
        if option is not None:
            raise UserError(f"{option}: the data choose the network: name one, --network mlp")
        return take_no_options, name
    is_passed = is_own(last_value(argv, "--init")) or run.recipe not in RECIPES
    if kind == "network" and name == OWN and is_passed:
        return take_no_options, name
    if ":" not in name:
        return choose(kind, module, name), name
    if word is None:  # a file or recipe says so: only the user may have code imported
        raise UserError(
            f"this run's {kind} is {name!r}, which is not ours: type --{kind} {name} to import it"
        )
    return import_function(kind, name), name
