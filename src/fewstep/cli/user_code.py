"""The user's own recipes, networks and methods.

They are imported because the user typed their names, never because a file says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
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
    sys.path.insert(0, "")  # as `python -m` does, so that a file in this folder is found
    try:
        function: Callable[..., Any] = getattr(import_module(module), attribute)
    except Exception as error:  # whatever the user's own file does when it is imported
        raise UserError(f"{kind} {name!r}: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise UserError(f"{kind} {name!r} is a {type(function).__name__}: expected a function")
    return function


def own_parts(args: Any) -> dict[str, Any]:
    """--network and --method, where they were typed, as `fewstep.load` takes them."""
    names = {kind: getattr(args, kind) for kind in ("network", "method")}
    return {kind: import_function(kind, name) for kind, name in names.items() if name is not None}
