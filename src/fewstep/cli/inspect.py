"""fewstep inspect: what a run folder or checkpoint holds, verified."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fewstep.cli.parse import parse

if TYPE_CHECKING:
    from fewstep.run.checkpoint import Checkpoint

DESCRIPTION = (
    "Show the fingerprint, step and recipe of a run folder, checkpoint or shipped generator.\n\n"
    "example: fewstep inspect runs/digits"
)


@dataclass(frozen=True)
class Args:
    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """Run folder, checkpoint folder or shipped name."""
    html: Path | None = None
    """FILE.html: these facts, the curves of training and samples on one page."""
    json: bool = False
    """Print one JSON object."""


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="inspect", description=DESCRIPTION)
    from fewstep.data.description import text_of
    from fewstep.run.places import find

    checkpoint = find(args.path)
    record = checkpoint.record
    report = report_of(checkpoint)
    if args.html is not None:
        from fewstep.cli.run_page import write_page

        write_page(args.html, args.path, checkpoint, report)
    if args.json:
        print(json.dumps({**report, "run": record.run.to_json(), "facts": record.facts.to_json()}))
        return 0
    for key, value in report.items():
        print(f"{key:<12} {json.dumps(value) if isinstance(value, dict | list) else value}")
    if record.facts.description:
        print(text_of(record.facts.description, marks=True))
    if args.html is not None:
        print(args.html)
    return 0


def report_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a checkpoint holds, by name."""
    from fewstep.core.conventions import Convention

    record = checkpoint.record
    run = record.run.to_json()
    facts = record.facts.to_json()
    rows = record.teacher_rows
    origin: dict[str, Any] = {"source": record.source}  # of an import
    if run["convention"]:
        origin["predicts"] = str(Convention.from_json(run["convention"]))
    report: dict[str, Any] = {"path": str(checkpoint.path)}
    report |= {key: run[key] for key in ("recipe", "method", "network", "data")}
    for kind in ("init", "teacher"):
        if run.get(kind):
            report[kind] = f"{run[kind]} ({facts[kind][:16]})"
    report |= {name: one for name, one in origin.items() if one}
    report["step"] = record.step
    report["iterations"] = run["iterations"]
    if run.get("extend"):
        report["extend"] = run["extend"]
    if rows:
        report["asked"] = f"{rows / run['batch']:g} teacher evaluations of the batch"
    if record.skipped:
        report["skipped"] = len(record.skipped)
    report["seed"] = run["seed"]
    report |= {key: facts[key] for key in ("shape", "classes", "sigma_data")}
    if names := facts.get("names"):
        report["names"] = names
    report["weights"] = checkpoint.sizes
    report["format"] = record.format
    report["fingerprint"] = record.fingerprint
    return report
