"""The parts of a method by name: how each is called, and what it has to give.

`check` looks at values as a method is made; `watch` at the calls of one loss, before the first
step, so that an error names the part that was called and not what surrounds it.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fewstep.base.errors import FewstepError, UserError, require, short_repr
from fewstep.core.times import Times

if TYPE_CHECKING:
    from fewstep.core.method import Method

# How each is called, and what it gives.
USAGE = {
    "times": "times(u, progress, ordinal) -> Times",
    "coupling": "coupling(models, process, x0, z, times, cond) -> x_t, x_r",
    "target": "target(models) -> a denoiser",
    "space": "space(process, x_t, x0_hat, times) -> a tensor like x0_hat",
    "distance": "distance(x, y) -> [B]",
    "weight": "weight(process, times) -> [B]",
    "balance": "balance(loss, times, models) -> [B]",
    "terms": "term(models, process, x0, z, times, cond, run) -> [B]",
    "tell": "tell(times, cond) -> cond",
}
# What targets may have beside their call.
GOAL = {
    "goal": "goal(process, models, x_t, x_r, times, cond, run) -> a tensor like x_t",
    "guess": "guess(process, models, x_t, times, cond, run) -> a tensor like x_t",
}
BY_ROW = {"distance", "weight", "balance", "term"}
SLACK = 1e-9  # by which times may be out of order
PACKAGE = Path(__file__).parents[1]
LIBRARIES = (str(PACKAGE), str(Path(torch.__file__).parent))


class PartError(UserError):
    """A part that fails or gives what it must not; `__cause__` is its own exception, if any."""


def check(parts: Mapping[str, Any]) -> None:
    """Raises UserError for a part of a method that cannot be called."""
    for name, value in parts.items():
        if name == "terms":
            require(isinstance(value, tuple | list), name, value, f"a tuple of {USAGE[name]}")
            for number, term in enumerate(value):
                require(callable(term), f"terms[{number}]", term, USAGE[name])
        elif name in USAGE and not (name == "target" and value is None):
            require(callable(value), name, value, USAGE[name])


def place_of(error: BaseException) -> str:
    """The line of the user's code that raised it, as " (FILE, line N)"; "" if none did."""
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if not frame.filename.startswith(LIBRARIES)]
    return f" ({Path(users[-1].filename).name}, line {users[-1].lineno})" if users else ""


class _Part:
    """A part in whose place it is called, with the same abilities. Raises PartError."""

    def __init__(self, part: Any, name: str, owner: str, usage: str) -> None:
        self._part = part
        self._text = f"the {name} of {owner}"
        self._name, self._owner, self._usage = name, owner, usage

    def __call__(self, *args: Any, **options: Any) -> Any:
        try:
            value = self._part(*args, **options)
        except (FewstepError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of any kind: it is the user's
            reason = str(error).strip().partition("\n")[0]
            raise PartError(
                f"{self._text} fails: {type(error).__name__}: {reason}{place_of(error)};"
                f" expected {self._usage}"
            ) from error
        return self._look_at(value, args)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._part, name)
        if self._name == "target" and name in GOAL and value is not None:
            return _Part(value, f"target's {name}", self._owner, GOAL[name])
        return value

    def _look_at(self, value: Any, args: tuple[Any, ...]) -> Any:
        """The value, or what stands in its place: a target's own denoiser is watched too."""
        if self._name in BY_ROW:
            rows = _rows(args)
            self._need_rows(value, rows, may_be_one=self._name == "weight")
        elif self._name == "coupling":
            is_pair = isinstance(value, tuple | list) and len(value) == 2
            self._need(is_pair, value)
            for x in value:
                self._need_like(x, args[2])
        elif self._name == "space":
            fine = isinstance(value, Tensor) and value.shape[:1] == args[1].shape[:1]
            self._need(fine, value)
        elif self._name == "times":
            self._need(isinstance(value, Times), value)
        elif self._name == "target":
            self._need(callable(value), value)
            if not isinstance(value, nn.Module):
                usage = "(x_t, t, cond) -> a tensor like x_t"
                return _Part(value, "target's denoiser", self._owner, usage)
        elif self._name == "target's denoiser":
            self._need_like(value, args[0])
        elif self._name.startswith("target's "):
            self._need_like(value, args[2])
        return value

    def _need(self, fine: bool, value: Any) -> None:
        if not fine:
            raise PartError(f"{self._text} gave {describe(value)}: expected {self._usage}")

    def _need_like(self, value: Any, x: Tensor) -> None:
        fine = isinstance(value, Tensor) and value.shape == x.shape
        if not fine:
            raise PartError(
                f"{self._text} gave {describe(value)}, expected shape {tuple(x.shape)}:"
                f" {self._usage}"
            )

    def _need_rows(self, value: Any, rows: int, may_be_one: bool) -> None:
        fine = isinstance(value, Tensor) and (
            value.shape == (rows,) or (may_be_one and value.numel() == 1)
        )
        if not fine:
            raise PartError(
                f"{self._text} gave {describe(value)}, expected one number for each of {rows}"
                f" rows: {self._usage}"
            )


def _rows(args: tuple[Any, ...]) -> int:
    """Of the call of a part that gives numbers by row: of its times, else of its first tensor."""
    for value in args:
        if isinstance(value, Times):
            return len(value.t)
    return next(len(value) for value in args if isinstance(value, Tensor))


def describe(value: Any) -> str:
    """A value for a message: of a tensor its shape."""
    if isinstance(value, Tensor):
        return f"shape {tuple(value.shape)}"
    return short_repr(value)


def watch(method: Method, owner: str, names: Iterable[str] = USAGE) -> Method:
    """The method with the same loss, whose parts of these names say which of them fails.

    One with a loss of its own may ask of its parts what it likes: only its times are watched.
    owner: what the method is called in messages.
    """

    def of(name: str, part: Any) -> Any:
        return _Part(part, "term" if name == "terms" else name, owner, USAGE[name])

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
                f" {USAGE['times']}"
            )
    pairs = [("a", "r"), ("r", "t"), *([("to", "t")] if times.to is not None else [])]
    for low, high in pairs:
        excess = numbers[low] - numbers[high]
        if not bool((excess <= SLACK).all()):
            row = int((excess <= SLACK).int().argmin())
            need = "a <= r <= t" if low != "to" else "to <= t"
            raise PartError(
                f"{what} at progress {times.progress:.2g}: {low} ="
                f" {numbers[low][row].item():.4g} and {high} ="
                f" {numbers[high][row].item():.4g} in row {row}, expected {need}"
            )


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
