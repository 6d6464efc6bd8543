"""The page of a sweep: its table, learning curves, scores by setting, and the commands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewstep.analysis import report
from fewstep.analysis.report import COLOURS, Figure, Section
from fewstep.base.version import __version__
from fewstep.statistics.intervals import interval
from fewstep.studies import history
from fewstep.studies.sweep import Entry
from fewstep.studies.table import MIXED, Row, Table

NAME = "sweep.html"
GREY = "#bbbbbb"  # of what is behind the best ones


def write(folder: Path, table: Table, entries: Sequence[Entry]) -> None:
    """Writes sweep.html. Raises UserError without matplotlib or jinja2."""
    by_steps: dict[str, list[str]] = {}
    for name in table.columns:
        by_steps.setdefault(name.partition("@")[2], []).append(name)
    tables = [
        report.Table(
            [*table.axes, "runs", *(name.partition("@")[0] for name in columns)],
            table.cells(columns),
            caption=_caption(steps),
            strong=frozenset([0]),
        )
        for steps, columns in by_steps.items()
    ]
    lead = (
        f"{len(entries)} runs of {table.recipe}, {len(table.rows)} settings. Numbers are means over"
        " the runs of a setting ± half of the 95 % Student interval; the best setting by"
        f" {table.columns[0] if table.columns else 'nothing'} is first. Scores are of the"
        " validation split: what is chosen by them is to be scored once more on the test split, by"
        " fewstep eval."
    )
    if table.is_mixed:
        lead += f" But {MIXED}."
    figures = [learning_curves({label(row): row.runs for row in table.rows}, folder)]
    if table.columns:
        figures.append(_by_setting(table))
    sections = [
        Section(title="Scores", tables=tables),
        Section(title="Curves", figures=figures),
    ]
    if table.failures:
        points = [f"{name}: {reason}" for name, reason in table.failures.items()]
        sections.append(Section(title="Failed runs", points=points))
    commands = [f"{entry.name}: {entry.command}" for entry in entries]
    sections.append(Section(title="Runs", commands=commands))
    note = f"fewstep {__version__}; every number is in table.json beside this page."
    report.write(
        folder / NAME, report.page(f"Sweep of {table.recipe}", [lead], sections, note=note)
    )


def _caption(steps: str) -> str:
    if not steps:
        return "Mean of the last tenth of the log."
    return f"Samples of {steps} network evaluation{'s' * (steps != '1')}."


def label(row: Row) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.settings.items()) or "all seeds"


def learning_curves(groups: Mapping[str, Sequence[str]], folder: Path = Path()) -> Figure:
    """The losses of groups of runs, each a line with a band: name -> folders, the best first."""
    drawing, (ax,) = report.axes(height=3.6)
    for number, (name, runs) in reversed([*enumerate(groups.items())]):
        curves = [history.curve(rows) for run in runs if (rows := history.rows_of(folder / run))]
        if not curves:
            continue
        steps, _ = max(curves, key=lambda one: len(one[0]))
        losses = [losses for own, losses in curves if own == steps]  # the whole ones alone
        is_named = number < len(COLOURS)
        style: dict[str, Any] = {"color": COLOURS[number] if is_named else GREY, "marker": ""}
        columns = [*zip(*losses, strict=True)]
        report.line(ax, steps, columns, name if is_named else "_", **style)
    ax.set(xlabel="step", ylabel="loss")
    low, high = ax.dataLim.intervaly
    if 0 < low < high / 6:
        ax.set_yscale("log")
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        ax.legend(handles[::-1], labels[::-1])
    caption = (
        "Loss along the training, mean of each fortieth of the log; bands are 95 % Student"
        " intervals over seeds. Losses of different methods, batches or weights are not comparable."
    )
    return Figure(report.svg(drawing), "learning curves", caption)


def _by_setting(table: Table) -> Figure:
    """The first column with its intervals, a line for each setting."""
    name = table.columns[0]
    rows = [row for row in table.rows if name in row.values][:30]
    drawing, (ax,) = report.axes(height=0.9 + 0.3 * len(rows))
    for place, row in enumerate(rows):
        mean, low, high = interval(row.values[name])
        colour = COLOURS[place] if place < len(COLOURS) else GREY
        if math.isfinite(low):
            ax.plot([low, high], [place, place], color=colour)
        ax.plot([mean], [place], "o", color=colour, markersize=6)
        ax.plot(row.values[name], [place + 0.25] * len(row.values[name]), ".", color="grey")
    ax.set(xlabel=name, yticks=range(len(rows)), yticklabels=[label(row) for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    caption = (
        f"{name} by setting: mean and 95 % interval over the runs, and below them each run as a"
        " point."
    )
    return Figure(report.svg(drawing), f"{name} by setting", caption)
