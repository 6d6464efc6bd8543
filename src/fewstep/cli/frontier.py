"""fewstep frontier: quality against evaluations and latency."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fewstep.cli import eval_pipeline
from fewstep.cli.eval import check_weights
from fewstep.cli.parse import parse

if TYPE_CHECKING:
    from fewstep.analysis.frontier import Plan, Subject
    from fewstep.data import Dataset

DESCRIPTION = (
    "For one run or several on one data set, and a teacher: choose the noise levels of the later"
    " steps on the validation split, then score every number of steps on the test split and time"
    " it. Writes frontier.json, frontier.png and report.html. An interrupted study goes on where it"
    " stopped. A run of `fewstep distill` has a page of its own: fewstep frontier RUN --help.\n\n"
    "example: fewstep frontier digits --teacher exact:digits-mixture --steps 1,2,4"
)


@dataclass(frozen=True)
class Args:
    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folders or shipped names, of one data set."""
    teacher: str | None = None
    """A diffusion run, a .safetensors file of the first run's network, or exact:NAME."""
    out: Path | None = None
    """Folder to write; left out, frontier-RUN."""
    steps: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    """Steps of consistency models."""
    teacher_steps: tuple[int, ...] = (1, 2, 4, 8, 16, 35)
    """Network evaluations of diffusion models, each by ddim, heun, addim and ancestral."""
    metric: str | None = None
    """The metric that chooses; left out, energy, and with an extractor its Fréchet distance."""
    candidates: int = 24
    """Most sets of levels that are scored for one number of steps."""
    search_n: int = 3000
    """Samples of a candidate, on the validation split."""
    n: int = 10_000
    """Samples on the test split, cut into draws."""
    draw: int | None = None
    """Samples of one draw; left out, as many as the held-out split has."""
    seed: int = 0
    """Seed of the test's samples; the search has its own."""
    batch: int | None = None
    """Samples at once, and of the larger call that is timed; left out, what memory takes, and 256
    of that call."""
    repeats: int = 15
    """Timed calls of each setting and size."""
    gain: float = 0.05
    """A setting is called better from this share of the value on, and beyond chance."""
    ema: str = "ema"
    """Which weights: ema, student, or another average such as power:0.05."""
    data: str | None = None
    """Where the runs' data is now, if its path has changed."""
    composite: bool = False
    """Ask the frozen first stage at noise that a second stage was not trained for."""
    network: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """module:factory of your own, for the runs whose run.json has that name, or RUN=module:factory
    for one run; once for each."""
    method: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """module:function of your own, likewise; the other runs have the methods that they name."""
    extractor: str | None = None
    """FILE.onnx, or Inception's .pt, as for eval."""
    weights: str | None = None
    """The file that the .onnx was exported from."""
    reference: str | None = None
    """STATS.npz with mu and sigma of features, in place of the training split."""
    device: str = "auto"
    """cpu, cuda, mps or auto, the first there is."""
    quiet: bool = False
    """Print no progress and no notes; results, warnings and errors still."""
    json: bool = False
    """Print frontier.json."""


def main(argv: list[str]) -> int:
    if eval_pipeline.is_pipeline(argv):
        return eval_pipeline.frontier(argv)
    args = parse(Args, argv, verb="frontier", description=DESCRIPTION)
    from fewstep.analysis import frontier, report
    from fewstep.analysis.metrics import open_extractor, read_statistics
    from fewstep.base.errors import UserError
    from fewstep.base.version import __version__

    if not args.runs:
        raise UserError("name a RUN: a run folder or a shipped name, such as digits")
    check_weights(args.weights, args.extractor)
    plan = plan_of(args)
    # Both raise for a missing library before anything takes long.
    report.page("", [], [])
    report.axes()
    subjects, dataset = open_subjects(args)
    extractor = None
    if args.extractor is not None:
        extractor = open_extractor(args.extractor, weights=args.weights)
    reference = None if args.reference is None else read_statistics(args.reference)
    metric, splits = frontier.prepare(dataset, plan, extractor, reference)
    names = [s.name.replace("/", "-") for s in subjects if not s.teacher]
    out = args.out or Path(f"frontier-{'-'.join(names)}")
    identity = {
        "fewstep": __version__,
        "weights": {s.name: s.generator.fingerprint for s in subjects},
        "data": {"train": dataset.fingerprint(), **frontier.held_out(dataset)},
    }
    store = frontier.Store(out, identity)
    if store.count_before and not args.quiet:
        print(f"{out} holds {store.count_before} scores of this study", file=sys.stderr)
    bench = frontier.Bench(dataset, plan, metric, store, splits)
    command = shlex.join(["fewstep", "frontier", *argv])
    study = frontier.Frontier(frontier.measure(subjects, bench, not args.quiet), bench, command)
    study.write(out)
    if args.json:
        print(json.dumps(study.to_json()))
    else:
        print(f"{study.text()}\n\n{out}: report.html, frontier.png, frontier.json")
    return 0


def plan_of(args: Args) -> Plan:
    from fewstep.analysis.frontier import Plan

    return Plan(
        steps=args.steps,
        teacher_steps=args.teacher_steps,
        metric=args.metric,
        n=args.n,
        search_n=args.search_n,
        draw=args.draw,
        candidates=args.candidates,
        seed=args.seed,
        batch=256 if args.batch is None else args.batch,
        at_once=args.batch,
        repeats=args.repeats,
        gain=args.gain,
    )


def open_subjects(args: Args) -> tuple[list[Subject], Dataset]:
    """The runs, the teacher, and the data of all of them. Raises UserError for other data."""
    from fewstep.analysis import frontier
    from fewstep.cli.user_code import parts_by_run
    from fewstep.run.datasets import data_of

    own = parts_by_run(args.runs, method=args.method, network=args.network)
    subjects = frontier.open_runs(
        args.runs, ema=args.ema, composite=args.composite, device=args.device, own=own
    )
    if args.teacher is not None:
        subjects.append(frontier.open_teacher(args.teacher, subjects[0], device=args.device))
    generators = [subject.generator for subject in subjects]
    # One from elsewhere names no data.
    first = next((one for one in generators if one.facts.data), generators[0])
    dataset = data_of(first.run, first.facts, args.data).in_memory()
    return subjects, frontier.with_validation(dataset)
