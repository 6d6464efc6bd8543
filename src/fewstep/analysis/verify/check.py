"""A check is an equation with a way to measure how far it is from holding; a run of checks yields
outcomes.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Check:
    """One equation: its name and source, the error `measure()` finds and the error it may have."""

    name: str  # the equation itself, in the words of the paper
    source: str  # arXiv number and place, or the definition it follows from
    measure: Callable[[], float]
    tolerance: float
    look: str  # what is wrong where it fails, and where to look
    methods: tuple[str, ...] = ()  # those it concerns; none named is all of them
    quick: bool = True  # part of `--quick`

    @property
    def method(self) -> str:
        """The method it concerns: its name, shared by several, or all."""
        return (
            "all" if not self.methods else self.methods[0] if len(self.methods) == 1 else "shared"
        )

    def concerns(self, method: str | None) -> bool:
        """Whether it says something of that method; None asks for every check."""
        return method is None or not self.methods or method in self.methods


@dataclass(frozen=True)
class Outcome:
    """What a check found; `problem` says what is wrong and where to look, and is empty where it
    passed.
    """

    name: str
    method: str
    error: float
    tolerance: float
    passed: bool
    source: str
    seconds: float
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON's own types; an error that is not finite is null."""
        return {**vars(self), "error": self.error if math.isfinite(self.error) else None}


def outcome(check: Check) -> Outcome:
    """Runs one check: an error above the tolerance, one that is not finite and an exception are
    failures.
    """
    begun, raised = time.perf_counter(), ""
    try:
        error = float(check.measure())
    except Exception as problem:  # of whatever kind: somebody's own code may be under test
        error, raised = (
            math.inf,
            f"{type(problem).__name__}: {str(problem).strip().partition(chr(10))[0]}",
        )
        raised += advice(problem, check.look)
    passed = math.isfinite(error) and error <= check.tolerance
    told = "" if passed else raised or check.look
    seconds = time.perf_counter() - begun
    return Outcome(
        check.name, check.method, error, check.tolerance, passed, check.source, seconds, told
    )


def advice(problem: Exception, look: str) -> str:
    """After an exception: the line of whoever's code is checked, and where to look.

    What a check of ours raises of itself is its finding, so that its guess at the cause stands; of
    anything else that failed on the way the guess would be wrong, and only its place is kept.
    """
    frames = traceback.extract_tb(problem.__traceback__)
    own, package = str(Path(__file__).parent), str(Path(__file__).parents[2])
    if isinstance(problem, ValueError) and frames[-1].filename.startswith(own):
        return f"; {look}"
    outside = (package, str(Path(torch.__file__).parent))
    theirs = [frame for frame in frames if not frame.filename.startswith(outside)]
    line = f" ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})" if theirs else ""
    return f"{line}; {look[max(look.rfind('see '), 0) :]}"


def run(checks: Iterable[Check]) -> Iterator[Outcome]:
    """The outcomes one by one, so that whoever waits can be told of each."""
    return map(outcome, checks)


def selected(
    checks: Iterable[Check], method: str | None = None, quick: bool = False
) -> list[Check]:
    """The checks that concern a method, and of these the quick ones where only they are wanted."""
    return [check for check in checks if check.concerns(method) and (check.quick or not quick)]


def apart(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest number that is wanted where that is above 1."""
    if found.shape != wanted.shape:
        raise ValueError(f"shape {tuple(found.shape)}, expected {tuple(wanted.shape)}")
    if not found.numel():
        return 0.0
    size = wanted.detach().abs().max().clamp_min(1.0)
    return ((found - wanted).detach().abs().max() / size).item()


def by_row(found: Tensor, wanted: Tensor) -> float:
    """The largest over the rows of ||found - wanted|| / ||wanted||, with 1e-12 for a norm below it."""
    if found.shape != wanted.shape:
        raise ValueError(f"shape {tuple(found.shape)}, expected {tuple(wanted.shape)}")
    off, size = (
        (part.detach().double().reshape(len(part), -1)).norm(dim=1)
        for part in (found - wanted, wanted)
    )
    return (off / size.clamp_min(1e-12)).max().item()


def worst(*errors: float) -> float:
    """The largest of several errors; NaN, which compares with nothing, counts as infinite."""
    return max(math.inf if math.isnan(error) else error for error in errors)


def column(*values: float) -> Tensor:
    """Numbers `[B]` in float64."""
    return torch.tensor(values, dtype=torch.float64)
