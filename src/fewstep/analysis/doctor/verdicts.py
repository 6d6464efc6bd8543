"""The results of an examination: measures, each with its table and its verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["ok", "watch", "broken"]
ORDER: tuple[Severity, ...] = ("ok", "watch", "broken")
Cell = float | int | str | None


@dataclass(frozen=True)
class Verdict:
    """One number, how bad it is, what it was compared with, and what to do."""

    name: str  # of the fault that is looked for, in words with hyphens
    severity: Severity
    value: float | None  # the evidence
    threshold: float | None  # above it the severity is no longer ok
    against: str  # what the threshold is, and where it comes from
    message: str

    def to_json(self) -> dict[str, Any]:
        facts = dict(vars(self))
        facts["words"] = facts.pop("message")
        return facts


@dataclass(frozen=True)
class Measure:
    """One measurement: its definition, its table (columns and rows), and its verdicts."""

    name: str
    definition: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    verdicts: Sequence[Verdict] = ()
    missing: str = ""  # why it was not taken

    @property
    def severity(self) -> Severity:
        return worst([verdict.severity for verdict in self.verdicts])

    def to_json(self) -> dict[str, Any]:
        verdicts = [verdict.to_json() for verdict in self.verdicts]
        return {**vars(self), "verdicts": verdicts, "severity": self.severity}


def worst(severities: Sequence[Severity]) -> Severity:
    """The worst of them; ok if there is none."""
    return max(severities, key=ORDER.index, default="ok")


def grade(value: float, watch: float, limit: float) -> Severity:
    """ok up to `watch`, then watch, and broken above `limit`; NaN is broken."""
    if math.isnan(value) or value > limit:
        return "broken"
    return "watch" if value > watch else "ok"


def judge(
    name: str,
    value: float,
    watch: float,
    limit: float,
    *,
    against: str,
    ok: str,
    fault: str,
    condition: bool = True,
) -> Verdict:
    """The verdict on a number that should stay below `watch`.

    ok, fault: the messages. condition: without it the severity is ok whatever the number.
    """
    severity = grade(value, watch, limit) if condition else "ok"
    message = ok if severity == "ok" else fault
    return Verdict(name, severity, value, watch, against, message)
