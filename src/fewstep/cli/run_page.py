"""fewstep inspect --html: a run on one page."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewstep.analysis.report import Figure, Section, Table, page, pictures, write
from fewstep.base.errors import require, storage
from fewstep.run.checkpoint import Checkpoint, RunFolder
from fewstep.training.curves import curves
from fewstep.training.log import rows_of


def write_page(path: Path, name: str, checkpoint: Checkpoint, report: Mapping[str, Any]) -> None:
    """Writes what `report` says of the checkpoint of that name, its run's curves and samples.

    Raises UserError without matplotlib and jinja2.
    """
    require(not path.is_dir(), "html", str(path), "the name of a file, such as run.html")
    sections = []
    folder = RunFolder(checkpoint.path.parent.parent)
    is_of_run = checkpoint.path == folder.checkpoint(checkpoint.record.step)
    rows = rows_of(folder.metrics) if is_of_run else []
    if rows:
        alt = "loss, learning rate, norm of the gradient and scores against steps"
        figure = Figure(curves(rows, checkpoint.record.run), alt, kind="image/png")
        sections.append(Section(title="Training", figures=[figure]))
    samples = folder.samples / f"step-{checkpoint.record.step}.png"
    if is_of_run and samples.exists():
        sections.append(Section(title="Samples", figures=[pictures(samples, "samples")]))
    facts = [[key, _text(value)] for key, value in report.items()]
    commands = [f"fewstep {verb} {shlex.quote(name)}" for verb in ("sample", "eval", "doctor")]
    table = Table(["what", "value"], facts)
    sections.append(Section(title="Facts", tables=[table], commands=commands))
    record = checkpoint.record
    lead = [f"{record.run.method} on {record.run.data}, step {record.step}."]
    with storage(f"cannot write {path}"):
        write(path, page(f"Run {name}", lead, sections))


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)
