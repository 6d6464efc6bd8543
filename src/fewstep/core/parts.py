"""The parts of a method by name: how each is called, and what it has to give.

`check` looks at values as a method is made; `watch` at the calls of one loss, before the first
step, so that an error names the part that was called and not what surrounds it.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fewstep.base.errors import FewstepError, UserError, require, short_repr
from fewstep.core.times import Times

if TYPE_CHECKING:
    from fewstep.core.method import Method

SLACK = 1e-9  # by which times may be out of order, beside what their dtype rounds off
PACKAGE = Path(__file__).parents[1]
LIBRARIES = tuple(f"{folder}{os.sep}" for folder in (PACKAGE, Path(torch.__file__).parent))


@dataclass(frozen=True)
class Usage:
    """How parts of one name are called, and what is expected in place of a value; "" if nothing."""

    words: str
    need: Callable[[Any, tuple[Any, ...]], str]


def no_need(value: Any, args: tuple[Any, ...]) -> str:
    """Nothing is asked of it."""
    return ""


def by_row(value: Any, args: tuple[Any, ...]) -> str:
    """`[B]` of the call's first tensor."""
    count = next(len(one) for one in args if isinstance(one, Tensor))
    return _rows_need(value, count)


def by_time(value: Any, args: tuple[Any, ...]) -> str:
    """`[B]` of the call's times."""
    return _rows_need(value, next(len(one.t) for one in args if isinstance(one, Times)))


def by_time_or_one(value: Any, args: tuple[Any, ...]) -> str:
    """`[B]` of the call's times, or one number as a tensor."""
    is_one = isinstance(value, Tensor) and value.numel() == 1
    return "" if is_one else by_time(value, args)


def _rows_need(value: Any, rows: int) -> str:
    fine = isinstance(value, Tensor) and value.shape == (rows,)
    return "" if fine else f"one number for each of {rows} rows"


def like(place: int) -> Callable[[Any, tuple[Any, ...]], str]:
    """Of the shape of the call's argument in that place."""

    def need(value: Any, args: tuple[Any, ...]) -> str:
        fine = isinstance(value, Tensor) and value.shape == args[place].shape
        return "" if fine else f"shape {tuple(args[place].shape)}"

    return need


def pair(value: Any, args: tuple[Any, ...]) -> str:
    """Two tensors like x0, the third argument."""
    fine = isinstance(value, tuple | list) and len(value) == 2
    fine = fine and not any(like(2)(one, args) for one in value)
    return "" if fine else f"two of shape {tuple(args[2].shape)}"


def same_rows(value: Any, args: tuple[Any, ...]) -> str:
    """As many rows as the second argument."""
    rows = len(args[1])
    fine = isinstance(value, Tensor) and value.shape[:1] == (rows,)
    return "" if fine else f"{rows} rows"


def times_of_rows(value: Any, args: tuple[Any, ...]) -> str:
    """`Times`, which `check_times` looks into."""
    return "" if isinstance(value, Times) else "fewstep.Times"


def function(value: Any, args: tuple[Any, ...]) -> str:
    """Something to call."""
    return "" if callable(value) else "a denoiser"


USAGES = {
    "times": Usage("times(u, progress, ordinal) -> Times", times_of_rows),
    "coupling": Usage("coupling(models, process, x0, z, times, cond) -> x_t, x_r", pair),
    "target": Usage("target(models) -> a denoiser", function),
    "space": Usage("space(process, x_t, x0_hat, times) -> a tensor like x0_hat", same_rows),
    "distance": Usage("distance(x, y) -> [B]", by_row),
    "weight": Usage("weight(process, times) -> [B]", by_time_or_one),
    "balance": Usage("balance(loss, times, models) -> [B]", by_time),
    "terms": Usage("term(models, process, x0, z, times, cond, run) -> [B]", by_time),
    "tell": Usage("tell(times, cond) -> cond", no_need),
}
# What targets may have beside their call, and what they give.
OF_TARGETS = {
    "goal": Usage(
        "goal(process, models, x_t, x_r, times, cond, run) -> a tensor like x_t", like(2)
    ),
    "guess": Usage("guess(process, models, x_t, times, cond, run) -> a tensor like x_t", like(2)),
}
DENOISER = Usage("(x_t, t, cond) -> a tensor like x_t", like(0))


class PartError(UserError):
    """A part that fails or gives what it must not; `__cause__` is its own exception, if any."""


def check(parts: Mapping[str, Any]) -> None:
    """Raises UserError for a part of a method that cannot be called."""
    for name, usage in USAGES.items():
        value = parts[name]
        if name == "terms":
            require(isinstance(value, tuple | list), name, value, f"a tuple of {usage.words}")
            for number, term in enumerate(value):
                require(callable(term), f"terms[{number}]", term, usage.words)
        elif value is not None or name != "target":
            require(callable(value), name, value, usage.words)


