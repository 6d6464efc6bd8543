"""The user's own recipes, networks and methods.

They are imported because the user typed their names, never because a file says so.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from fewstep.base.errors import UserError


def import_function(kind: str, name: str) -> Callable[..., Any]:
    """The function that the user typed as package.module:function. Raises UserError."""
    module, colon, attribute = name.partition(":")
    if not colon:
        raise UserError(
            f"{kind} {name!r}: expected package.module:function of your own; a run names its {kind}"
            " itself, so leave this out for one of ours"
        )
    if not module.strip("./") or not attribute:
        raise UserError(f"{kind} {name!r}: expected package.module:function")
    if module.startswith(".") or "/" in module or module.endswith(".py"):
        raise UserError(f"{kind} {name!r}: {_as_module(module, attribute)}")
    sys.path.insert(0, "")  # as `python -m` does, so that a file in this folder is found
    try:
        function: Callable[..., Any] = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise UserError(f"{kind} {name!r}: {_absence(module, error)}") from error
    except Exception as error:  # whatever the user's own file does when it is imported
        raise UserError(f"{kind} {name!r}: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise UserError(f"{kind} {name!r} is a {type(function).__name__}: expected a function")
    return function


def _as_module(path: str, attribute: str) -> str:
    """What was meant by the path of a file, or a module that begins with a dot."""
    steps = Path(path.removesuffix(".py")).parts
    own = ".".join(steps) if set(steps).isdisjoint({"..", "/"}) else steps[-1]
    own = own.strip(".")
    rule = "A module has no .py" if path.endswith(".py") else "A module is no path"
    text = f"did you mean {own}:{attribute}? {rule}"
    return f"{text}{_looked_for(own)}"


def _absence(module: str, error: ModuleNotFoundError) -> str:
    """Why there is no module: it is not in this folder, a package has none, or one it imports."""
    if error.name == module.partition(".")[0]:
        return f"{error}{_looked_for(module)}"
    is_of_package = error.name and f"{module}.".startswith(f"{error.name}.")
    return str(error) if is_of_package else f"{type(error).__name__}: {error}"


def _looked_for(module: str) -> str:
    """Where a module's file would be, after a semicolon; "" where it is."""
    place = f"{module.replace('.', '/')}.py"
    return "" if Path(place).is_file() else f"; {place} is looked for in this folder"


def parts_by_run(
    runs: Sequence[str], **names: Sequence[str]
) -> dict[str, tuple[dict[str, str], dict[str, Any]]]:
    """By run, the names of its own parts and the parts, of the names for each kind.

    runs: as typed; one that has no own part is left out. Raises UserError.
    """
    result: dict[str, tuple[dict[str, str], dict[str, Any]]] = {}
    for kind, words in names.items():
        for run, name in names_by_run(kind, runs, words).items():
            own_names, parts = result.setdefault(run, ({}, {}))
            own_names[kind], parts[kind] = name, own_part(kind, name)
    return result


def names_by_run(kind: str, runs: Sequence[str], words: Sequence[str]) -> dict[str, str]:
    """Which module:function each run with a method or network of its own gets.

    RUN=module:function is of that run. A name alone is of the runs whose run.json has it; one that
    no run.json has is of all other runs with a part of their own. Raises UserError for a name that
    no run gets, for two that a run could get, and for a run that gets none.
    """
    from fewstep.run.config import OWN
    from fewstep.run.places import find

    by_run = {run: getattr(find(run).record.run, kind) for run in runs}
    result, alone = {}, []
    for word in filter(None, ",".join(words).split(",")):
        run, equals, name = word.rpartition("=")
        if equals and run not in by_run:
            raise UserError(f"--{kind} {word}: expected one of {', '.join(runs)} before the =")
        if equals:
            result[run] = name
        else:
            alone.append(name)
    own = {run: name for run, name in by_run.items() if name == OWN or ":" in name}
    result = {run: name for run, name in own.items() if name in alone} | result
    rest = [name for name in alone if name not in own.values()]
    others = [run for run in own if run not in result]
    if rest and not others:
        raise UserError(
            f"--{kind} {rest[0]}: expected the {kind} of a run: run.json says "
            + ", ".join(f"{name} of {run}" for run, name in by_run.items())
        )
    if len(rest) > 1:
        raise UserError(
            f"--{kind} {rest[0]} and {rest[1]}: expected one for {others[0]}, which says"
            f" {own[others[0]]!r}: --{kind} {others[0]}=module:function"
        )
    if others and not rest:
        run = others[0]
        usage = own[run] if ":" in own[run] else f"{run}=module:function"
        raise UserError(f"{run} has a {kind} of your own, {own[run]!r}: name it, --{kind} {usage}")
    return result | {run: name for run in others for name in rest}


def own_parts(args: Any) -> dict[str, Any]:
    """--network and --method, where they were typed, as `fewstep.load` takes them."""
    names = {kind: getattr(args, kind) for kind in ("network", "method")}
    return {kind: own_part(kind, name) for kind, name in names.items() if name is not None}


def own_part(kind: str, name: str) -> Any:
    """The method or network that was typed; a network as the run has it that started from it.

    That is one in a module, or of a function without arguments, `train --init NAME`.
    """
    value = import_function(kind, name)
    if kind != "network" or not _makes_itself(value):
        return value

    from fewstep.adapters.adapt import Called, convention_of

    network = own_network("network", name, {})
    return network if convention_of(network) is not None else Called(network)


def _makes_itself(value: Any) -> bool:
    """Whether what was typed is a network, or a function without arguments that makes one."""
    from torch import nn

    return isinstance(value, nn.Module) or not inspect.signature(value).parameters


def own_network(kind: str, name: str, words: dict[str, Any]) -> Any:
    """The network or denoiser that the user typed as package.module:function, as `train` takes it.

    A function without arguments is called for it. words: what it predicts, on which process and so
    on, as for `fewstep.adapt`; without any it is a denoiser (x_t, t, cond) -> x0_hat.
    Raises UserError.
    """
    from torch import nn

    from fewstep.adapters.adapt import adapt, convention_of
    from fewstep.run.build import call_factory

    value: Any = import_function(kind, name)
    if not isinstance(value, nn.Module) and _makes_itself(value):
        value = call_factory(kind, name, value, "function() -> a network or denoiser")
    if not words:
        return value
    if convention_of(value) is not None:
        flag = next(iter(words))
        raise UserError(f"--{flag} {words[flag]}: {name} says itself what it predicts")
    return adapt(value, **words)
