"""Minutes to quality: training until samples of one and of two steps reach a fixed distance.

`python benchmarks/quality.py --page docs/quality.md` takes an hour at most, on two cores. A run is
a data set, a method and a seed, in a process of one thread. Its average is scored as it trains, by
the feature Fréchet distance of `fewstep eval`, until it has the target, a multiple of the floor.
The clock stops during the scores. Each run leaves a log; one with a whole log is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import IO, Any, NamedTuple

import torch
from hanzi import use_cache

import fewstep as fs
from fewstep.analysis.metrics import meters_of
from fewstep.analysis.metrics.drawing import Clock, Source
from fewstep.base.errors import FewstepError, UserError, require
from fewstep.base.figures import COLOURS, INK, png, style
from fewstep.base.pool import Pool
from fewstep.base.progress import Progress
from fewstep.base.surroundings import cores
from fewstep.base.timing import machine
from fewstep.run.datasets import dataset_of
from fewstep.run.prepare import Prepared, prepare
from fewstep.training.scores import generator_of
from fewstep.training.state import State

LOOK, CHECK = 0, 1  # seeds of the samples


class Task(NamedTuple):
    """A data set: its target over the floor, its looks, its part of the time.

    draw: samples that are compared at once; 0: as many as the test split has. look, check: samples
    of a score. first: training seconds before the first look; growth: from one to the next.
    """

    factor: float
    draw: int
    look: int
    check: int
    first: float
    growth: float
    share: float


TASKS = {
    "digits": Task(1.25, 0, look=3000, check=10_000, first=3.0, growth=1.08, share=1.0),
    # One evaluation takes 2.4 ms a sample there: fewer samples, and fewer looks. The target is what
    # ECT had after five minutes in a trial before.
    "hanzi16": Task(25.0, 1000, look=1000, check=2000, first=60.0, growth=1.2, share=3.0),
}
TEACHER, LEARNS = "diffusion", ("direct_cm",)
METHODS = ("ect", "tcm", "gc", "mcm", "direct_cm", "meanflow")
# A student of K segments makes K steps alone, so that MCM has two runs.
STEPS = {name: (1, 2) for name in METHODS if name != "mcm"} | {"mcm-1": (1,), "mcm-2": (2,)}
# Updates where the recipe's take longer than a run's share of the hour.
UPDATES = {("hanzi16", name): 600 for name in METHODS}
UPDATES |= {("hanzi16", TEACHER): 400, ("hanzi16", "direct_cm"): 100}
UPDATES |= {("digits", TEACHER): 2500, ("digits", "direct_cm"): 400}
# Options where the recipe has none: of the digits'.
OPTIONS = {("hanzi16", "meanflow"): {"p_std": 1.8}}


@dataclass(frozen=True)
class Case:
    """A run as its log names it; updates: of its schedule, and of its teacher's."""

    data: str
    arm: str  # a method, or mcm-K
    seed: int
    updates: int
    teacher_updates: int
    factor: float

    @property
    def name(self) -> str:
        return f"{self.data}-{self.arm}-{self.seed}"


def run_of(data: str, arm: str, updates: int | None, seed: int = 0) -> fs.Run:
    """The recipe's run with so many updates; None: the recipe's own number."""
    method, _, segments = arm.partition("-")
    fields: dict[str, Any] = {} if updates is None else {"iterations": updates}
    run = fs.recipes.RECIPES[data](method=method, seed=seed, **fields)
    own = {"K": int(segments)} if segments else OPTIONS.get((data, method), {})
    return replace(run, method_options={**run.method_options, **own})