def place_of(error: BaseException) -> str:
    """The line of the user's code that raised it, as " (FILE, line N)"; "" if none did."""
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if not frame.filename.startswith(LIBRARIES)]
    return f" ({Path(users[-1].filename).name}, line {users[-1].lineno})" if users else ""


def failure(what: str, error: BaseException, advice: str = "") -> PartError:
    """The error where a part, or a loss, raised one of its own."""
    reason = str(error).strip().partition("\n")[0]
    return PartError(f"{what} fails: {type(error).__name__}: {reason}{place_of(error)}{advice}")


class _Part:
    """A part in whose place it is called, with the same abilities. Raises PartError."""

    def __init__(self, part: Any, name: str, owner: str, usage: Usage) -> None:
        self._part, self._name, self._owner, self._usage = part, name, owner, usage

    def __call__(self, *args: Any, **options: Any) -> Any:
        what, usage = f"the {self._name} of {self._owner}", self._usage.words
        try:
            value = self._part(*args, **options)
        except (FewstepError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of any kind: it is the user's
            raise failure(what, error, f"; expected {usage}") from error
        need = self._usage.need(value, args)
        if need:
            raise PartError(f"{what} gave {describe(value)}, expected {need}: {usage}")
        if self._name == "target" and not isinstance(value, nn.Module):
            return _Part(value, "target's denoiser", self._owner, DENOISER)
        return value

    def __getattr__(self, name: str) -> Any:
        if name == "_part" or name.startswith("__"):  # of a copy that is not filled yet
            raise AttributeError(name)
        value = getattr(self._part, name)
        if self._name == "target" and name in OF_TARGETS and value is not None:
            return _Part(value, f"target's {name}", self._owner, OF_TARGETS[name])
        return value


def describe(value: Any) -> str:
    """A value for a message: of tensors their shapes."""
    if isinstance(value, Tensor):
        return f"shape {tuple(value.shape)}"
    if isinstance(value, tuple | list) and any(isinstance(one, Tensor) for one in value):
        return f"({', '.join(map(describe, value))})"
    return short_repr(value)


def watch(method: Method, owner: str, names: Iterable[str] = USAGES) -> Method:
    """The method with the same loss, whose parts of these names say which of them fails.

    One with a loss of its own may ask of its parts what it likes: only its times are watched.
    owner: what the method is called in messages.
    """

    def of(name: str, part: Any) -> Any:
        return _Part(part, "term" if name == "terms" else name, owner, USAGES[name])

    values = {name: getattr(method, name) for name in names}
    if method.has_own_loss:
        values = {name: part for name, part in values.items() if name == "times"}
    terms = values.pop("terms", None)
    parts = {name: of(name, part) for name, part in values.items() if part is not None}
    if terms is not None:
        parts["terms"] = tuple(of("terms", term) for term in terms)
    return replace(method, **parts)


def check_times(times: Times, rows: int, owner: str) -> None:
    """Raises PartError unless there is one of each time for each row, a <= r <= t and to <= t."""
    numbers = {"t": times.t, "r": times.r, "a": times.a, "w": times.w}
    if times.to is not None:
        numbers["to"] = times.to
    what = f"the times of {owner}"
    for name, part in numbers.items():
        if not isinstance(part, Tensor) or part.shape != (rows,):
            raise PartError(
                f"{what}: {name} is {describe(part)}, expected one time for each of {rows} rows:"
                f" {USAGES['times'].words}"
            )
    pairs = [("a", "r"), ("r", "t"), *([("to", "t")] if times.to is not None else [])]
    for low, high in pairs:
        fits = numbers[low] - numbers[high] <= _slack(numbers[low], numbers[high])
        if not bool(fits.all()):
            row = int(fits.int().argmin())
            need = "a <= r <= t" if low != "to" else "to <= t"
            raise PartError(
                f"{what} at progress {times.progress:.2g}: {low} ="
                f" {numbers[low][row].item():.4g} and {high} ="
                f" {numbers[high][row].item():.4g} in row {row}, expected {need}"
            )


def _slack(low: Tensor, high: Tensor) -> Tensor:
    """By how much low may be above high: by some roundings of the coarser dtype."""
    rounding = max(torch.finfo(x.dtype).eps if x.is_floating_point() else 0.0 for x in (low, high))
    # The lesser of both: infinite only where both are, and then their difference is NaN.
    return 4 * rounding * torch.minimum(low.abs(), high.abs()).double() + SLACK


def check_loss(loss: Any, rows: int, owner: str) -> None:
    """Raises PartError unless the loss is one number for each row, with a gradient."""
    if not isinstance(loss, Tensor) or loss.shape != (rows,):
        raise PartError(
            f"the loss of {owner} is {describe(loss)}, expected one number for each of {rows} rows"
        )
    if not loss.requires_grad:
        raise PartError(
            f"no gradient reaches the student: the loss of {owner} does not depend on its weights;"
            " is a part detached?"
        )
