"""An examination as text for the terminal, as JSON, and as a page with its figure."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.analysis.doctor.examination import Examination
from fewstep.analysis.doctor.verdicts import Cell, Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 116
TOLD = ("loss by noise level", "denoising by noise level")  # tables that are always shown
_COLOUR = {"ok": "good", "watch": "open", "broken": "bad"}


def text(examination: Examination, *, full: bool = False) -> str:
    """Lines of words, the tables that matter (with `full` all), and the overall verdict as the last
    line.
    """
    lines = [f"{examination.name}: {examination.about}", ""]
    for measure in examination.measures:
        if measure.rows and (full or measure.name in TOLD or measure.severity != "ok"):
            lines += ["", *table(measure), ""]
        lines += [line for told in spoken(measure) for line in told]
    return "\n".join([*lines, "", overall(examination)]).replace("\n\n\n", "\n\n")


def spoken(measure: Measure) -> list[list[str]]:
    """One paragraph of a measure where all is well or nothing is known, else one of each verdict
    that is not ok.
    """
    if measure.missing:
        return [_hanging("-", measure.name, f"not measured: {measure.missing}")]
    ill = [verdict for verdict in measure.verdicts if verdict.severity != "ok"]
    if not ill:
        return [
            _hanging("ok", measure.name, "; ".join(verdict.words for verdict in measure.verdicts))
        ]
    return [
        _hanging(verdict.severity.upper(), measure.name, f"{verdict.words} [{verdict.name}]")
        for verdict in ill
    ]


def _hanging(mark: str, name: str, words: str) -> list[str]:
    start = f"{mark:<7} {name:<20} "
    return textwrap.wrap(
        words,
        WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
    )


def overall(examination: Examination) -> str:
    """The last line: how many faults, and which is the gravest."""
    ill = [one for one in examination.verdicts if one.severity != "ok"]
    if not ill:
        taken = sum(not measure.missing for measure in examination.measures)
        return (
            f"verdict: healthy by all {taken} measures that could be taken; how good samples are:"
            " fewstep eval"
        )
    worst, watch = (
        list(dict.fromkeys(one.name for one in ill if one.severity == severity))
        for severity in ("broken", "watch")
    )
    told = [f"broken: {', '.join(worst)}"] * bool(worst) + [f"to watch: {', '.join(watch)}"] * bool(
        watch
    )
    return f"verdict: {'; '.join(told)}"


def cell(value: Cell) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "-" if value is None else str(value)


def table(measure: Measure) -> list[str]:
    """The rows in columns as wide as they need."""
    rows = [tuple(measure.columns), *(tuple(cell(value) for value in row) for row in measure.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(measure.columns))]
    return [
        "  ".join(f"{value:>{width}}" for value, width in zip(row, widths, strict=True))
        for row in rows
    ]


def as_json(examination: Examination) -> dict[str, Any]:
    """One object; numbers that JSON does not know are null."""
    whole = {
        "name": examination.name,
        "about": examination.about,
        "severity": examination.severity,
        "verdict": overall(examination),
        "measures": [
            {**asdict(measure), "severity": measure.severity} for measure in examination.measures
        ],
    }
    cleaned: dict[str, Any] = _clean(whole)
    return cleaned


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _clean(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw(places: Sequence[Axes], measure: Measure) -> None:
    """Columns of a table by level: what is called a loss in one plot, errors and their bounds in
    another.
    """
    columns = dict(zip(measure.columns, zip(*measure.rows, strict=True), strict=True))
    for place, (what, names) in zip(places, _curves(measure), strict=True):
        for name in names:
            dashed: Any = {"ls": "--", "color": "#888888"} if name == "bound" else {"marker": "o"}
            place.plot(columns["level"], columns[name], label=name, **dashed)
        place.set(xscale="log", yscale="log", xlabel="noise level", ylabel=what)
        place.legend()


def _curves(measure: Measure) -> list[tuple[str, list[str]]]:
    """What a figure shows, plot by plot: the name of its axis and the columns, those without a
    number left out.
    """
    known = [
        name
        for i, name in enumerate(measure.columns)
        if all(row[i] is not None for row in measure.rows)
    ]
    losses = [name for name in known if name.startswith("loss")]
    errors = [name for name in known if name.startswith("error") or name in ("bound", "posterior")]
    plots = (("the method's loss", losses), ("E||D - x0||² / d", errors))
    return [(what, names) for what, names in plots if names]


def write_page(examination: Examination, folder: Path) -> Path:
    """doctor.html, and the figure by itself as doctor.png. Raises UserError without matplotlib or
    jinja2.
    """
    from fewstep.analysis import report

    sections = []
    for measure in examination.measures:
        figures = []
        if measure.name in TOLD and measure.rows:
            drawing, places = report.axes(len(_curves(measure)))
            draw(places, measure)
            folder.mkdir(parents=True, exist_ok=True)
            report.png(drawing, folder / f"{measure.name.replace(' ', '-')}.png")
            figures = [report.Figure(report.svg(drawing), f"{measure.name}: its table as curves")]
        rows = [[cell(value) for value in row] for row in measure.rows]
        tables = [report.Table(list(measure.columns), rows, measure.definition)] if rows else []
        words = [verdict.words for verdict in measure.verdicts]
        limits = [
            f"{v.name}: {cell(v.value)}, ok up to {cell(v.threshold)} ({v.against})"
            for v in measure.verdicts
        ]
        said = (f"not measured: {measure.missing}",) if measure.missing else tuple(words)
        verdict = None if measure.missing else (_COLOUR[measure.severity], measure.severity)
        sections.append(report.Section(title=measure.name, verdict=verdict, text=said, figures=figures,
                                       tables=tables, points=limits))  # fmt: skip
    lead = [examination.about, overall(examination)]
    return report.write(
        folder / "doctor.html", report.page(f"Examination of {examination.name}", lead, sections)
    )
