"""The conclusion of a study in plain sentences that the numbers alone decide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fewstep.analysis.frontier.models import Subject
from fewstep.analysis.frontier.points import Judge, Point, worth


@dataclass(frozen=True)
class Summary:
    """A study's points with the judge that compares them, and the judges by other metrics."""

    points: Sequence[Point]
    judge: Judge
    others: Sequence[Judge] = ()

    @property
    def subjects(self) -> list[Subject]:
        return list({id(p.subject): p.subject for p in self.points}.values())

    def of(self, subject: Subject) -> list[Point]:
        """The subject's points on offer."""
        return [p for p in self.points if p.subject is subject and p.on_offer]

    def worth(self, subject: Subject) -> list[Point]:
        """The subject's own points that are better than all its cheaper ones of this list."""
        return worth(self.of(subject), self.judge, lambda p: p.evaluations)

    def note(self, point: Point) -> str:
        """The verdict in a point's row: how it compares with cheaper ones."""
        if point.worth:
            least = min(p.evaluations for p in self.points)
            return "the cheapest" if point.evaluations == least else "better"
        if not point.on_offer:
            return "another sampler was better on the validation split"
        cheaper = [p for p in self.points if p.worth and p.evaluations <= point.evaluations]
        rivals = [p for p in cheaper if not self.judge.better(point, p)]
        best = min(rivals, key=self.judge.value)
        verdict = "worse than" if self.judge.better(best, point) else "no better than"
        return f"{verdict} {best.label}"

    def conclusion(self) -> list[str]:
        """What is worth its cost, each subject's best, where teachers come up to it, the floor."""
        sentences = [self._headline(), *(self._best(subject) for subject in self.subjects)]
        students = [s for s in self.subjects if not s.teacher]
        for teacher in (s for s in self.subjects if s.teacher):
            sentences += [self._meeting(student, teacher) for student in students]
        sentences.append(self._floor())
        intervals = [p.results[self.judge.metric].interval for p in self.points]
        if len(self.points) > 1 and None in intervals:
            sentences.append(
                "A single draw has no interval: better and worse are by the values alone here, and"
                " may be chance."
            )
        return sentences

    def _headline(self) -> str:
        if len(self.points) == 1:
            return "One setting was measured: there is nothing to compare it with."
        last = max((p for p in self.points if p.worth), key=lambda p: p.evaluations)
        if any(p.evaluations > last.evaluations for p in self.points):
            return f"The best setting is {last.label}: nothing dearer is better."
        return f"The best setting is {last.label}, the dearest."

    def _best(self, subject: Subject) -> str:
        points = self.worth(subject)
        first, best = points[0], points[-1]
        sentences = [
            f"{best.name} reaches {self._score(best)} with {_count(best)}"
            f" ({best.one.median:.3g} ms for one sample)."
        ]
        more = sorted({p.evaluations for p in self.of(subject) if p.evaluations > best.evaluations})
        if more:
            sentences.append(f"More are no better: {', '.join(map(str, more))}.")
        metrics = [
            judge.metric
            for judge in self.others
            if best is not first and not judge.better(best, first)
        ]
        if metrics:
            sentences.append(
                f"It is no better than with {first.evaluations} by {', '.join(metrics)}."
            )
        return " ".join(sentences)

    def _meeting(self, student: Subject, teacher: Subject) -> str:
        """The fewest evaluations with which the teacher is no worse than the student's best."""
        ours, theirs = self.worth(student)[-1], self.worth(teacher)[-1]
        equals = [p for p in self.of(teacher) if not self.judge.better(ours, p)]
        if not equals:
            most = max(p.evaluations for p in self.of(teacher))
            return f"{teacher.name} with up to {most} evaluations is worse than {ours.label}."
        first = min(equals, key=lambda p: (p.evaluations, self.judge.value(p)))
        sentence = (
            f"To be no worse than {ours.label}, {first.name} needs {_count(first)}:"
            f" {first.evaluations / ours.evaluations:.3g} times the evaluations and"
            f" {first.one.median / ours.one.median:.2g} times the latency."
        )
        if self.judge.better(theirs, ours):
            return f"{sentence} {theirs.label} is better: {self._score(theirs)}."
        return f"{sentence} None of its settings on offer is better."

    def _floor(self) -> str:
        best = min((p for p in self.points if p.worth), key=self.judge.value)
        result = best.results[self.judge.metric]
        if result.floor is None:
            return "The held-out split is too small for a floor."
        floor = with_interval(result.floor, result.floor_error, result.floor_interval)
        if result.floor_interval is None or result.interval is None:
            return f"Held-out data scores {floor}."
        is_outside = (
            result.interval[0] > result.floor_interval[1]
            or result.interval[1] < result.floor_interval[0]
        )
        verb = "does not overlap" if is_outside else "overlaps"
        return f"Held-out data scores {floor}: the interval of {best.label} {verb} with that."

    def _score(self, point: Point) -> str:
        result = point.results[self.judge.metric]
        score = with_interval(result.value, result.error, result.interval)
        return f"{self.judge.metric} {score}"


def _count(point: Point) -> str:
    return "1 evaluation" if point.evaluations == 1 else f"{point.evaluations} evaluations"


def number(value: float, error: float | None = None) -> str:
    """The value to the second digit of its error; four digits where it has none."""
    if not error or not math.isfinite(error):
        return f"{value:.4g}"
    decimals = min(max(1 - math.floor(math.log10(error)), 0), 9)
    return f"{value:.{decimals}f}"


def ends(interval: tuple[float, float] | None, error: float | None = None) -> str:
    """An interval, or a dash."""
    if interval is None:
        return "-"
    return f"{number(interval[0], error)} to {number(interval[1], error)}"


def with_interval(value: float, error: float | None, interval: tuple[float, float] | None) -> str:
    """A value, and its interval in brackets."""
    if interval is None:
        return number(value, error)
    return f"{number(value, error)} ({ends(interval, error)})"


def with_error(value: float | None, error: float | None) -> str:
    """A value and its standard error, or a dash."""
    if value is None:
        return "-"
    if error is None:
        return number(value)
    return f"{number(value, error)} ± {number(error, error)}"
