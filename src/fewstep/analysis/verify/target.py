"""Somebody's own method, network or teacher: which of them a factory makes, and the checks that it
then meets.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from fewstep.analysis.verify import network_checks, structure, teacher_checks
from fewstep.analysis.verify.check import Check
from fewstep.analysis.verify.fixtures import SHAPE
from fewstep.base.errors import UserError
from fewstep.base.randomness import fork_rng
from fewstep.core import abilities
from fewstep.core import process as processes
from fewstep.core.denoiser import Preconditioned
from fewstep.core.method import Method
from fewstep.run.generator import Generator

PICTURE = (1, 8, 8)
CLASSES = 3  # of the second network that a factory of (shape, classes) makes
PLACES = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def wanted(factory: Callable[..., Any], name: str) -> int:
    """How many of (shape, classes) it is called with: none unless its first argument is needed or
    is called shape.

    Raises UserError where it needs more than these two.
    """
    try:
        found = [p for p in inspect.signature(factory).parameters.values() if p.kind in PLACES]
    except (TypeError, ValueError):
        return 0
    needed = sum(p.default is p.empty for p in found)
    if needed > 2:
        raise UserError(
            f"target {name!r} needs {needed} arguments: expected factory() or factory(shape,"
            " classes)"
        )
    return min(len(found), 2) if needed or (found and found[0].name == "shape") else 0


def made(factory: Callable[..., Any], name: str, *args: Any) -> Any:
    """What it makes; its failure in one line."""
    try:
        with fork_rng(0, "verify target"):
            return factory(*args)
    except Exception as error:  # of whatever kind: it is the user's
        told = str(error).strip().partition("\n")[0]
        called = "(shape, classes)" if args else "()"
        raise UserError(
            f"target {name!r} fails as factory{called}: {type(error).__name__}: {told}"
        ) from error


def checks_of(
    factory: Callable[..., Any], name: str, given: tuple[int, ...] | None = None
) -> list[Check]:
    """The checks of what the factory makes: a `Method`, a network or a teacher. Raises UserError
    for anything else.

    factory() or, where it takes arguments, factory(shape, classes) as our networks are made. A
    teacher may also be a `Generator` or one of ours. given: shape of a sample, where the target
    does not know it.
    """
    takes, shape = wanted(factory, name), given or PICTURE
    args = (shape, 0)[:takes]
    found: Any = made(factory, name, *args)
    if isinstance(found, Method):
        return structure.checks_of(structure.Subject(lambda: found, given or SHAPE), name)
    teacher = teacher_of(found, shape)
    if teacher is not None:
        return teacher_checks.checks_of(teacher, name)
    if isinstance(found, nn.Module):
        own = tuple(abilities.shape(found) or shape) if takes == 0 else shape
        classes = abilities.classes(found)
        rows = network_checks.checks_of(
            network_checks.Subject(lambda: made(factory, name, *args), own, classes), name
        )
        if takes == 2:
            labelled = network_checks.Subject(
                lambda: made(factory, name, shape, CLASSES), shape, CLASSES
            )
            rows += network_checks.checks_of(labelled, f"{name} with {CLASSES} classes")
        return rows
    raise UserError(
        f"target {name!r} gave {type(found).__name__}: expected a fewstep.Method, a network"
        " (nn.Module) or a teacher, a function (x_t, t, cond) -> x0_hat"
    )


def teacher_of(found: Any, shape: tuple[int, ...]) -> teacher_checks.Subject | None:
    """What is asked as a denoiser: a generator's, a network behind its preconditioning, a function;
    None for others.
    """
    if isinstance(found, Generator):
        return teacher_checks.Subject(
            found.denoiser, found.method.process, found.facts.shape, found.facts.classes
        )
    if isinstance(found, Preconditioned):
        return teacher_checks.Subject(found, found.process, shape, abilities.classes(found.network))
    if isinstance(found, nn.Module | type) or not callable(found):
        return None
    process = abilities.process(found) or processes.edm()
    return teacher_checks.Subject(
        found, process, tuple(abilities.shape(found) or shape), abilities.classes(found)
    )
