"""The errors a user can meet: each is one line, and each has a stable exit code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from reprlib import Repr
from typing import Any

LONGEST = 600  # characters of a message

_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxset = 3, 6, 12, 12, 12
_SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 160, 40, 160


def short_repr(value: object) -> str:
    """The value for a message: on one line, cut where it is long or deep."""
    try:
        return _SHORT.repr(value)
    except Exception:  # a __repr__ that fails, an integer of more digits than Python prints
        return f"a {type(value).__name__}"


def one_line(text: str) -> str:
    """The text with unprintable characters escaped, and without its middle where it is long."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 + 5 :]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class FewstepError(Exception):
    """An error whose message is one line; `exit_code` is what the command line returns."""

    exit_code = 1

    def __str__(self) -> str:
        return one_line(super().__str__())  # a path or another library's message may be anything


class UserError(FewstepError, ValueError):
    """The user's mistake: a value that is not possible, and what to do about it."""

    exit_code = 2


class NonFiniteError(FewstepError, ArithmeticError):
    """A loss or gradient that is not finite; it updated nothing."""

    exit_code = 3
    losses: Any = None  # of a training step's rows


class StorageError(FewstepError, OSError):
    """Nothing valid to read, or nowhere to write."""

    exit_code = 4


@contextmanager
def storage(what: str) -> Iterator[None]:
    """Inside, an error of the system becomes a StorageError whose line begins with `what`."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{what}: {error.strerror or error}") from error


class RankLost(FewstepError):
    """Another process of the run died, failed or no longer answers."""

    exit_code = 5


class OutOfMemory(FewstepError):
    """A step did not fit into memory; it updated nothing. Smaller parts can continue the run."""


class WorkerError(FewstepError, RuntimeError):
    """A worker process of the run has died; the run's checkpoints are valid."""


class Stopped(FewstepError):
    """The run received a request to stop, saved a checkpoint and can be resumed.

    `generator` is what was trained so far, of a run in memory alone.
    """

    exit_code = 75
    generator: Any = None


def require(fine: bool, name: str, value: object, expected: str) -> None:
    """Raises the UserError for a value that is out of its range."""
    if not fine:
        raise UserError(f"{name} = {short_repr(value)}: expected {expected}")


def unknown(
    kind: str,
    name: object,
    choices: Iterable[str],
    few: Iterable[str] | None = None,
    rest: str = "",
) -> UserError:
    """The error for a name that is not among the choices, with the nearest choice.

    few: the choices to list where none is near, of so many that a line has no room for all; rest:
    what lists the others.
    """
    names = sorted(choices)
    word = str(name)[:100]
    anagrams = [other for other in names if sorted(other) == sorted(word)]
    near = anagrams or get_close_matches(word, names, n=1, cutoff=0.5)
    line = f"expected one of: {', '.join(names if few is None else few)}"
    hint = f"did you mean {near[0]!r}?" if near else "; ".join(filter(None, (line, rest)))
    return UserError(f"unknown {kind} {short_repr(name)}: {hint}")
