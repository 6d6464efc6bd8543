"""What an examination says: measures, each with its table and its verdicts in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["ok", "watch", "broken"]
ORDER: tuple[Severity, ...] = ("ok", "watch", "broken")
Cell = float | int | str | None


@dataclass(frozen=True)
class Verdict:
    """One reading of one number: how bad it is, what it was compared with, and what to do."""

    name: str  # of the fault that is looked for, in words with hyphens
    severity: Severity
    value: float | None  # the evidence
    threshold: float | None  # from which on it is no longer ok
    against: str  # what the threshold is, and where it comes from
    words: str


@dataclass(frozen=True)
class Measure:
    """One measurement: its definition, its table (columns and rows), and what is said of it."""

    name: str
    definition: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    verdicts: Sequence[Verdict] = ()
    missing: str = ""  # why it was not taken

    @property
    def severity(self) -> Severity:
        return worst([verdict.severity for verdict in self.verdicts])


def worst(found: Sequence[Severity]) -> Severity:
    """The gravest of them, and ok of none."""
    return max(found, key=ORDER.index, default="ok")


def grade(value: float, watch: float, broken: float) -> Severity:
    """ok up to `watch`, then watch, and broken above `broken`; what is no number is broken."""
    if math.isnan(value):
        return "broken"
    return "broken" if value > broken else "watch" if value > watch else "ok"


def judged(
    name: str,
    value: float,
    watch: float,
    broken: float,
    *,
    against: str,
    fine: str,
    ill: str,
    also: bool = True,
) -> Verdict:
    """The verdict on a number that should stay below `watch`; `also`: a second condition without
    which all is well.
    """
    severity = grade(value, watch, broken) if also else "ok"
    return Verdict(name, severity, value, watch, against, fine if severity == "ok" else ill)
