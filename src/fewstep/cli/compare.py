"""fewstep compare: runs side by side."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fewstep.base.errors import UserError
from fewstep.cli.parse import parse

if TYPE_CHECKING:
    from fewstep.studies.comparison import Subject

DESCRIPTION = (
    "Show runs side by side: the settings that differ, weights, steps, seconds, last losses, and"
    " scores: those that the run folders have from a sweep, or with --eval new ones, on the"
    " validation split. A sweep's folder stands for all its runs.\n\n"
    "example: fewstep compare runs/a runs/b --eval --out comparison.html"
)


@dataclass(frozen=True)
class Args:
    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folders, shipped names, or folders of sweeps."""
    scores: Annotated[bool, tyro.conf.arg(name="eval")] = False
    """Score the runs that have no such scores yet; a run folder keeps them."""
    steps: tuple[int, ...] | None = None
    """With --eval: network evaluations; left out, those of eval."""
    metrics: tuple[str, ...] | None = None
    """With --eval: metrics such as feature_frechet,energy; left out, those of eval."""
    n: int = 10_000
    """With --eval: samples to generate for the scores of a run."""
    device: str = "auto"
    """With --eval: cpu, cuda, mps or auto, the first there is."""
    out: Path | None = None
    """FILE.html with the table and the learning curves."""
    json: bool = False
    """Print one JSON object."""


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="compare", description=DESCRIPTION)
    check(args)
    from fewstep.studies.comparison import Comparison, folders, open_subject

    names, left_out = folders(args.runs)
    subjects = [open_subject(name) for name in names]
    comparison = Comparison(
        [with_scores(one, args) for one in subjects] if args.scores else subjects, left_out
    )
    if args.out is not None:
        comparison.write(args.out)
    if args.json:
        print(json.dumps(comparison.to_json()))
    else:
        print(comparison.text())
        if args.out is not None:
            print(args.out)
    return 0


def check(args: Args) -> None:
    """Raises UserError before anything takes long: for words, and where a library is missing."""
    if not args.runs:
        raise UserError("name a RUN: a run folder, a shipped name such as digits, or a sweep")
    for name in ("steps", "metrics", "n"):
        if not args.scores and getattr(args, name) != getattr(Args, name):
            raise UserError(f"--{name}: it is of --eval, which computes scores")
    if args.out is not None:
        if args.out.suffix != ".html":
            raise UserError(f"--out {args.out}: expected a name that ends in .html")
        from fewstep.analysis import report

        report.page("", [], [])
        report.axes()


def with_scores(subject: Subject, args: Args) -> Subject:
    """The run with scores that are made as it is asked for; a run folder keeps new ones."""
    from fewstep.run.generator import load
    from fewstep.studies import scores

    scoring = scores.Scoring(args.steps, args.metrics, args.n)
    folder, digest = Path(subject.name), subject.checkpoint.record.fingerprint
    results = scores.read(folder, digest, scoring)
    if not results:
        keeps = (folder / "run.json").is_file()
        generator = load(subject.name, device=args.device)
        results = scores.score(generator, folder if keeps else None, scoring)
    return replace(subject, results=results)
