"""A study: choose on the validation split, score on the test split, then time the calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from fewstep.analysis.frontier.latency import Timing, clock_calls, evaluations
from fewstep.analysis.frontier.models import SOLVERS, Subject
from fewstep.analysis.frontier.points import MULTISTEP, OWN, Point, judge_points
from fewstep.analysis.frontier.scoring import Bench, Plan
from fewstep.analysis.metrics import Result
from fewstep.base.errors import UserError
from fewstep.base.progress import Progress
from fewstep.core import sampling
from fewstep.run.generator import Generator
from fewstep.run.level_search import search
from fewstep.run.levels import Levels, bounds_of, starts


@dataclass(frozen=True)
class Setting:
    """A subject with its sampler, steps and levels, and the validation score that chose them."""

    subject: Subject
    sampler: str
    steps: int
    levels: Levels = ()
    validation: Result | None = None
    on_offer: bool = True

    @property
    def generator(self) -> Generator:
        """What draws its samples."""
        return self.subject.by(self.sampler, self.levels)


def settings_of(subject: Subject, bench: Bench) -> list[Setting]:
    """The settings of a subject for the test split, chosen without that split."""
    if subject.kind == "multistep":
        return _search_levels(subject, bench)
    if subject.kind == "segments":
        only = sampling.sampler(subject.generator.method.sampler).default
        return [Setting(subject, "segments", only)]
    if subject.kind == OWN:
        return _own_steps(subject, bench.plan)
    return _try_solvers(subject, bench)


def _own_steps(subject: Subject, plan: Plan) -> list[Setting]:
    """Each number of steps by the sampler of the student's method; equal grids are one setting."""
    generator = subject.generator
    own, process = sampling.sampler(generator.method.sampler), generator.method.process
    by_grid: dict[tuple[float, ...], int] = {}
    for steps in solver_steps(plan.steps, own):
        by_grid.setdefault(tuple(own.times(process, steps, generator.later_sigmas)), steps)
    return [Setting(subject, OWN, steps) for steps in by_grid.values()]


def _search_levels(subject: Subject, bench: Bench) -> list[Setting]:
    """The best levels for each number of steps; each search starts from the result before."""
    settings: list[Setting] = []
    bounds = bounds_of(subject.generator)
    best: Levels | None = None
    for steps in bench.plan.steps:
        if steps == 1:
            settings.append(Setting(subject, MULTISTEP, 1))
            continue
        first = starts(subject.generator, steps, bounds, best)
        if not first:
            raise UserError(
                f"steps = {steps}: {subject.source} has no room for as many levels above"
                f" {bounds.low:g}"
            )
        scores: dict[Levels, Result] = {}
        score = partial(_score, subject, bench, steps, scores)
        result = search(score, first, bounds, bench.plan.candidates)
        best = result.levels
        validation = _best_of(scores[best], result.candidates)
        settings.append(Setting(subject, MULTISTEP, steps, best, validation))
    return settings


def _score(
    subject: Subject, bench: Bench, steps: int, scores: dict[Levels, Result], levels: Levels
) -> float:
    scores[levels] = bench.candidate(subject.by(MULTISTEP, levels), steps, len(scores) + 1)
    return bench.sign * scores[levels].value


def _best_of(result: Result, candidates: int) -> Result:
    """The result with the number of candidates that it was chosen from."""
    return replace(result, protocol={**result.protocol, "candidates": candidates})


def solver_steps(counts: Sequence[int], sampler: str | sampling.Sampler) -> list[int]:
    """The numbers of evaluations that a solver can make: the next higher where it cannot."""
    each = sampling.sampler(sampler).evaluations
    return sorted({1 + -(-(steps - 1) // each) * each for steps in counts})


def _try_solvers(subject: Subject, bench: Bench) -> list[Setting]:
    """Every solver at every number of evaluations, with its score on the validation split."""
    pairs = [
        (sampler, steps)
        for sampler in SOLVERS
        for steps in solver_steps(bench.plan.teacher_steps, sampler)
    ]
    settings = []
    for number, (sampler, steps) in enumerate(pairs, 1):
        validation = _best_of(bench.candidate(subject.by(sampler), steps, number), len(pairs))
        settings.append(Setting(subject, sampler, steps, validation=validation))
    return [replace(s, on_offer=not _is_beaten(s, settings, bench.sign)) for s in settings]


def _is_beaten(setting: Setting, others: Sequence[Setting], sign: float) -> bool:
    """Whether another setting is no dearer and better on the validation split."""

    def value(s: Setting) -> float:
        assert s.validation is not None
        return sign * s.validation.value

    return any(other.steps <= setting.steps and value(other) < value(setting) for other in others)


def candidates(subject: Subject, plan: Plan) -> int:
    """The most candidates that are scored on the validation split."""
    if subject.kind == "multistep":
        return plan.candidates * sum(steps > 1 for steps in plan.steps)
    if subject.kind in ("segments", OWN):
        return 0
    return sum(len(solver_steps(plan.teacher_steps, sampler)) for sampler in SOLVERS)


def measure(subjects: Sequence[Subject], bench: Bench, progress: bool = True) -> list[Point]:
    """All points, chosen on the validation split, scored on the test split and timed."""
    total = sum(candidates(subject, bench.plan) for subject in subjects)
    with Progress(total, "candidate", show=progress) as bar:
        bench = replace(bench, tick=bar.update)
        settings = [setting for subject in subjects for setting in settings_of(subject, bench)]
    with Progress(len(settings), "test score", show=progress) as bar:
        bench = replace(bench, tick=bar.update)
        scores = [bench.final(setting.generator, setting.steps) for setting in settings]
    one, many = _time(settings, bench, progress)
    points = [
        Point(
            **vars(setting),
            results=results,
            evaluations=evaluations(setting.generator, setting.steps, bench.conditions(2)),
            one=one[i],
            many=many[i],
        )
        for i, (setting, results) in enumerate(zip(settings, scores, strict=True))
    ]
    return judge_points(points, bench.judge())


def _time(settings: Sequence[Setting], bench: Bench, progress: bool) -> list[dict[int, Timing]]:
    """The timings of calls for one sample, and of those for a batch."""
    plan = bench.plan

    def call(setting: Setting, size: int) -> Callable[[], object]:
        generator, cond = setting.generator, bench.conditions(size)
        return lambda: generator.sample(size, steps=setting.steps, cond=cond, batch=plan.at_once)

    timings = []
    with Progress(2 * plan.repeats * len(settings), "timed call", show=progress) as bar:
        for size in (1, plan.batch):
            calls = {i: call(setting, size) for i, setting in enumerate(settings)}
            timings.append(clock_calls(calls, size, plan.repeats, tick=bar.update))
    return timings
