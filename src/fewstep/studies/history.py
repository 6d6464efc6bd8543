"""What the log of a run says of its course: losses, and the time it took."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from fewstep.run.checkpoint import RunFolder
from fewstep.training import log

POINTS = 40  # of a curve: each is the mean of the rows of its part of the run
LATE = 0.1  # share of the rows that the last loss is the mean of


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's log; none where there is no log."""
    rows = log.rows_of(RunFolder(folder).metrics)
    return [row for row in rows if row.get("loss") is not None]


def curve(rows: Sequence[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """(steps, mean losses) of equally long parts of the log."""
    size = -(-len(rows) // POINTS) or 1
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    steps = [fmean(row["step"] for row in part) for part in parts]
    return steps, [fmean(row["loss"] for row in part) for part in parts]


def late_loss(rows: Sequence[dict[str, Any]]) -> float | None:
    """The mean loss of the last tenth of the log."""
    count = max(1, round(LATE * len(rows)))
    return fmean(row["loss"] for row in rows[-count:]) if rows else None


def seconds_of(rows: Sequence[dict[str, Any]], batch: int) -> float | None:
    """Seconds of all starts together: the clock of a run that goes on begins at 0 again.

    samples_per_second = (step - first) batch / seconds tells the step that a row's start was at.
    """
    clocks = {
        round(row["step"] - row["samples_per_second"] * row["seconds"] / batch): row["seconds"]
        for row in rows
    }  # of each start the last
    return round(sum(clocks.values()), 1) if clocks else None
