"""fewstep inspect: what a run folder or checkpoint holds, verified."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from typing import Annotated

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
    from fewstep.run.generator import find

    checkpoint = find(args.path)
    record = checkpoint.record
    run = record.run.to_json()
    facts = record.facts.to_json()
    rows = record.teacher_rows
    weights = {
        name: sum(prod(e.shape) for e in group.values())
        for name, group in checkpoint.layout().items()
    }
    shown = {
        "path": str(checkpoint.path),
        "recipe": run["recipe"],
        "method": run["method"],
        "network": run["network"],
        "data": run["data"],
        **{
            kind: f"{run[kind]} ({facts[kind][:16]})"
            for kind in ("init", "teacher")
            if run.get(kind)
        },
        "step": record.step,
        "iterations": run["iterations"],
        **({"asked": f"{rows / run['batch']:g} teacher evaluations of the batch"} if rows else {}),
        **({"skipped": len(record.skipped)} if record.skipped else {}),
        "seed": run["seed"],
        "shape": facts["shape"],
        "classes": facts["classes"],
        "sigma_data": facts["sigma_data"],
        "weights": weights,
        "format": record.format,
        "fingerprint": record.fingerprint,
    }
    if args.json:
        print(json.dumps({**shown, "run": run}))
        return 0
    for key, value in shown.items():
        print(f"{key:<12} {json.dumps(value) if isinstance(value, dict | list) else value}")
    return 0
