"""fewstep replay: repeats a step whose numbers were not finite, from its incident."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from fewstep.cli.parse import parse
from fewstep.cli.user_code import own_parts

DESCRIPTION = (
    "Repeat the step of an incident, bit for bit, and say where its numbers stop being"
    " finite.\n\nexample: fewstep replay runs/digits/incidents/step-1200"
)


@dataclass(frozen=True)
class Args:
    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="INCIDENT")]
    """Folder below the incidents/ of a run."""
    network: str | None = None
    """Your own network, package.module:function, where the run has one."""
    method: str | None = None
    """Your own method, likewise."""
    teacher: str | None = None
    """The run's teacher, where it is no longer where the run found it."""
    device: str = "auto"
    """cpu, cuda, mps or auto, the first there is."""
    json: bool = False
    """Print one JSON object."""


def main(argv: list[str]) -> int:
    """0 where the losses are those of the incident to the bit, 1 where they are not."""
    args = parse(Args, argv, verb="replay", description=DESCRIPTION)
    from fewstep.training.replay import replay

    result = replay(args.path, teacher=args.teacher, device=args.device, **own_parts(args))
    rows = [
        {
            "row": i,
            "sample": int(result.rows[i]),
            "t": float(result.times[i]),
            "loss": str(float(result.loss[i])),
        }
        for i in result.bad.tolist()
    ]
    report: dict[str, Any] = {
        "step": result.step,
        "same": result.same,
        "error": result.error,
        "rows": len(result.loss),
        "not_finite": rows,
        "module": result.module,
        "weight": result.weight,
    }
    print(json.dumps(report) if args.json else text(report))
    return 0 if result.same else 1


def text(report: dict[str, Any]) -> str:
    """The report for people."""
    losses = "the same losses to the bit" if report["same"] else "OTHER losses than it gave"
    bad = report["not_finite"]
    lines = [
        f"step {report['step']}: {losses}",
        f"error of the run: {report['error']}",
        f"not finite: {len(bad)} of {report['rows']} losses",
    ]
    for row in bad[:10]:
        lines.append(
            f"  row {row['row']}: sample {row['sample']}, t = {row['t']:.6g}, loss {row['loss']}"
        )
    if len(bad) > 10:
        lines.append(f"  and {len(bad) - 10} more")
    lines += [
        f"first module: {report['module'] or 'none, all passes are finite'}",
        f"first gradient: {report['weight'] or 'none, all gradients are finite'}",
    ]
    return "\n".join(lines)
