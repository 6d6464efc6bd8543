"""The table of a sweep: a row for each setting, its scores with intervals over the seeds."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.analysis.metrics import Result
from fewstep.base import disk
from fewstep.base.errors import storage
from fewstep.base.table import text_table
from fewstep.run.places import find
from fewstep.statistics.intervals import interval, pm
from fewstep.studies import history, scores
from fewstep.studies.scores import badness, key_of
from fewstep.studies.sweep import TABLE, Entry

LOSS = "loss"  # the column of a sweep that scores nothing
WIDTH = 100  # columns of a terminal that the text fits in
MIXED = "the runs' data or units differ: compare scores within one data set"


@dataclass(frozen=True)
class Row:
    """A setting: the names of its runs, and of each column the values of those that have it."""

    settings: dict[str, str]
    runs: list[str]
    values: dict[str, list[float]]

    def to_json(self) -> dict[str, Any]:
        columns = {name: _facts(values) for name, values in self.values.items()}
        return {"settings": self.settings, "runs": self.runs, "scores": columns}


def _facts(values: list[float]) -> dict[str, Any]:
    mean, *ends = interval(values)
    low, high = (end if math.isfinite(end) else None for end in ends)
    return {"mean": mean, "low": low, "high": high, "n": len(values), "values": values}


@dataclass(frozen=True)
class Table:
    """The rows, the best first by the first column; `failures`: why runs have no numbers."""

    recipe: str
    columns: list[str]
    protocols: dict[str, dict[str, Any]]  # how the columns were measured
    rows: list[Row]
    failures: dict[str, str]
    is_mixed: bool = False  # of runs on data or in units that differ

    @property
    def axes(self) -> list[str]:
        """The names of the settings."""
        return [*self.rows[0].settings] if self.rows else []

    def to_json(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe,
            "settings": self.axes,
            "columns": self.columns,
            "protocols": self.protocols,
            "rows": [row.to_json() for row in self.rows],
            "failed": self.failures,
        }

    def csv(self) -> str:
        """The rows as CSV: of each column its mean, the ends of its interval and the number."""
        parts = ("mean", "low", "high", "n")
        head = [f"{name} {part}" for name in self.columns for part in parts]
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*self.axes, "runs", *head])
        for row in self.rows:
            facts = [_facts(row.values[c]) if c in row.values else {} for c in self.columns]
            cells = [one.get(part) for one in facts for part in parts]
            writer.writerow([*row.settings.values(), len(row.runs), *cells])
        return file.getvalue()

    def cells(self, columns: Sequence[str]) -> list[list[str]]:
        """The rows as words: settings, how many runs have numbers of how many, scores."""
        return [
            [
                *row.settings.values(),
                f"{max(map(len, row.values.values()), default=0)} of {len(row.runs)}",
                *(pm(row.values[c]) if c in row.values else "-" for c in columns),
            ]
            for row in self.rows
        ]

    def text(self) -> str:
        """The table for a terminal: as many columns as fit, then what failed."""
        count = len(self.columns)
        text = self._text(self.columns)
        while count > 1 and max(map(len, text.splitlines())) > WIDTH:
            count -= 1
            text = self._text(self.columns[:count])
        lines = [text, "scores: mean ± half of the 95 % interval over the runs (Student's t)"]
        if self.is_mixed:
            lines.append(MIXED)
        if more := len(self.columns) - count:
            lines.append(f"{more} more columns are in table.csv, table.json and sweep.html")
        return "\n".join([*lines, *(f"failed: {n}: {why}" for n, why in self.failures.items())])

    def _text(self, columns: Sequence[str]) -> str:
        return text_table(self.cells(columns), [*self.axes, "runs", *columns])

    def write(self, folder: Path) -> None:
        """table.json and table.csv."""
        with storage(f"cannot write to {folder}"):
            text = json.dumps(self.to_json(), indent=1) + "\n"
            disk.replace(folder / TABLE, text.encode())
            disk.replace(folder / "table.csv", self.csv().encode())


def table_of(
    folder: Path, entries: Sequence[Entry], failures: Mapping[str, str], has_scores: bool
) -> Table:
    """The table of the runs in a sweep's folder: of their scores, or else of their last losses."""
    results: dict[str, list[Result]] = {}
    columns: dict[str, list[dict[str, Any]]] = {}  # the protocols of each
    for entry in entries:
        if has_scores and entry.name not in failures:
            place = folder / entry.name
            results[entry.name] = scores.read(place, find(place).record.fingerprint)
            for result in results[entry.name]:
                columns.setdefault(key_of(result), []).append(result.protocol)
    rows: dict[str, Row] = {}
    for entry in entries:
        row = rows.setdefault(json.dumps(entry.setting), Row(entry.setting, [], {}))
        row.runs.append(entry.name)
        if entry.name in failures:
            continue
        for name, value in _values(folder / entry.name, results.get(entry.name)):
            row.values.setdefault(name, []).append(value)
    names = [*columns] if has_scores else [LOSS]

    def rank(row: Row) -> float:
        values = row.values.get(names[0]) if names else None
        if not values:
            return math.inf
        mean = interval(values).mean
        return badness(columns[names[0]][0], mean) if has_scores else mean

    fair = {name: _common(protocols) for name, protocols in columns.items()}
    in_order = sorted(rows.values(), key=rank)
    recipe, is_mixed = entries[0].run.recipe, len({entry.data for entry in entries}) > 1
    return Table(recipe, names, fair, in_order, dict(sorted(failures.items())), is_mixed)


def _values(place: Path, results: list[Result] | None) -> Iterator[tuple[str, float]]:
    if results is not None:
        yield from ((key_of(result), result.value) for result in results)
    elif (loss := history.late_loss(history.rows_of(place))) is not None:
        yield LOSS, loss


def _common(protocols: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What of the protocols holds for all runs."""
    return {
        name: value
        for name, value in protocols[0].items()
        if name not in ("generator", "detail")
        and all(name in one and one[name] == value for one in protocols)
    }
