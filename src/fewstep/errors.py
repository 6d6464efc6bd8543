"""The failures a user can meet: each is one line, and each has a stable exit code."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class FewstepError(Exception):
    """A failure that is told in one line; `exit_code` is what the command line returns."""

    exit_code = 1


class UserError(FewstepError, ValueError):
    """The user's mistake: a value that cannot be, and what to do about it."""

    exit_code = 2


class NonFiniteError(FewstepError, ArithmeticError):
    """A loss or gradient that is not finite; nothing was updated with it."""

    exit_code = 3
    losses: Any = None  # of the step's rows, where it was a step


class StorageError(FewstepError, OSError):
    """Nothing valid to read, or nowhere to write."""

    exit_code = 4


class RankLost(FewstepError):
    """Another process of the run died, failed or no longer answers."""

    exit_code = 5


class OutOfMemory(FewstepError):
    """A step did not fit into memory; nothing was updated, and the run can go on with smaller parts."""


class WorkerError(FewstepError, RuntimeError):
    """A process that worked for the run has died; what the run saved is whole."""


class Stopped(FewstepError):
    """The run was asked to stop, saved itself and can be resumed."""

    exit_code = 75


def require(fine: bool, name: str, value: object, expected: str) -> None:
    """Raises the UserError for a value that is out of its range."""
    if not fine:
        raise UserError(f"{name} = {value!r}: expected {expected}")


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in a closed list, with the nearest name that is."""
    names = sorted(known)
    swapped = [other for other in names if sorted(other) == sorted(name)]
    near = swapped or get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"expected one of: {', '.join(names)}"
    return UserError(f"unknown {kind} {name!r}: {hint}")
