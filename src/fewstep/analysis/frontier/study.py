"""The course of a study: choose on the validation split, score on the test split, then the clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from tqdm import tqdm

from fewstep.analysis.frontier.latency import Timing, clocked, evaluations
from fewstep.analysis.frontier.levels import Levels, bounds_of, starts
from fewstep.analysis.frontier.models import SOLVERS, Subject
from fewstep.analysis.frontier.points import MULTISTEP, Point, judged
from fewstep.analysis.frontier.scoring import Bench
from fewstep.analysis.frontier.search import Found, search
from fewstep.analysis.metrics import Result
from fewstep.base.errors import UserError
from fewstep.core import sampling
from fewstep.run.generator import Generator


@dataclass(frozen=True)
class Setting:
    """A generator as it is sampled, and the validation score it was chosen by."""

    subject: Subject
    sampler: str
    steps: int
    generator: Generator
    levels: Levels = ()
    validation: Result | None = None
    offered: bool = True


def settings_of(subject: Subject, bench: Bench) -> list[Setting]:
    """What of a subject is scored on the test split. Nothing of that split is used here."""
    if subject.kind == "multistep":
        return _searched(subject, bench)
    if subject.kind == "segments":
        only = sampling.sampler(subject.generator.method.sampler).default
        return [Setting(subject, "segments", only, subject.generator)]
    return _solved(subject, bench)


def _searched(subject: Subject, bench: Bench) -> list[Setting]:
    """For each number of steps the best levels, each search starting from the one before."""
    found: list[Setting] = []
    bounds, best = bounds_of(subject.generator), None
    for steps in bench.plan.steps:
        if steps == 1:
            found.append(Setting(subject, MULTISTEP, 1, subject.generator))
            continue
        first = starts(subject.generator, steps, bounds, best)
        if not first:
            raise UserError(
                f"steps = {steps}: {subject.given} has no room for as many levels above"
                f" {bounds.low:g}"
            )
        scores: dict[Levels, Result] = {}
        outcome = search(
            partial(_score, subject, bench, steps, scores), first, bounds, bench.plan.candidates
        )
        best = outcome.levels
        generator = subject.generator.with_later_sigmas(best)
        found.append(
            Setting(subject, MULTISTEP, steps, generator, best, _counted(scores[best], outcome))
        )
    return found


def _score(
    subject: Subject, bench: Bench, steps: int, scores: dict[Levels, Result], levels: Levels
) -> float:
    generator = subject.generator.with_later_sigmas(levels)
    scores[levels] = bench.candidate(generator, steps, len(scores) + 1)
    return bench.sign * scores[levels].value


def _counted(result: Result, outcome: Found) -> Result:
    """The result with the number of candidates that it is the best of."""
    return replace(result, protocol={**result.protocol, "candidates": outcome.candidates})


def solver_steps(asked: Sequence[int], sampler: str) -> list[int]:
    """The numbers of evaluations that a solver can make: the next where it cannot make one."""
    each = sampling.sampler(sampler).evaluations
    return sorted({1 + -(-(steps - 1) // each) * each for steps in asked})


def _solved(subject: Subject, bench: Bench) -> list[Setting]:
    """Every solver at every number of evaluations; on offer is what no cheaper one beat on the
    validation split.
    """
    tried = [
        (sampler, steps)
        for sampler in SOLVERS
        for steps in solver_steps(bench.plan.teacher_steps, sampler)
    ]
    found = []
    for number, (sampler, steps) in enumerate(tried, 1):
        generator = subject.by(sampler)
        result = bench.candidate(generator, steps, number)
        counted = replace(result, protocol={**result.protocol, "candidates": len(tried)})
        found.append(Setting(subject, sampler, steps, generator, validation=counted))
    return [replace(setting, offered=not _beaten(setting, found, bench.sign)) for setting in found]


def _beaten(setting: Setting, others: Sequence[Setting], sign: float) -> bool:
    """Whether another setting is no dearer and better on the validation split."""

    def value(s: Setting) -> float:
        assert s.validation is not None
        return sign * s.validation.value

    return any(other.steps <= setting.steps and value(other) < value(setting) for other in others)


def amount(subjects: Sequence[Subject], bench: Bench) -> int:
    """About how many scores and timed calls a study makes."""
    plan, total = bench.plan, 0
    solver = sum(len(solver_steps(plan.teacher_steps, sampler)) for sampler in SOLVERS)
    for subject in subjects:
        if subject.kind == "multistep":
            total += plan.candidates * len([s for s in plan.steps if s > 1]) + len(plan.steps)
        else:
            total += 1 if subject.kind == "segments" else 2 * solver
    return total


def measure(subjects: Sequence[Subject], bench: Bench, progress: bool = True) -> list[Point]:
    """All points, chosen on the validation split, scored on the test split and timed."""
    with tqdm(
        total=amount(subjects, bench),
        desc="search",
        unit="score",
        disable=not progress,
        leave=False,
    ) as bar:
        bench = replace(bench, tick=bar.update)
        settings = [setting for subject in subjects for setting in settings_of(subject, bench)]
        bar.total = bar.n + len(settings)  # searches that settled early
        bar.set_description("test")
        scored = [(setting, bench.final(setting.generator, setting.steps)) for setting in settings]
    timed = _timed(settings, bench.plan.batch, bench.plan.repeats, progress)
    return judged(
        [_point(s, results, timed[number]) for number, (s, results) in enumerate(scored)],
        bench.judge(),
    )


def _timed(
    settings: Sequence[Setting], batch: int, repeats: int, progress: bool
) -> list[tuple[Timing, Timing]]:
    def call(setting: Setting, size: int) -> Callable[[], object]:
        return lambda: setting.generator.sample(size, steps=setting.steps, batch=size)

    total = 2 * repeats * len(settings)
    with tqdm(total=total, desc="clock", unit="call", disable=not progress, leave=False) as bar:
        one, many = (
            clocked(
                {i: call(s, size) for i, s in enumerate(settings)}, size, repeats, tick=bar.update
            )
            for size in (1, batch)
        )
    return [(one[i], many[i]) for i in range(len(settings))]


def _point(setting: Setting, results: dict[str, Result], timing: tuple[Timing, Timing]) -> Point:
    return Point(
        subject=setting.subject,
        sampler=setting.sampler,
        steps=setting.steps,
        levels=setting.levels,
        validation=setting.validation,
        results=results,
        evaluations=evaluations(setting.generator, setting.steps),
        one=timing[0],
        many=timing[1],
        offered=setting.offered,
    )