class Judge:
    """The metric of `fewstep eval`, against the training split, and its floor."""

    def __init__(self, data: str) -> None:
        self.dataset = dataset_of(data).in_memory()
        self.size = TASKS[data].draw or len(self.dataset.test)
        names = ["feature_frechet"]
        (meter,), spaces = meters_of(self.dataset, self.dataset.test, self.size, metrics=names)
        self.features, self.value = spaces.features[meter.space], meter.measure.value
        self.floor = meter.floor.value if meter.floor else math.nan

    def score(self, generator: fs.Generator, steps: int, n: int, seed: int) -> float:
        """The mean over the draws of n samples."""
        source = Source(generator, self.dataset, seed)
        draws = source.draws(source.training_conditions(n), n, self.size, steps, Clock())
        values = [self.value(self.features(one.whole())) for one in draws]
        return sum(values) / len(values)


judge_of = cache(Judge)


class Enough(Exception):
    """A run has its targets, or no time."""


@dataclass
class Watch:
    """Training seconds of a run, and of the processor in them; scores its average meanwhile.

    end: by time.monotonic. times: seconds to the target by the number of steps.
    """

    case: Case
    file: IO[str]
    end: float
    seconds: float = 0.0
    processor: float = 0.0
    next: float = 0.0
    times: dict[int, float] = field(default_factory=dict)
    mark: tuple[float, float] | None = None  # None: the clock stands

    def step(self, state: State, prepared: Prepared | None = None) -> None:
        """Called after each step; without `prepared` nothing is scored."""
        self.stop()
        is_last = state.step == self.case.updates
        if prepared is not None and (self.seconds >= self.next or is_last):
            self.look(state, prepared)
            self.next = self.seconds * TASKS[self.case.data].growth
        if time.monotonic() > self.end:
            raise Enough("time")
        self.mark = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        if self.mark is not None:
            self.seconds += time.perf_counter() - self.mark[0]
            self.processor += time.process_time() - self.mark[1]
        self.mark = None

    def look(self, state: State, prepared: Prepared) -> None:
        """Scores the numbers of steps that have no target yet."""
        task, judge = TASKS[self.case.data], judge_of(self.case.data)
        generator = generator_of(prepared, state, task.look)
        target = self.case.factor * judge.floor
        steps = [k for k in STEPS[self.case.arm] if k not in self.times]
        scores = {k: judge.score(generator, k, task.look, LOOK) for k in steps}
        near = [k for k in steps if scores[k] <= target]
        checks = {k: judge.score(generator, k, task.check, CHECK) for k in near}
        self.times |= {k: self.seconds for k in near if checks[k] <= target}
        place = {"step": state.step, "stage": state.stage, "seconds": self.seconds}
        self.write({**place, "scores": scores, "checks": checks})
        if len(self.times) == len(STEPS[self.case.arm]):
            raise Enough("target")

    def write(self, row: dict[str, Any]) -> None:
        print(json.dumps(row), file=self.file, flush=True)


class Job(NamedTuple):
    """A run; seconds: that it may take with its scores; deadline: of all runs."""

    case: Case
    seconds: float
    deadline: float
    file: Path


def work(job: Job, tell: Callable[[Any], None]) -> str:
    """Trains a run, writes its log, and says how it ended."""
    case, judge, now = job.case, judge_of(job.case.data), time.monotonic()
    if job.deadline - now < job.seconds / 2:
        return "no time left"
    with job.file.open("w") as file:
        watch = Watch(case, file, min(now + job.seconds, job.deadline))
        facts = {"floor": judge.floor, "draw": judge.size, "machine": machine(torch.device("cpu"))}
        watch.write({**asdict(case), **facts})
        end, teacher, of_teacher = "schedule", None, 0.0
        try:
            if case.teacher_updates:
                first = run_of(case.data, TEACHER, case.teacher_updates, case.seed)
                teacher = fs.train(first, progress=False, watch=watch.step)
                watch.stop()
                of_teacher = watch.seconds
            watch.next = watch.seconds + TASKS[case.data].first
            run = run_of(case.data, case.arm, case.updates, case.seed)
            look = partial(watch.step, prepared=prepare(run, init=teacher, teacher=teacher))
            fs.train(run, init=teacher, teacher=teacher, progress=False, watch=look)
        except Enough as reason:
            end = str(reason)
        watch.stop()
        if case.teacher_updates and teacher is None:
            of_teacher = watch.seconds
        seconds = {"seconds": watch.seconds, "processor": watch.processor, "teacher": of_teacher}
        watch.write({"end": end, "times": watch.times, **seconds, "wall": time.monotonic() - now})
    texts = [f"{k} in {seconds:.1f} s" for k, seconds in watch.times.items()] or ["no target"]
    return f"{', '.join(texts)}; {watch.seconds:.0f} s of training, ended by {end}"


