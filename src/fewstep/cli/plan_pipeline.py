"""fewstep plan FOLDER: which cards have room for a distillation, and its hours."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fewstep.base.errors import require, unknown
from fewstep.base.table import text_table
from fewstep.cli import distill
from fewstep.run.machines import KINDS

if TYPE_CHECKING:
    from fewstep.pipelines.room import Fit, Room
    from fewstep.pipelines.task import Task
    from fewstep.run.config import Run


def plan(words: list[str], *, gpus: int, kind: str | None, as_json: bool) -> int:
    """Prints the plan of what `fewstep distill` would do with these words."""
    names = {word.partition("=")[0] for word in words}
    if not names & {"--prompts", "--images"}:
        words = [*words, "--prompts", "prompts.txt"]  # is not read
    require(gpus >= 1, "gpus", gpus, "1 or more")
    if kind is not None and kind not in KINDS:
        raise unknown("kind of machine", kind, KINDS)
    _, run, task, _, _ = distill.read(words, "plan")
    require(run.batch % gpus == 0, "gpus", gpus, f"a divisor of batch = {run.batch}")
    from fewstep.pipelines.folder import open_folder
    from fewstep.pipelines.room import fit_on, room_of

    room = room_of(open_folder(task.folder), run, task)
    fits = [fit_on(room, run, one, gpus) for one in (KINDS if kind is None else [kind])]
    if as_json:
        facts: dict[str, Any] = {**asdict(room), "cards": [asdict(fit) for fit in fits]}
        print(json.dumps({"recipe": run.recipe, "method": run.method, **facts}))
    else:
        print(text_of(run, task, room, fits, gpus))
    return 0


def text_of(run: Run, task: Task, room: Room, fits: list[Fit], gpus: int) -> str:
    """The plan in lines."""
    costs, own, teacher = room.costs, room.evaluations.own, room.evaluations.teacher
    passes = own.learn + own.look + own.tangent
    gb = 1e9
    changes = f" at rank {task.rank}" if task.rank else ""
    lines = [
        f"{run.recipe}, {run.method}: {run.iterations:,} updates of {run.batch} rows; estimated",
        f"weights    {costs.weights:,}, of which {costs.learning:,} learn{changes}",
        f"passes     {passes:.3g} of the student's for each row, the teacher's {teacher:.3g}",
        f"resident   {room.weights / gb:.1f} GB in {task.weights}, and what learns, gradients,"
        f" {run.optimizer}'s moments, averages {room.learning / gb:.1f} GB",
        f"a row      {room.row(False) / gb:.2f} GB, with --recompute {room.row(True) / gb:.2f}",
        f"cache      made with encoders of {room.encoders / gb:.1f} GB alone;"
        f" {room.prompt / 1e6:.2g} MB a prompt and {room.picture / 1e6:.2g} MB latents",
        "",
        table_of(run, fits, gpus),
    ]
    if own.tangent:
        lines.append(f"{run.method} writes attention out for its derivative, which is not counted")
    return "\n".join(lines)


def table_of(run: Run, fits: list[Fit], gpus: int) -> str:
    """A row for each kind of card."""
    from fewstep.training.pace import duration

    rows = []
    for fit in sorted(fits, key=lambda fit: fit.card):
        size = f"{fit.card / 1e9:.0f}"
        if fit.rows == 0:
            rows.append([size, fit.kind, f"{fit.memory / 1e9:.1f}", "", "", "too small"])
            continue
        options = [f"--accumulate {fit.accumulate}"] if fit.accumulate > 1 else []
        options += ["--recompute"] if fit.recompute else []
        hours = duration(fit.hours * 3600)
        need = f"{fit.memory / 1e9:.1f}"
        rows.append([size, fit.kind, need, str(fit.rows), hours, " ".join(options)])
    return text_table(rows, ["GB", "card", "needs", "rows", f"on {gpus}", "options"])
