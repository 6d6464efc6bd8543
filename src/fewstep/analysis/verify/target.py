"""Somebody's own method, network or teacher: which of them a factory makes, and its checks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from fewstep.analysis.verify import network_checks, structure, teacher_checks
from fewstep.analysis.verify.check import Check
from fewstep.analysis.verify.fixtures import SHAPE
from fewstep.base.errors import UserError
from fewstep.base.randomness import fork_rng
from fewstep.core import abilities
from fewstep.core.denoiser import Preconditioned
from fewstep.core.method import Method
from fewstep.run.generator import Generator
from fewstep.run.sources import open_model

PICTURE = (1, 8, 8)
CLASSES = 3  # of the second network that a factory of (shape, classes) makes
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def arguments_of(factory: Callable[..., Any], name: str) -> int:
    """How many of (shape, classes) the factory is called with.

    None unless its first argument has no default or is called shape. Raises UserError where it
    needs more than these two.
    """
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return 0
    positional = [p for p in parameters if p.kind in POSITIONAL]
    needs = sum(p.default is p.empty for p in positional)
    if needs > 2:
        raise UserError(
            f"target {name!r} needs {needs} arguments: expected factory() or factory(shape,"
            " classes)"
        )
    if needs or (positional and positional[0].name == "shape"):
        return min(len(positional), 2)
    return 0


def make(factory: Callable[..., Any], name: str, *args: Any) -> Any:
    """What the factory makes. Raises UserError where it fails."""
    try:
        with fork_rng(0, "verify target"):
            return factory(*args)
    except Exception as error:  # of whatever kind: it is the user's
        reason = str(error).strip().partition("\n")[0]
        usage = "(shape, classes)" if args else "()"
        raise UserError(
            f"target {name!r} fails as factory{usage}: {type(error).__name__}: {reason}"
        ) from error


def checks_of(
    factory: Callable[..., Any], name: str, sample: tuple[int, ...] | None = None
) -> list[Check]:
    """The checks of what the factory makes: a `Method`, a network or a teacher.

    factory() or, where it takes arguments, factory(shape, classes) as our networks are made. A
    teacher may also be a `Generator` or one of ours. sample: its shape, where the target does not
    know it. Raises UserError for anything else.
    """
    count = arguments_of(factory, name)
    shape = sample or PICTURE
    args = (shape, 0)[:count]
    target: Any = make(factory, name, *args)
    if isinstance(target, Method):
        return structure.checks_of(structure.Subject(lambda: target, sample or SHAPE), name)
    if _is_teacher(target):
        return teacher_checks.checks_of(_teacher_of(target, shape), name)
    if not isinstance(target, nn.Module):
        raise UserError(
            f"target {name!r} gave {type(target).__name__}: expected a fewstep.Method, a network"
            " (nn.Module) or a teacher, a function (x_t, t, cond) -> x0_hat"
        )
    own_shape = shape
    if count == 0:
        own_shape = tuple(abilities.shape(target) or shape)
    again = partial(make, factory, name, *args)
    network = network_checks.Subject(again, own_shape, abilities.classes(target))
    checks = network_checks.checks_of(network, name)
    if count == 2:
        again = partial(make, factory, name, shape, CLASSES)
        network = network_checks.Subject(again, shape, CLASSES)
        checks += network_checks.checks_of(network, f"{name} with {CLASSES} classes")
    return checks


def _is_teacher(target: Any) -> bool:
    """Whether it is a denoiser: a generator, a preconditioned network or a function."""
    if isinstance(target, Generator | Preconditioned):
        return True
    return callable(target) and not isinstance(target, nn.Module | type)


def _teacher_of(target: Any, shape: tuple[int, ...]) -> teacher_checks.Subject:
    """What the checks ask of a teacher."""
    model = open_model(target)
    if model.facts is not None:
        shape = model.facts.shape
        classes = model.facts.classes
    elif isinstance(target, Preconditioned):
        classes = abilities.classes(target.network)
    else:
        shape = tuple(abilities.shape(target) or shape)
        classes = abilities.classes(target)
    return teacher_checks.Subject(model.denoiser, model.process, shape, classes)
