"""Somebody's own method, network or teacher: which of them a factory makes, and the checks that it then meets."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from fewstep import process as processes
from fewstep.denoiser import Preconditioned
from fewstep.errors import UserError
from fewstep.losses import Method
from fewstep.randomness import forked
from fewstep.verify import network_checks, structure, teacher_checks
from fewstep.verify.core import Check

CLASSES = 3  # of the second network that a factory of (shape, classes) makes


def required(factory: Callable[..., Any]) -> int:
    """How many arguments it cannot be called without."""
    try:
        found = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return 0
    free = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.default is p.empty and p.kind in free for p in found)


def made(factory: Callable[..., Any], name: str, *args: Any) -> Any:
    """What it makes; its failure in one line."""
    try:
        with forked(0, "verify target"):
            return factory(*args)
    except Exception as error:  # of whatever kind: it is the user's
        told = str(error).strip().partition("\n")[0]
        called = "(shape, classes)" if args else "()"
        raise UserError(f"target {name!r} fails as factory{called}: {type(error).__name__}: {told}") from error


def checks_of(factory: Callable[..., Any], name: str, shape: tuple[int, ...] = (1, 8, 8)) -> list[Check]:
    """The checks of what the factory makes: a `Method`, a network or a teacher. Raises UserError for anything else.

    factory() or, where it needs arguments, factory(shape, classes) as our networks are made.
    """
    needed = required(factory)
    args = (shape, 0)[:needed]
    if needed > 2:
        raise UserError(f"target {name!r} needs {needed} arguments: expected factory() or factory(shape, classes)")
    found = made(factory, name, *args)
    if isinstance(found, Method):
        return structure.checks_of(lambda: found, name)
    known: Any = found
    own = tuple(getattr(known, "shape", shape))
    if isinstance(found, Preconditioned) or (
        callable(found) and not isinstance(found, nn.Module) and not isinstance(found, type)
    ):
        process = getattr(known, "process", None) or processes.edm()
        return teacher_checks.checks_of(teacher_checks.Subject(found, process, own, getattr(known, "classes", 0)), name)
    if isinstance(found, nn.Module):
        classes = getattr(known, "classes", 0)
        own = own if needed == 0 else shape
        rows = network_checks.checks_of(network_checks.Subject(lambda: made(factory, name, *args), own, classes), name)
        if needed == 2:
            labelled = network_checks.Subject(lambda: made(factory, name, shape, CLASSES), shape, CLASSES)
            rows += network_checks.checks_of(labelled, f"{name} with {CLASSES} classes")
        return rows
    raise UserError(
        f"target {name!r} gave {type(found).__name__}: expected a fewstep.Method, a network (nn.Module) "
        "or a teacher, a function (x_t, t, cond) -> x0_hat"
    )