@dataclass(frozen=True)
class Log:
    """What a run wrote: its facts, its looks, and its end."""

    facts: dict[str, Any]
    looks: list[dict[str, Any]]
    end: dict[str, Any]

    def seconds(self, steps: int) -> float:
        """To the target; infinite where it has none."""
        return self.end["times"].get(str(steps), math.inf)

    def is_late(self, steps: int) -> bool:
        """Whether a second stage has the target."""
        stages = {one["seconds"]: one["stage"] for one in self.looks}
        return stages.get(self.seconds(steps), 1) > 1

    def curve(self, steps: int) -> list[tuple[float, float]]:
        """(training seconds, score) of each look."""
        key = str(steps)
        return [(one["seconds"], one["scores"][key]) for one in self.looks if key in one["scores"]]


def logs_of(cases: Sequence[Case], out: Path) -> dict[Case, Log]:
    """Those of whole runs. Raises UserError where one is of other settings."""
    logs = {}
    for case in cases:
        file = out / f"{case.name}.jsonl"
        rows = [json.loads(row) for row in file.read_text().splitlines()] if file.exists() else []
        if rows and "end" in rows[-1]:
            logs[case] = Log(rows[0], rows[1:-1], rows[-1])
            if any(rows[0][name] != value for name, value in asdict(case).items()):
                raise UserError(f"{file} is of other settings: choose another --out")
    return logs


def cells_of(arm: str, logs: Sequence[Log]) -> list[str]:
    """A row of the table: an arm with its updates, times to the target, and least scores."""
    updates, of_teacher = (f"{logs[0].facts[key]:,}" for key in ("updates", "teacher_updates"))
    if of_teacher != "0":
        seconds = median(log.end["teacher"] for log in logs)
        updates += f", teacher {of_teacher} ({seconds:.0f} s)"
    if arm == "tcm":
        late = [log.is_late(k) for log in logs for k in STEPS[arm]].count(True)
        updates += f"; {late} times in stage 2"
    times, least = ["", ""], ["", ""]
    for k in STEPS[arm]:
        ends = [log.end["seconds"] for log in logs if log.seconds(k) == math.inf]
        values = sorted(log.seconds(k) for log in logs)
        middle, first, last = (
            f"> {min(ends):.0f}" if value == math.inf else f"{value:.0f}"
            for value in (median(values), values[0], values[-1])
        )
        around = f" ({first} .. {last})" if values[0] < values[-1] else ""
        times[k - 1] = f"{middle}{around}, {len(logs) - len(ends)} of {len(logs)}"
        scores = [min((y for _, y in log.curve(k)), default=math.inf) for log in logs]
        least[k - 1] = f"{median(scores):.2f}" if median(scores) < math.inf else "no look"
    return [f"`{arm}`", updates, *times, *least]


