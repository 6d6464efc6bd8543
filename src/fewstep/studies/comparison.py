"""Run folders side by side: settings that differ, sizes, times and scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.analysis import report
from fewstep.analysis.metrics import Result
from fewstep.analysis.report import Section
from fewstep.base.errors import UserError, storage
from fewstep.base.table import first_of, text_table
from fewstep.base.version import __version__
from fewstep.run.checkpoint import Checkpoint, RunFolder
from fewstep.run.config import field_name
from fewstep.run.places import find
from fewstep.studies import history, scores, sweep
from fewstep.studies.page import learning_curves
from fewstep.studies.scores import key_of

FACTS = ("weights", "step", "seconds", "loss")
ACROSS = 4  # runs that stand side by side; more stand one below the other


@dataclass(frozen=True)
class Subject:
    """A run as it was named, its newest checkpoint, its log and its scores."""

    name: str
    checkpoint: Checkpoint
    rows: list[dict[str, Any]]
    results: list[Result]

    @property
    def settings(self) -> dict[str, Any]:
        """All settings by dotted names: method.c, lr."""
        values = self.checkpoint.record.run.to_json()
        return flat({field_name(name): value for name, value in values.items()})

    @property
    def facts(self) -> dict[str, Any]:
        """Weights, steps and seconds."""
        record, sizes = self.checkpoint.record, self.checkpoint.sizes
        return {
            "weights": sizes.get("ema", max(sizes.values(), default=0)),
            "step": record.step,
            "iterations": record.run.iterations,
            "seconds": history.seconds_of(self.rows, record.run.batch),
            "loss": history.late_loss(self.rows),
        }


def flat(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Nested options by dotted names; of a method's or network's, its kind in front."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        name = path + key.removesuffix("_options")
        result |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return result


def folders(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The runs of these names, each once; those of a sweep's folder in its place.

    Apart from them the runs of sweeps that have no checkpoint yet. Raises UserError where there is
    no other one.
    """
    runs: dict[str, bool] = {}
    for name in names:
        of_sweep = sweep.runs_in(Path(name))
        if of_sweep is None:
            runs[name] = True
            continue
        places = [Path(name) / run for run in of_sweep]
        runs |= {str(place): bool(RunFolder(place).checkpoints()) for place in places}
    there = [run for run, is_there in runs.items() if is_there]
    if not there:
        raise UserError(
            f"{', '.join(names)}: no run has a checkpoint yet; the sweep's own command goes on"
        )
    return there, [run for run in runs if run not in there]


def open_subject(name: str) -> Subject:
    """A run of that name. Raises UserError or StorageError where there is none."""
    checkpoint, folder = find(name), Path(name)
    results = scores.read(folder, checkpoint.record.fingerprint)
    return Subject(name, checkpoint, history.rows_of(folder), results)


@dataclass(frozen=True)
class Comparison:
    """Runs and what they have apart and alike; `left_out`: those that have no checkpoint yet."""

    subjects: list[Subject]
    left_out: list[str]

    @property
    def titles(self) -> list[str]:
        """Of each run the last part of its path, or the whole where another one ends alike."""
        ends = [Path(one.name).name for one in self.subjects]
        return [
            end if ends.count(end) == 1 else one.name
            for end, one in zip(ends, self.subjects, strict=True)
        ]

    @property
    def different(self) -> list[str]:
        """The names of settings that differ, a setting that a run does not have included."""
        runs = [one.settings for one in self.subjects]
        names = dict.fromkeys(name for run in runs for name in run)
        return [n for n in names if len({json.dumps(run.get(n, "")) for run in runs}) > 1]

    @property
    def alike(self) -> dict[str, Any]:
        """The settings that all runs have alike."""
        different = {*self.different}
        return {n: v for n, v in self.subjects[0].settings.items() if n not in different}

    @property
    def columns(self) -> list[str]:
        """The scores that some run has."""
        return [*dict.fromkeys(key_of(r) for one in self.subjects for r in one.results)]

    def to_json(self) -> dict[str, Any]:
        different = self.different
        runs = [
            {
                "run": one.name,
                "fingerprint": one.checkpoint.record.fingerprint,
                "settings": {n: one.settings[n] for n in different if n in one.settings},
                **one.facts,
                "scores": {
                    key_of(r): {"value": r.value, "interval": r.interval} for r in one.results
                },
            }
            for one in self.subjects
        ]
        return {
            "different": different,
            "alike": self.alike,
            "runs": runs,
            "left_out": self.left_out,
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """(head, rows): a column for each of a few runs, a row for each of many."""
        different, columns = self.different, self.columns
        lines = [["run", *self.titles]]
        settings = [one.settings for one in self.subjects]
        lines += [[name, *(word(run.get(name, "-")) for run in settings)] for name in different]
        facts = [one.facts for one in self.subjects]
        lines += [[name, *(word(run[name]) for run in facts)] for name in FACTS]
        results = [{key_of(r): r.value for r in one.results} for one in self.subjects]
        lines += [[name, *(word(run.get(name, "-")) for run in results)] for name in columns]
        if len(self.subjects) > ACROSS:
            lines = [list(row) for row in zip(*lines, strict=True)]
        head, *rows = lines
        return head, rows

    def notes(self) -> list[str]:
        """How many settings are alike, and which runs have no checkpoint or no scores."""
        lines = [f"{len(self.alike)} settings are alike"]
        if self.left_out:
            count = len(self.left_out)
            names = first_of(self.left_out)
            lines.append(f"{count} without a checkpoint yet, not shown: {names}")
        pairs = zip(self.titles, self.subjects, strict=True)
        without = [title for title, one in pairs if not one.results]
        if without:
            lines.append(f"no scores of {first_of(without)}: --eval computes them")
        return lines

    def text(self) -> str:
        head, rows = self.table()
        return "\n".join([text_table(rows, head), *self.notes()])

    def write(self, path: Path) -> None:
        """A page with the table and the learning curves."""
        page = report.page(self.title, self.notes(), self.sections(), note=f"fewstep {__version__}")
        with storage(f"cannot write {path}"):
            report.write(path, page)

    @property
    def title(self) -> str:
        return f"Comparison of {len(self.subjects)} runs"

    def sections(self) -> list[Section]:
        """The table and the learning curves."""
        head, rows = self.table()
        names = [[one.name] for one in self.subjects]
        curves = learning_curves(dict(zip(self.titles, names, strict=True)))
        alike = [f"{name} = {word(value)}" for name, value in self.alike.items()]
        return [
            Section(title="What differs", tables=[report.Table(head, rows)]),
            Section(title="Learning curves", figures=[curves]),
            Section(title="What is alike", text=[", ".join(alike)]),
        ]


def word(value: Any) -> str:
    """A setting or number for a reader."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ",".join(map(word, value)) or "-"
    return "-" if value is None else str(value)
