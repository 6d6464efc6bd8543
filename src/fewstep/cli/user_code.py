"""The user's own recipes, networks and methods: imported because the user typed them, never because
a file says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from fewstep.base.errors import UserError


def imported(kind: str, name: str) -> Callable[..., Any]:
    """The function that the user named as package.module:function."""
    module, _, function = name.partition(":")
    sys.path.insert(0, "")  # as `python -m` does, so that a file beside the user is found
    try:
        found: Callable[..., Any] = getattr(import_module(module), function)
    except Exception as error:  # whatever the user's own file does when it is imported
        raise UserError(f"{kind} {name!r}: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise UserError(f"{kind} {name!r} is a {type(found).__name__}: expected a function")
    return found


def own_parts(args: Any) -> dict[str, Any]:
    """--network and --method, where they were typed, as `fewstep.load` takes them."""
    typed = {kind: getattr(args, kind) for kind in ("network", "method")}
    return {kind: imported(kind, name) for kind, name in typed.items() if name is not None}
