"""fewstep sweep: a run for each combination of settings, scores, and one table of them."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from fewstep.base.errors import FewstepError, Stopped, UserError, require
from fewstep.cli import train
from fewstep.cli.choices import Choice, choices
from fewstep.cli.parse import parse_own
from fewstep.cli.train_options import last_value

if TYPE_CHECKING:
    from fewstep.base.progress import Progress
    from fewstep.studies.scores import Scoring
    from fewstep.studies.sweep import Entry
    from fewstep.training.state import State

log = logging.getLogger("fewstep")

LONGEST = 100  # characters of a folder's name
PACE = 0.3  # seconds between two words of a run on how far it is
DESCRIPTION = (
    "Train a run for each combination of settings, score all of them on the validation split, and"
    " put the settings into one table, the best first, with 95 % intervals over the seeds. Every"
    " option of train takes several values: --lr 1e-3,2e-3, or the option once more, which serves"
    " those whose own value is a list: --later-sigmas 2,1 --later-sigmas 3. The same command goes"
    " on after an interruption. Writes table.json, table.csv and sweep.html beside the runs.\n\n"
    "example: fewstep sweep toy --seed 1,2,3 --lr 1e-3,2e-3 --jobs 2"
)


@dataclass(frozen=True, kw_only=True)
class Args:
    jobs: int | None = None
    """Runs at a time, each in a process of its own; left out, one for each core, and one alone on
    an accelerator."""
    steps: tuple[int, ...] | None = None
    """Network evaluations of the scored samples; left out, those of eval."""
    metrics: tuple[str, ...] | None = None
    """Metrics such as feature_frechet,energy: the first one ranks; left out, those of eval."""
    n: int = 10_000
    """Samples to generate for the scores of a run."""
    scores: Annotated[bool, tyro.conf.arg(name="eval")] = True
    """Score the runs; else the table has their last losses."""
    json: bool = False
    """Print table.json."""


class Job(NamedTuple):
    """A run of the sweep, as its process reads it again from the words that were typed."""

    name: str
    words: list[str]
    out: Path
    scoring: Scoring | None


def main(argv: list[str]) -> int:
    own, rest = parse_own(Args, argv, verb="sweep", description=DESCRIPTION)
    require(own.jobs is None or own.jobs >= 1, "jobs", own.jobs, "1 or more")
    from fewstep.analysis import report
    from fewstep.run import lock
    from fewstep.studies import page, sweep, table
    from fewstep.studies.scores import Scoring

    # Both raise for a missing library before anything takes long.
    report.page("", [], [])
    report.axes()
    scoring = Scoring(own.steps, own.metrics, own.n) if own.scores else None
    ways = choices(rest)
    runs = [train.read(way.words, "sweep") for way in ways]
    args = runs[0][0]
    entries = entries_of(ways, [run for _, run, _, _ in runs])
    folder = Path(last_value(rest, "--out") or default_folder(entries))
    entries = with_data(entries, scoring)
    with lock.hold(folder):
        sweep.check_report(folder, entries)
        sweep.register(folder, entries)
        jobs = [
            Job(entry.name, way.words, folder / entry.name, scoring)
            for entry, way in zip(entries, ways, strict=True)
        ]
        failures = train_all(jobs, entries, own.jobs or jobs_on(args.device), not args.quiet)
        result = table.table_of(folder, entries, failures, own.scores)
        result.write(folder)
        page.write(folder, result, entries)
    if own.json:
        print(json.dumps(result.to_json()))
    else:
        print(f"{result.text()}\n{folder}: sweep.html, table.json, table.csv")
    return 1 if failures else 0


def with_data(entries: list[Entry], scoring: Scoring | None) -> list[Entry]:
    """The runs with digests of their data. Raises UserError for metrics that some do not have.

    The classifiers that make features of the data are then in the cache for all runs.
    """
    from fewstep.run.datasets import dataset_of, reading_of
    from fewstep.studies.sweep import digest_of

    digests: dict[str, str] = {}
    keys = []
    for run in (entry.run for entry in entries):
        reading = reading_of(run)
        keys.append(json.dumps([run.data, run.labels, asdict(reading)], default=str))
        if keys[-1] in digests:
            continue
        dataset = dataset_of(run.data, reading)
        digests[keys[-1]] = digest_of(dataset)
        if scoring is not None:
            scoring.check((dataset if run.labels else dataset.without_labels()).in_memory())
    return [replace(one, data=digests[key]) for one, key in zip(entries, keys, strict=True)]


def jobs_on(device: str) -> int:
    """How many runs there are at a time by default."""
    from fewstep.base.device import pick_device
    from fewstep.base.surroundings import cores

    return cores() if pick_device(device).type == "cpu" else 1


def entries_of(ways: list[Choice], runs: list[Any]) -> list[Entry]:
    """The runs with their names. Raises UserError for one that is there twice."""
    from fewstep.studies.sweep import Entry

    keys: set[str] = set()
    entries = []
    settings = [way.settings(run) for way, run in zip(ways, runs, strict=True)]
    names = [
        name_of(one or {"seed": str(run.seed)}) for one, run in zip(settings, runs, strict=True)
    ]
    for way, run, own, name in zip(ways, runs, settings, names, strict=True):
        key = json.dumps([run.to_json(), own])
        if key in keys:
            raise UserError(f"{name} is asked for twice: give each value once")
        keys.add(key)
        if len(name) > LONGEST or names.count(name) > 1:
            digest = hashlib.sha256(way.command.encode()).hexdigest()[:8]
            name = f"{name[:LONGEST]}_{digest}"
        entries.append(Entry(name, run, own, way.command))
    return entries


def name_of(settings: dict[str, str]) -> str:
    """The folder of a run: lr-0.001_seed-1."""
    parts = (f"{name}-{value}" for name, value in settings.items())
    return re.sub(r"[^\w.+-]+", "-", "_".join(parts))


def default_folder(entries: list[Entry]) -> Path:
    """runs/sweep-RECIPE-OPTIONS."""
    first = entries[0]
    name = "-".join(["sweep", first.run.recipe, *(first.settings or [first.run.method])])
    return Path("runs") / re.sub(r"[^\w.+-]+", "-", name)


@dataclass
class Tally:
    """How far the runs are, on a bar, and what is heard of them.

    total, position: steps of each run by its name. ready: how many runs are.
    """

    bar: Progress
    total: dict[str, int]
    position: dict[str, int]
    ready: int
    failures: dict[str, str] = field(default_factory=dict)
    warnings: set[str] = field(default_factory=set)

    def hear(self, job: Job, news: Any) -> None:
        """Takes the step that a run is at, or its warning."""
        if isinstance(news, str):
            if news not in self.warnings:  # once for all runs
                self.warnings.add(news)
                self.bar.note(news) if self.bar.show else print(news, file=sys.stderr)
            return
        longer = max(news - self.total[job.name], 0)  # of the recipe auto, whose length data decide
        self.bar.grow(longer)
        self.total[job.name] += longer
        self.bar.update(news - self.position[job.name], runs=self.share())
        self.position[job.name] = news

    def end(self, job: Job, outcome: Any) -> None:
        """Takes a run that is ready, or failed."""
        self.ready += 1
        if isinstance(outcome, FewstepError):
            self.failures[job.name] = str(outcome)
            self.bar.note(f"failed: {job.name}: {outcome}")

    def share(self) -> str:
        return f"{self.ready} of {len(self.total)}"


def train_all(jobs: list[Job], entries: list[Entry], count: int, shows: bool) -> dict[str, str]:
    """Trains and scores what is not done yet; why runs failed, by their names. Raises Stopped."""
    from fewstep.base.pool import Pool
    from fewstep.base.progress import Progress
    from fewstep.studies.sweep import progress_of

    pairs = list(zip(jobs, entries, strict=True))
    before = {job.name: progress_of(job.out, entry, job.scoring) for job, entry in pairs}
    todo = [job for job in jobs if not before[job.name][1]]
    warn_of_runs_without_best([pair for pair in pairs if pair[0] not in todo])
    total = {entry.name: entry.run.steps for entry in entries}
    position = {name: min(step, total[name]) for name, (step, _) in before.items()}
    pool = Pool(work, min(count, len(todo)) or 1)
    start = sum(position.values())
    with pool, Progress(sum(total.values()), "step", initial=start, show=shows) as bar:
        tally = Tally(bar, total, position, ready=len(jobs) - len(todo))
        try:
            for job, outcome in pool.outcomes(todo, tally.hear):
                tally.end(job, outcome)
        except (KeyboardInterrupt, Stopped):
            raise Stopped(
                f"stopped: {tally.share()} runs are ready; the same command goes on from there"
            ) from None
    return tally.failures


def warn_of_runs_without_best(pairs: list[tuple[Job, Entry]]) -> None:
    """Warns of runs that were at their end before --eval-every asked for their best checkpoint."""
    from fewstep.base.table import first_of
    from fewstep.run.checkpoint import RunFolder

    without = [
        job.name
        for job, entry in pairs
        if entry.run.eval_every and not RunFolder(job.out).best.exists()
    ]
    if without:
        log.warning(
            "fewstep: --eval-every scores steps to come, and there are none of %s: --extend N adds"
            " some",
            first_of(without),
        )


def work(job: Job, tell: Callable[[Any], None]) -> None:
    """What a process does: trains the run on from where it is, and scores it."""
    from fewstep.studies import scores
    from fewstep.training import train as training

    args, run, own, _ = train.read(job.words, "sweep")
    warnings = logging.Handler()
    warnings.emit = lambda record: tell(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(warnings)
    next_word = 0.0

    def watch(state: State) -> None:
        nonlocal next_word
        if time.monotonic() > next_word or state.step == run.steps:
            next_word = time.monotonic() + PACE
            tell(state.step)

    try:
        generator = training.train(
            run,
            out=job.out,
            resume=job.out.exists(),
            device=args.device,
            shard=args.shard,
            workers=args.workers,
            log=args.log,
            strict=args.strict,
            progress=False,
            watch=watch,
            **own,
        )
        if job.scoring is not None:
            scores.score(generator, job.out, job.scoring)
    finally:
        log.removeHandler(warnings)
