"""fewstep replay: makes a step whose numbers were not finite again, from its incident."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from fewstep.cli.parse import parse
from fewstep.cli.user_code import own_parts

DESCRIPTION = (
    "Make the step of an incident again, bit for bit, and say where its numbers stop being"
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

    found = replay(args.path, teacher=args.teacher, device=args.device, **own_parts(args))
    rows = [
        {
            "row": i,
            "sample": int(found.rows[i]),
            "t": float(found.times[i]),
            "loss": str(float(found.loss[i])),
        }
        for i in found.bad.tolist()
    ]
    shown: dict[str, Any] = {
        "step": found.step,
        "same": found.same,
        "error": found.error,
        "rows": len(found.loss),
        "not_finite": rows,
        "module": found.module,
        "weight": found.weight,
    }
    print(json.dumps(shown) if args.json else told(shown))
    return 0 if found.same else 1


def told(shown: dict[str, Any]) -> str:
    """The replay in words."""
    bad = shown["not_finite"]
    lines = [
        (
            f"step {shown['step']}:"
            f" {'the same losses to the bit' if shown['same'] else 'OTHER losses than it gave'}"
        ),
        f"it was told: {shown['error']}",
        f"not finite: {len(bad)} of {shown['rows']} losses",
        *(
            f"  row {row['row']}: sample {row['sample']}, t = {row['t']:.6g}, loss {row['loss']}"
            for row in bad[:10]
        ),
        *([f"  and {len(bad) - 10} more"] if len(bad) > 10 else []),
        f"first module: {shown['module'] or 'none, all passes are finite'}",
        f"first gradient: {shown['weight'] or 'none, all gradients are finite'}",
    ]
    return "\n".join(lines)
