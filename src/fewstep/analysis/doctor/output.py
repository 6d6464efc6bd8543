"""An examination as text for the terminal, as JSON, and as a page with its figure."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.analysis import report
from fewstep.analysis.doctor.examination import Examination
from fewstep.analysis.doctor.subject import Subject
from fewstep.analysis.doctor.verdicts import Cell, Measure
from fewstep.analysis.metrics.drawing import default_steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 116
ALWAYS = ("loss by noise level", "denoising by noise level")  # tables that are always printed
_SAMPLES = "Samples of the average, all from the same noise, beside rows of the data."
_NO_SAMPLES = "Not drawn: a teacher is examined by its answers, and no run says how it is sampled."
COLOUR = {"ok": "good", "watch": "open", "broken": "bad"}


def text(examination: Examination, *, full: bool = False) -> str:
    """A paragraph for each measure, the tables that matter (`full`: all), the overall verdict."""
    lines = [f"{examination.name}: {examination.about}", ""]
    for measure in examination.measures:
        if measure.rows and (full or measure.name in ALWAYS or measure.severity != "ok"):
            lines += ["", report.text_table(cells(measure), measure.columns), ""]
        lines += paragraphs(measure)
    return "\n".join([*lines, "", overall(examination)]).replace("\n\n\n", "\n\n")


def paragraphs(measure: Measure) -> list[str]:
    """The lines of a measure: one paragraph of all that is ok, or one for each fault."""
    if measure.missing:
        return _paragraph("-", measure.name, f"not measured: {measure.missing}")
    faults = [verdict for verdict in measure.verdicts if verdict.severity != "ok"]
    if not faults:
        messages = [verdict.message for verdict in measure.verdicts]
        return _paragraph("ok", measure.name, "; ".join(messages))
    lines = []
    for one in faults:
        lines += _paragraph(one.severity.upper(), measure.name, f"{one.message} [{one.name}]")
    return lines


def _paragraph(mark: str, name: str, message: str) -> list[str]:
    start = f"{mark:<7} {name:<20} "
    return textwrap.wrap(
        message,
        WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
    )


def overall(examination: Examination) -> str:
    """The last line: the faults, the worst first, or that there are none."""
    if not examination.verdicts:
        return "verdict: nothing could be measured"
    if examination.severity == "ok":
        count = sum(not measure.missing for measure in examination.measures)
        return (
            f"verdict: healthy by all {count} measures that could be taken; how good samples are:"
            " fewstep eval"
        )
    parts = []
    for severity, title in (("broken", "broken"), ("watch", "to watch")):
        names = [one.name for one in examination.verdicts if one.severity == severity]
        if names:
            parts.append(f"{title}: {', '.join(dict.fromkeys(names))}")
    return f"verdict: {'; '.join(parts)}"


def cell(value: Cell) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def cells(measure: Measure) -> list[list[str]]:
    """The rows of the measure's table as words."""
    return [[cell(value) for value in row] for row in measure.rows]


def as_json(examination: Examination) -> dict[str, Any]:
    """One object; numbers that JSON does not have are null."""
    facts: dict[str, Any] = _finite_or_null(
        {
            "name": examination.name,
            "about": examination.about,
            "severity": examination.severity,
            "verdict": overall(examination),
            "measures": [measure.to_json() for measure in examination.measures],
        }
    )
    return facts


def _finite_or_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite_or_null(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_or_null(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw(places: Sequence[Axes], measure: Measure) -> None:
    """Columns of a table by level: losses in one plot, errors and their bounds in another."""
    columns = dict(zip(measure.columns, zip(*measure.rows, strict=True), strict=True))
    for place, (label, names) in zip(places, _curves(measure), strict=True):
        for name in names:
            style: Any = {"ls": "--", "color": "#888888"} if name == "bound" else {"marker": "o"}
            place.plot(columns["level"], columns[name], label=name, **style)
        place.set(xscale="log", yscale="log", xlabel="noise level", ylabel=label)
        place.legend()


def _curves(measure: Measure) -> list[tuple[str, list[str]]]:
    """(axis label, columns) of each plot; columns that lack a number are left out."""
    complete = [
        name
        for i, name in enumerate(measure.columns)
        if all(row[i] is not None for row in measure.rows)
    ]
    losses = [name for name in complete if name.startswith("loss")]
    errors = [name for name in complete if name.startswith(("error", "bound", "posterior"))]
    plots = (("the method's loss", losses), ("E||D - x0||² / d", errors))
    return [(label, names) for label, names in plots if names]


def write_page(examination: Examination, folder: Path, subject: Subject | None = None) -> Path:
    """Writes doctor.html, and each figure as a PNG beside it.

    subject: the run, whose samples are drawn; without one it is said that there are none. Raises
    UserError without matplotlib or jinja2.
    """
    sections = [_samples(subject, folder / "samples.png")]
    sections += [section(measure, folder) for measure in examination.measures]
    lead = [examination.about, overall(examination)]
    page = report.page(f"Examination of {examination.name}", lead, sections)
    return report.write(folder / "doctor.html", page)


def _samples(subject: Subject | None, path: Path) -> report.Section:
    """Samples of the run's average by its usual numbers of steps, beside rows of its data."""
    if subject is None:
        return report.Section(title="samples", text=[_NO_SAMPLES])
    generator = subject.generator(subject.ema)
    origins = [
        report.Origin(f"{steps} step{'s' * (steps > 1)}", generator, steps)
        for steps in default_steps(generator)
    ]
    options: dict[str, Any] = {"seed": subject.seed, "batch": subject.batch}
    figure = report.samples(path, origins, subject.dataset, caption=_SAMPLES, **options)
    return report.Section(title="samples", figures=[figure])


def section(measure: Measure, folder: Path | None = None) -> report.Section:
    """A measure's part of a page; folder: where its figure goes as a PNG too."""
    figures = []
    if measure.name in ALWAYS and measure.rows:
        drawing, places = report.axes(len(_curves(measure)))
        draw(places, measure)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            report.png(drawing, folder / f"{measure.name.replace(' ', '-')}.png")
        figures = [report.Figure(report.svg(drawing), f"{measure.name}: its table as curves")]
    tables = []
    if measure.rows:
        tables = [report.Table(measure.columns, cells(measure), measure.definition)]
    messages = [verdict.message for verdict in measure.verdicts]
    limits = [
        f"{one.name}: {cell(one.value)}, ok up to {cell(one.threshold)} ({one.against})"
        for one in measure.verdicts
    ]
    return report.Section(
        title=measure.name,
        verdict=None if measure.missing else (COLOUR[measure.severity], measure.severity),
        text=[f"not measured: {measure.missing}"] if measure.missing else messages,
        figures=figures,
        tables=tables,
        points=limits,
    )
