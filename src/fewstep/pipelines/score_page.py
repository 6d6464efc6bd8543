"""Scores of a pipeline as a table, as JSON, and as a page of steps against quality."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fewstep.analysis import report
from fewstep.base.errors import storage
from fewstep.base.version import __version__
from fewstep.pipelines.scores import Scores
from fewstep.pipelines.tally import Score
from fewstep.statistics.intervals import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

MEANINGS = {
    "ode_latents": "mean squared difference to the teacher's solution from the same noise, latents",
    "ode_pixels": "the same of pixels in [-1, 1]",
    "clip": "cosine of picture and prompt in CLIP's space; higher is better",
    "aesthetic": "by the function that was given; higher is better",
    "diversity_pixels": "root mean square difference of two pictures of one prompt, in [-1, 1]",
    "diversity_clip": "1 - cosine of two pictures of one prompt in CLIP's space",
    "drift": "growth of ode_latents where both have the second LoRA: 0.1 is by a tenth",
}
IN_LINE = 4  # plots beside each other
CAPTION = "Bars: 95 % intervals over prompts. Grey: the teacher's own score and its interval."


def metrics_of(scores: Scores) -> list[str]:
    """The names of all scores in their order."""
    return list(dict.fromkeys(one.metric for one in scores.scores))


def rows_of(scores: Scores) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of a table: a row for each model and its steps."""
    names = metrics_of(scores)
    by_place = {(one.model, one.steps, one.metric): one for one in scores.scores}
    models = sorted({(one.model, one.steps) for one in scores.scores})
    rows = []
    for model, steps in models:
        own = [by_place.get((model, steps, name)) for name in names]
        rows.append([model, str(steps), *("-" if one is None else words_of(one) for one in own)])
    return ["model", "steps", *names], rows


def words_of(score: Score) -> str:
    """The value, and half of its interval."""
    if score.interval is None:
        return number(score.value)
    low, high = score.interval
    return f"{number(score.value)} ± {float(f'{(high - low) / 2:.2g}'):g}"


def notes_of(scores: Scores) -> list[str]:
    """What the numbers mean, and on what they were measured."""
    protocol = scores.protocol
    names = metrics_of(scores)
    count = protocol["prompts"] * len(protocol["seeds"])
    lines = [f"{name}: {MEANINGS[name]}" for name in names if name in MEANINGS]
    of = "the teacher's pictures of the same noise"
    if protocol["reference"] != "teacher":
        of = protocol["reference"]
    distances = [name for name in names if name not in MEANINGS]
    if distances:
        text = f"Fréchet distance of {count} pictures to {of}"
        few = f"; it falls with their number: compare it at {count} pictures alone"
        lines.append(f"{', '.join(distances)}: {text}{few}")
    for one in scores.scores:
        if one.parts:
            parts = ", ".join(f"{name} {number(value)}" for name, value in one.parts.items())
            lines.append(f"{one.metric} in {one.steps} steps: {parts}")
    teacher = protocol["teacher"]
    lines.append(
        f"{protocol['prompts']} prompts, seeds {', '.join(map(str, protocol['seeds']))}, teacher:"
        f" {teacher['steps']} steps of DDIM with guidance {teacher['guidance']:g}"
    )
    return lines


def text_of(scores: Scores, *, notes: bool = True) -> str:
    """The table for a terminal."""
    head, rows = rows_of(scores)
    return "\n".join([report.text_table(rows, head), *(notes_of(scores) if notes else [])])


def json_of(scores: Scores) -> dict[str, Any]:
    """Everything but pictures, as JSON's own types: what is no number is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [plain(part) for part in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    rows = [asdict(one) for one in scores.scores]
    facts: dict[str, Any] = plain(
        {"fewstep": __version__, "protocol": dict(scores.protocol), "scores": rows}
    )
    return facts


def drawing_of(scores: Scores, names: Sequence[str]) -> Drawing:
    """A plot of each of these metrics against the student's steps."""
    drawing, plots = report.axes(len(names), width=max(3.2 * len(names), 4.5), height=3.2)
    for name, ax in zip(names, plots, strict=True):
        own = [one for one in scores.scores if one.metric == name]
        points = sorted((one for one in own if one.model == "student"), key=lambda one: one.steps)
        y = [one.value for one in points]
        ends = [one.interval or (one.value, one.value) for one in points]
        ax.errorbar(
            [one.steps for one in points],
            y,
            np.abs(np.array(ends).T - y),
            color=report.COLOURS[0],
            marker="o",
        )
        for one in (one for one in own if one.model == "teacher"):
            ax.axhline(one.value, color="#777777", linewidth=0.8)
            if one.interval is not None:
                ax.axhspan(*one.interval, color="#999999", alpha=0.16, linewidth=0)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set(xlabel="steps", title=name)
    return drawing


def strip_of(scores: Scores) -> bytes:
    """The first pictures as a PNG: a column for each prompt, a row for each model."""
    rows = [np.concatenate([*one.permute(0, 2, 3, 1).numpy()], 1) for one in in_order(scores)]
    file = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(file, "PNG")
    return file.getvalue()


def in_order(scores: Scores) -> list[Any]:
    """The pictures, of the fewest steps first and of the teacher last."""
    return [scores.pictures[key] for key in sorted(scores.pictures)]


def write(folder: Path, name: str, scores: Scores, command: str) -> None:
    """frontier.json, frontier.png and report.html in the folder. Raises StorageError."""
    names = metrics_of(scores)
    parts = [names[first : first + IN_LINE] for first in range(0, len(names), IN_LINE)]
    curves = [
        report.Figure(report.svg(drawing_of(scores, part)), f"{', '.join(part)} against steps")
        for part in parts
    ]
    curves[-1] = replace(curves[-1], caption=CAPTION)
    order = ", ".join(f"{model} {steps}" for model, steps in sorted(scores.pictures))
    strip = report.Figure(
        strip_of(scores), "pictures", f"From the same noise, row by row: {order}.", "image/png"
    )
    head, rows = rows_of(scores)
    sections = [
        report.Section(
            title="Steps against quality",
            figures=[*curves, strip],
            tables=[report.Table(head, rows)],
        ),
        report.Section(title="How this was measured", points=notes_of(scores), commands=[command]),
    ]
    note = f"fewstep {__version__}; every number is in frontier.json beside this page."
    page = report.page(f"What each step buys: {name}", [], sections, note=note)
    with storage(f"cannot write to {folder}"):
        report.write(folder / "frontier.json", json.dumps(json_of(scores), indent=1))
        report.png(drawing_of(scores, names), folder / "frontier.png")
        report.write(folder / "report.html", page)
