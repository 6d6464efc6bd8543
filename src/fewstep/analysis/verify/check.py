"""A check is an equation and a measure of how far it is from holding; a run yields outcomes."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from fewstep.core.parts import place_of

Measure = Callable[[], float]
M = TypeVar("M", bound=Measure)
S = TypeVar("S")


class NotCheckable(Exception):
    """Raised by a measure for what cannot be seen of its subject; the message says why."""


@dataclass(frozen=True)
class Check:
    """One equation: its name and source, the error that `measure()` returns and the tolerance."""

    name: str  # the equation itself, in the words of the paper
    source: str  # arXiv number and place, or the definition that it follows from
    measure: Measure
    tolerance: float
    look: str  # what is wrong if it fails, and where to look
    methods: tuple[str, ...] = ()  # those it concerns; empty: all of them
    quick: bool = True  # part of `--quick`

    @property
    def method(self) -> str:
        """The method it concerns: its name, `shared` for several, `all` for all."""
        if not self.methods:
            return "all"
        return self.methods[0] if len(self.methods) == 1 else "shared"

    def concerns(self, method: str | None) -> bool:
        """Whether it concerns that method; None stands for any."""
        return method is None or not self.methods or method in self.methods


class Table:
    """Checks of one module: `@table(name, source, place, methods)` stands above each measure."""

    def __init__(
        self, module: str, tolerance: float, look: str = "the part is not this equation"
    ) -> None:
        self.module = module
        self.tolerance = tolerance
        self.look = look
        self.rows: list[Check] = []

    def __call__(
        self,
        name: str,
        source: str,
        place: str,
        methods: str = "",
        *,
        tolerance: float | None = None,
        quick: bool = True,
    ) -> Callable[[M], M]:
        """Adds the function below it. place: where to look in the module; methods: "ct cd"."""
        limit = self.tolerance if tolerance is None else tolerance
        module = f"fewstep.{self.module}"
        look = f"{self.look}: see {module}.{place}" if place else f"{self.look}: see {module}"

        def add(measure: M) -> M:
            row = Check(name, source, measure, limit, look, tuple(methods.split()), quick)
            self.rows.append(row)
            return measure

        return add


class Properties(Generic[S]):
    """What holds for every subject of one kind: `@properties.holds(...)` stands above a measure."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, Callable[[S], float], float, str]] = []

    def holds(
        self, text: str, tolerance: float, look: str
    ) -> Callable[[Callable[[S], float]], Callable[[S], float]]:
        """Adds the function below it, of a subject."""

        def add(measure: Callable[[S], float]) -> Callable[[S], float]:
            self.rows.append((text, measure, tolerance, look))
            return measure

        return add

    def checks(
        self,
        subject: S,
        name: str,
        *,
        method: str | None = None,
        quick: bool = True,
        without: Container[str] = (),
    ) -> list[Check]:
        """One check for each property but those `without`; by default they concern `name` alone.

        method: the method in `fewstep.methods` of which `name` is a setting, if it is one.
        """
        place = name if method is None else f"fewstep.methods.{method}"
        return [
            Check(
                f"{name}: {text}",
                "definition",
                partial(measure, subject),
                tolerance,
                f"{look}; see {place}",
                (method or name,),
                quick,
            )
            for text, measure, tolerance, look in self.rows
            if text not in without
        ]


@dataclass(frozen=True)
class Outcome:
    """The result of a check; `problem` says what is wrong and where to look, "" if it passed.

    passed: None for what cannot be checked; `problem` says why.
    """

    name: str
    method: str
    error: float
    tolerance: float
    passed: bool | None
    source: str
    seconds: float
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON's own types; an error that is not finite is null."""
        return {**vars(self), "error": self.error if math.isfinite(self.error) else None}


