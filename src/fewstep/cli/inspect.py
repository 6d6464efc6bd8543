"""fewstep inspect: what a run folder or checkpoint holds, verified."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from fewstep.cli.parse import parse

DESCRIPTION = (
    "Show the fingerprint, step and recipe of a run folder, checkpoint or shipped generator.\n\n"
    "example: fewstep inspect runs/digits"
)


@dataclass(frozen=True)
class Args:
    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """Run folder, checkpoint folder or shipped name."""
    json: bool = False
    """Print one JSON object."""


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="inspect", description=DESCRIPTION)
    from fewstep.core.conventions import Convention
    from fewstep.data.description import text_of
    from fewstep.run.places import find

    checkpoint = find(args.path)
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
    if args.json:
        print(json.dumps({**report, "run": run, "facts": facts}))
        return 0
    for key, value in report.items():
        print(f"{key:<12} {json.dumps(value) if isinstance(value, dict | list) else value}")
    if record.facts.description:
        print(text_of(record.facts.description, marks=True))
    return 0