PAGE = """# Minutes to quality

Seconds of training until samples of one step, and of two, have a fixed distance to the data, by
`{command}`, which trains all runs and writes this page:
{jobs} at a time, each in a process of one thread, on {name}, torch {torch}.

- **Target**: the feature Fréchet distance of [`fewstep eval`](metrics.md): to the training split,
  as there, and its floor is what the test split has in their place. Nothing is chosen by it. On the
  characters no method comes near the floor in minutes: there the target is about what `ect` had
  after five, in a trial before.
- **Clock**: wall time from the end of a run's first step on, without scores: both stages of `tcm`,
  of which the first is `ect`, and the endpoints of `gc`. `direct_cm` starts as its teacher, a
  diffusion model, whose training counts. `mcm` learns from data alone, as in the recipe; its
  students of K segments, `mcm-K`, make K steps alone. In these seconds a process had
  {share:.0%} of a core.
- **Looks**: a run's average is scored as it trains. A score at the target is checked by samples of
  another seed, and counts where they have it too. A time is late by one look at most.
- **Cells**: the median over the seeds (least .. most), and how many have the target. Least and most
  of three hold the true median with chance 3/4. `>`: the run ended without it, at the end of its
  schedule or of its share of the time. `best`: the median of the least scores of all looks.
"""
HEAD = """| method | updates | seconds, one step | seconds, two steps | best, one | best, two |
|---|---|---|---|---|---|"""


def write_page(logs: Sequence[Log], path: Path, command: str, jobs: int) -> None:
    """The page, and its picture in `pictures` beside it."""
    names = dict.fromkeys(log.facts["data"] for log in logs)
    by_data = {name: [log for log in logs if log.facts["data"] == name] for name in names}
    seconds, processor = (sum(log.end[name] for log in logs) for name in ("seconds", "processor"))
    share = processor / max(seconds, 1e-9)
    lines = [PAGE.format(**logs[0].facts["machine"], share=share, command=command, jobs=jobs)]
    for data, own in by_data.items():
        facts, task = own[0].facts, TASKS[data]
        factor, floor = facts["factor"], facts["floor"]
        lines.append(
            f"## {data}\n\nTarget {factor * floor:.2f}: {factor:g} of the floor, {floor:.2f}, by"
            f" draws of {facts['draw']:,}. Looks are of {task.look:,} samples after each"
            f" {task.growth - 1:.0%} of training, checks of {task.check:,}.\n\n{HEAD}"
        )
        for arm in STEPS:
            if rows := [log for log in own if log.facts["arm"] == arm]:
                lines.append(f"| {' | '.join(cells_of(arm, rows))} |")
        lines.append("")
    picture = path.parent / "pictures" / f"{path.stem}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(by_data, picture)
    alt = "Distance by seconds of training, for each method and data set"
    path.write_text("\n".join([*lines, f"![{alt}](pictures/{picture.name})\n"]))


def draw(logs: dict[str, list[Log]], path: Path) -> None:
    """A row of plots for each data set: one step and two, a line for each run."""
    colours = dict(zip(METHODS, COLOURS, strict=False))
    with style():
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

        drawing = Figure(figsize=(7.6, 3.3 * len(logs)), layout="constrained")
        plots = drawing.subplots(len(logs), 2, squeeze=False, sharex="row", sharey="row")
        for row, (data, own) in zip(plots, logs.items(), strict=True):
            floor = own[0].facts["floor"]
            target = own[0].facts["factor"] * floor
            seconds = [x for log in own for k in (1, 2) for x, _ in log.curve(k)] or [1.0]
            for k, ax in enumerate(row, 1):
                for log in own:
                    curve, color = log.curve(k), colours[log.facts["arm"].partition("-")[0]]
                    ax.plot([x for x, _ in curve], [y for _, y in curve], color=color, linewidth=1)
                    if log.seconds(k) < math.inf:
                        ax.plot(*curve[-1], "o", color=color)
                for value, line in ((target, "--"), (floor, ":")):
                    ax.axhline(value, color=INK, linestyle=line, linewidth=0.8)
                title = f"{data}, {'one step' if k == 1 else 'two steps'}"
                ax.set(xscale="log", yscale="log", xlabel="seconds of training", title=title)
                ax.set(xlim=(0.9 * min(seconds), 1.1 * max(seconds)))
                for axis in (ax.xaxis, ax.yaxis):
                    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                    axis.set_major_formatter(ScalarFormatter())
                    axis.set_minor_formatter(NullFormatter())
            row[0].set(ylabel="feature Fréchet distance", ylim=(0.8 * floor, 8 * target))
        for name, color in colours.items():
            plots[0, 1].plot([], [], color=color, label=name)
        plots[0, 1].legend(ncols=2)
        png(drawing, path)