def outcome(check: Check) -> Outcome:
    """Runs one check; an error above the tolerance or not finite and an exception are failures."""
    start = time.perf_counter()
    problem = check.look
    reason = ""
    try:
        error = float(check.measure())
    except NotCheckable as exception:
        error, reason = math.nan, str(exception)
    except Exception as exception:  # of any kind: a user's code may be under test
        error = math.inf
        message = str(exception).strip().partition("\n")[0]
        problem = f"{type(exception).__name__}: {message}{advice(exception, check.look)}"
    has_passed = None if reason else math.isfinite(error) and error <= check.tolerance
    return Outcome(
        name=check.name,
        method=check.method,
        error=error,
        tolerance=check.tolerance,
        passed=has_passed,
        source=check.source,
        seconds=time.perf_counter() - start,
        problem=reason or ("" if has_passed else problem),
    )


def advice(exception: Exception, look: str) -> str:
    """Added to an exception's message: the line of the user's code, and where to look.

    A ValueError that a check raises itself is its result, so the check's guess at the cause holds.
    For any other exception the guess would be wrong: only the place is named.
    """
    frames = traceback.extract_tb(exception.__traceback__)
    own = str(Path(__file__).parent)
    if isinstance(exception, ValueError) and frames[-1].filename.startswith(own):
        return f"; {look}"
    place = look[max(look.rfind("see "), 0) :]
    return f"{place_of(exception)}; {place}"


def run(checks: Iterable[Check]) -> Iterator[Outcome]:
    """The outcomes one by one, so that each can be shown as soon as it is there."""
    return map(outcome, checks)


def select(checks: Iterable[Check], method: str | None = None, quick: bool = False) -> list[Check]:
    """The checks that concern a method; with `quick` only the quick ones."""
    return [check for check in checks if check.concerns(method) and (check.quick or not quick)]


def same_shape(ours: Tensor, truth: Tensor) -> None:
    """Raises ValueError if the shapes differ."""
    if ours.shape != truth.shape:
        raise ValueError(f"shape {tuple(ours.shape)}, expected {tuple(truth.shape)}")


def apart(ours: Tensor, truth: Tensor) -> float:
    """The largest difference, relative to the largest number of the truth if that is above 1."""
    same_shape(ours, truth)
    if not ours.numel():
        return 0.0
    size = truth.detach().abs().max().clamp_min(1.0)
    return ((ours - truth).detach().abs().max() / size).item()


def by_row(ours: Tensor, truth: Tensor) -> float:
    """The largest ||ours - truth|| / ||truth|| of a row, with 1e-12 for a norm below it."""
    same_shape(ours, truth)
    difference = row_norms(ours - truth)
    return (difference / row_norms(truth).clamp_min(1e-12)).max().item()


def row_norms(x: Tensor) -> Tensor:
    """The norm of each row `[B]`, in float64."""
    return x.detach().double().reshape(len(x), -1).norm(dim=1)


def worst(*errors: float) -> float:
    """The largest of several errors; NaN, which compares with nothing, counts as infinite."""
    return max(math.inf if math.isnan(error) else error for error in errors)


def row_by_row(ask: Callable[..., Tensor], x: Tensor, *others: Tensor | None) -> Tensor:
    """The answers to the rows of x and of the others, where they are not None, one by one."""
    rows = [slice(i, i + 1) for i in range(len(x))]
    return torch.cat([ask(x[row], *(p if p is None else p[row] for p in others)) for row in rows])


def mixed_up(ask: Callable[[Tensor], Tensor], rows: int, *labels: int) -> float:
    """How far a label of the last row moves the others, and 1 more if it does not move its own.

    labels: those that it has instead of 0, one after the other.
    """
    cond = torch.zeros(rows, dtype=torch.int64)
    first = ask(cond)
    errors = 0.0
    for label in labels:
        other = ask(torch.cat([cond[:-1], torch.tensor([label])]))
        errors += apart(other[:-1], first[:-1]) + float(torch.equal(other[-1], first[-1]))
    return errors


def column(*values: float) -> Tensor:
    """Numbers `[B]` in float64."""
    return torch.tensor(values, dtype=torch.float64)


def over(x: Tensor, rows: Tensor) -> Tensor:
    """Numbers `[B]`, shaped to multiply rows `[B, ...]`."""
    return x.reshape(-1, *[1] * (rows.ndim - 1))
