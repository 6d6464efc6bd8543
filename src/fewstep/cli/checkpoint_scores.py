"""fewstep eval --all-checkpoints: generation and denoising along the training of a run."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.base.errors import UserError

if TYPE_CHECKING:
    from fewstep.analysis.metrics import Result
    from fewstep.cli.eval import Args
    from fewstep.data import Dataset
    from fewstep.run.generator import Generator

log = logging.getLogger("fewstep")


@dataclass(frozen=True)
class Row:
    """The scores of one checkpoint."""

    step: int
    stage: int
    results: list[Result]

    def by_name(self) -> dict[str, Result]:
        """The results by metric, and number of steps where that is not 1."""
        return {r.metric + (f" in {r.steps}" if r.steps > 1 else ""): r for r in self.results}


def score(args: Args, last: Generator, dataset: Dataset, options: dict[str, Any]) -> list[Row]:
    """The scores of every checkpoint in the run's folder, the oldest first.

    All are drawn from the same noise. Raises UserError where RUN is no run folder.
    """
    from fewstep.analysis.metrics import evaluate, spaces_of
    from fewstep.cli.eval import open_generator, open_teacher
    from fewstep.run.checkpoint import KEEP, RunFolder, read

    paths = RunFolder(Path(args.run)).checkpoints()[::-1]
    if not paths:
        raise UserError(f"--all-checkpoints: {args.run}: expected a run folder with checkpoints")
    if last.run.keep_checkpoints == KEEP and not args.quiet:
        log.warning(
            "fewstep: %s keeps its last %d checkpoints: train with --keep-checkpoints 0 for the"
            " whole curve",
            args.run,
            KEEP,
        )
    if options["metrics"] is None:
        choices = spaces_of(dataset, options["extractor"]).metrics()
        options["metrics"] = [
            name
            for name, (space, row) in choices.items()
            if row.from_moments is not None and row.is_default(space)
        ]
    rows = []
    for path in paths:
        record = read(path).record
        stage = record.stage or 1
        composite = args.composite and stage > 1
        generator = open_generator(args, path, last.room.world, composite=composite)
        if args.teacher is not None:  # on the process of the checkpoint's stage
            options["teacher"] = open_teacher(args, args.teacher, generator)
        results, _ = evaluate(generator, dataset, **options)
        rows.append(Row(record.step, stage, results))
    return rows


def show(rows: list[Row], *, as_json: bool, picture: Path | None, quiet: bool) -> None:
    """Prints the table or JSON, and draws the picture."""
    from fewstep.cli import score_text

    if picture is not None:
        draw(rows, picture)
    if as_json:
        print(json.dumps({"checkpoints": [asdict(row) for row in rows]}))
        return
    print(table(rows))
    if not quiet:
        print("\n".join(score_text.notes(rows[-1].results)))
    if picture is not None:
        print(picture)


def table(rows: list[Row]) -> str:
    """A line for each checkpoint, a column for each metric, and the floors last."""
    from fewstep.base.table import text_table
    from fewstep.cli.score_text import number

    names = list(rows[-1].by_name())
    lines = [
        [str(row.step), str(row.stage), *(number(row.by_name()[name].value) for name in names)]
        for row in rows
    ]
    floors = rows[-1].by_name()
    lines.append(["floor", "", *(number(floors[name].floor) for name in names)])
    return text_table(lines, ["step", "stage", *names])


def draw(rows: list[Row], path: Path) -> None:
    """Writes the picture: samples and denoised data by step, and a line where a stage begins.

    Of one space: that of features where there are any. Raises UserError without matplotlib.
    """
    from fewstep.analysis.metrics.denoised import NAME
    from fewstep.base.figures import axes, png

    names = list(rows[-1].by_name())
    denoised = [name for name in names if name.startswith(NAME)]
    main = denoised[0].removeprefix(NAME).partition("@")[0] if denoised else names[0]
    panels = {
        "samples": [name for name in names if name.partition(" in ")[0] == main],
        "denoised held-out data": [name for name in denoised if name.startswith(f"{NAME}{main}@")],
    }
    panels = {title: own for title, own in panels.items() if own}
    drawing, plots = axes(len(panels), width=4.3 * len(panels), height=3.4)
    steps = [row.step for row in rows]
    later = [b.step for a, b in pairwise(rows) if a.stage < b.stage]
    for ax, (title, own) in zip(plots, panels.items(), strict=True):
        for name in own:
            values = [row.by_name()[name].value for row in rows]
            label = f"noise level {name.partition('@')[2]}" if "@" in name else name
            ax.plot(steps, values, "o-", label=label)
        floor = rows[-1].by_name()[own[0]].floor
        if floor is not None:
            ax.axhline(floor, color="#777777", linewidth=0.8, label="held-out data")
        for step in later:
            ax.axvline(step, color="#777777", linestyle=":", label=f"second stage, by {step}")
        ax.set(xlabel="step", ylabel=main, yscale="log", title=title)
        ax.legend()
    png(drawing, path)