def cases_of(args: argparse.Namespace) -> list[Case]:
    """The runs in their order: all seeds of the first data set, and one of each other.

    Raises UserError.
    """
    asks = [(args.data, TASKS), (args.method, METHODS), (args.factor, TASKS)]
    for names, choices in [*asks, (args.iterations, (*METHODS, TEACHER))]:
        for name in names:
            require(name in choices, "name", name, ", ".join(choices))

    def updates(data: str, arm: str) -> int:
        method = arm.partition("-")[0]
        own = args.iterations.get(method, UPDATES.get((data, method)))
        return run_of(data, arm, None if own is None else int(own)).iterations

    arms = [arm for arm in STEPS if arm.partition("-")[0] in args.method]
    cases = []
    for data, seed, arm in product(args.data, args.seeds, arms):
        if data != args.data[0] and seed != args.seeds[0]:
            continue
        of_teacher = updates(data, TEACHER) if arm in LEARNS else 0
        factor = args.factor.get(data, TASKS[data].factor)
        cases.append(Case(data, arm, seed, updates(data, arm), of_teacher, factor))
    return cases


def train_all(cases: Sequence[Case], args: argparse.Namespace) -> None:
    """Trains what has no log yet, and prints a line for each run."""
    args.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * args.budget
    one = 60 * args.budget * args.jobs / sum(TASKS[case.data].share for case in cases)
    todo = [case for case in cases if case not in logs_of(cases, args.out)]
    for data in dict.fromkeys(case.data for case in todo):
        judge_of(data)  # a classifier that is not in the cache is fit once, not by each process
    print(f"{len(cases) - len(todo)} of {len(cases)} runs are ready", flush=True)
    jobs = [
        Job(case, one * TASKS[case.data].share, deadline, args.out / f"{case.name}.jsonl")
        for case in todo
    ]
    with Pool(work, args.jobs) as pool, Progress(len(jobs), "run") as progress:
        for job, outcome in pool.outcomes(jobs):
            failure = "failed: " if isinstance(outcome, FewstepError) else ""
            print(f"{job.case.name}: {failure}{outcome}", flush=True)
            progress.update()


def words(text: str) -> list[str]:
    return text.split(",")


def numbers(text: str) -> dict[str, float]:
    pairs = (word.partition("=") for word in words(text))
    return {name: float(value) for name, _, value in pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, default=60.0, help="minutes of wall clock for all")
    parser.add_argument("--jobs", type=int, default=cores(), help="runs at a time")
    parser.add_argument("--data", type=words, default=[*TASKS], help=",".join(TASKS))
    parser.add_argument("--method", type=words, default=METHODS, help=",".join(METHODS))
    parser.add_argument("--seeds", type=lambda text: [*map(int, words(text))], default=[1, 2, 3])
    parser.add_argument("--factor", type=numbers, default={}, help="of the floor: DATA=X,...")
    parser.add_argument("--iterations", type=numbers, default={}, help="METHOD=N,...,diffusion=N")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"), help="folder of the logs")
    parser.add_argument("--page", type=Path, help="FILE.md; its picture goes to pictures/ there")
    parser.add_argument("--cache", type=Path, help="FILE.drawings for hanzi16, as of hanzi.py")
    args = parser.parse_args()
    if args.cache and "hanzi16" in args.data:
        use_cache(args.cache)
    cases = cases_of(args)
    train_all(cases, args)
    logs = [*logs_of(cases, args.out).values()]
    require(len(logs) > 0, "budget", args.budget, "minutes enough for one run")
    page = args.page or args.out / "quality.md"
    command = shlex.join(["python", "benchmarks/quality.py", *sys.argv[1:]])
    write_page(logs, page, command, args.jobs)
    print(page)


if __name__ == "__main__":
    main()
