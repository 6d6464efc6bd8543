"""What the numbers say, in sentences that only the numbers decide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fewstep.analysis.frontier.models import Subject
from fewstep.analysis.frontier.points import Judge, Point, worth


@dataclass(frozen=True)
class Verdicts:
    """A study's points with the judge that compares them, and what other metrics would say."""

    points: Sequence[Point]
    judge: Judge
    others: Sequence[Judge] = ()

    def of(self, subject: Subject) -> list[Point]:
        """The subject's points on offer."""
        return [p for p in self.points if p.subject is subject and p.offered]

    @property
    def subjects(self) -> list[Subject]:
        return list({id(p.subject): p.subject for p in self.points}.values())

    def kept(self, subject: Subject) -> list[Point]:
        """The subject's points that are better, beyond chance, than every cheaper one of it that is
        so itself.
        """
        return worth(self.of(subject), self.judge, lambda p: p.evaluations)

    def note(self, point: Point) -> str:
        """What a line of the table says of a point."""
        if point.worth:
            return (
                "the cheapest"
                if point.evaluations == min(p.evaluations for p in self.points)
                else "better"
            )
        if not point.offered:
            return "another sampler was better on the validation split"
        cheaper = [p for p in self.points if p.worth and p.evaluations <= point.evaluations]
        others = [p for p in cheaper if not self.judge.better(point, p)]
        if not others:
            return ""
        best = min(others, key=self.judge.value)
        word = "worse than" if self.judge.better(best, point) else "no better than"
        same = best.subject is point.subject and best.sampler == point.sampler
        return f"{word} {best.steps}" if same else f"{word} {best.name} with {best.evaluations}"

    def conclusion(self) -> list[str]:
        """A paragraph: what each subject reaches, what more steps buy, where it meets the teacher,
        and the floor.
        """
        said = [self._reach(subject) for subject in self.subjects]
        for teacher in (s for s in self.subjects if s.teacher):
            said += [self._meeting(s, teacher) for s in self.subjects if not s.teacher]
        return [self._headline(), *said, self._floor(), *self._single()]

    @property
    def _beyond(self) -> str:
        """How sure "better" is: beyond chance where draws can differ, else by a share of the value
        alone.
        """
        sure = all(p.results[self.judge.metric].interval is not None for p in self.points)
        return "beyond chance" if sure else f"by {100 * self.judge.gain:g} %"

    def _single(self) -> list[str]:
        """What a single draw leaves open."""
        if len(self.points) < 2 or self._beyond == "beyond chance":
            return []
        return [
            "A single draw has no interval: better and worse are by the values alone here, and may"
            " be chance."
        ]

    def _headline(self) -> str:
        """The dearest setting that is better than every cheaper one that is worth its own cost."""
        if len(self.points) == 1:
            return "One setting was measured: there is nothing to compare it with."
        last = max((p for p in self.points if p.worth), key=lambda p: p.evaluations)
        dearer = [p for p in self.points if p.evaluations > last.evaluations]
        if not dearer:
            return f"The dearest setting is still the best: {_with(last)}."
        return (
            f"Paying more stops paying at {_with(last)}: nothing dearer is better {self._beyond}."
        )

    def _reach(self, subject: Subject) -> str:
        kept, all_ = self.kept(subject), self.of(subject)
        best, first = kept[-1], kept[0]
        told = f"{best.name} reaches {self._told(best)} with {_times(best)}{_milliseconds(best)}"
        if first is not best:
            told += f", against {self._told(first)} with {first.evaluations}"
        more = sorted({p.evaluations for p in all_ if p.evaluations > best.evaluations})
        if more:
            worse = [
                e
                for e in more
                if all(self.judge.better(best, p) for p in all_ if p.evaluations == e)
            ]
            end = (
                "worse"
                if worse == more
                else f"no better, {_list(worse)} worse"
                if worse
                else "no better"
            )
            told += f"; {_list(more)} {'are' if len(more) > 1 else 'is'} {end}"
        return told + "." + self._disagreement(first, best)

    def _disagreement(self, first: Point, best: Point) -> str:
        """By which other metrics the best is no better than the first."""
        other = [
            judge for judge in self.others if first is not best and not judge.better(best, first)
        ]
        if not other:
            return ""
        names = " and ".join(judge.metric for judge in other)
        worse = all(judge.better(first, best) for judge in other)
        return (
            f" By {names} {best.evaluations} is {'worse' if worse else 'no better'} than"
            f" {first.evaluations}."
        )

    def _meeting(self, student: Subject, teacher: Subject) -> str:
        """Where the student meets the teacher."""
        ours, theirs = self.kept(student)[-1], self.kept(teacher)[-1]
        equal = [p for p in self.of(teacher) if not self.judge.better(ours, p)]
        if not equal:
            most = max(p.evaluations for p in self.of(teacher))
            return (
                f"At no number of evaluations up to {most} does {teacher.name} come up to"
                f" {_with(ours)}."
            )
        first = min(equal, key=lambda p: (p.evaluations, self.judge.value(p)))
        share = first.evaluations / ours.evaluations
        told = f"To be no worse than {_with(ours)}, {first.name} needs {_times(first)}"
        told += f", {share:.3g} times as many" if share > 1 else ", no more"
        if ours.one and first.one:
            told += f" and {first.one.median / ours.one.median:.2g} times the latency"
        if self.judge.better(theirs, ours):
            return (
                f"{told}; with {theirs.evaluations} ({theirs.sampler}) it is better:"
                f" {self._told(theirs)}."
            )
        return f"{told}; none of its settings on offer is better {self._beyond}."

    def _floor(self) -> str:
        best = min((p for p in self.points if p.worth), key=self.judge.value)
        result = best.results[self.judge.metric]
        if result.floor is None:
            return "The held-out split is too small for a floor."
        told = (
            "Held-out data itself scores"
            f" {interval(result.floor, result.floor_error, result.floor_interval)}"
        )
        if result.floor_interval is None or result.interval is None:
            return told + "."
        low, high = result.interval
        apart = low > result.floor_interval[1] or high < result.floor_interval[0]
        end = "lies outside that" if apart else "cannot be told from it by this metric at this size"
        return f"{told}: {_with(best)} {end}."

    def _told(self, point: Point) -> str:
        result = point.results[self.judge.metric]
        return f"{self.judge.metric} {interval(result.value, result.error, result.interval)}"


def number(value: float, error: float | None = None) -> str:
    """The value to the second digit of its error; four digits where it has none."""
    if not error or not math.isfinite(error):
        return f"{value:.4g}"
    return f"{value:.{min(max(1 - math.floor(math.log10(error)), 0), 9)}f}"


def ends(pair: tuple[float, float] | None, error: float | None = None) -> str:
    """An interval, or a dash."""
    return "-" if pair is None else f"{number(pair[0], error)} to {number(pair[1], error)}"


def interval(value: float, error: float | None, pair: tuple[float, float] | None) -> str:
    """A value with its interval."""
    return number(value, error) + ("" if pair is None else f" ({ends(pair, error)})")


def spread(value: float | None, error: float | None) -> str:
    """A value and its standard error, or a dash."""
    if value is None:
        return "-"
    return number(value, error) + ("" if error is None else f" ± {number(error, error)}")


def _times(point: Point) -> str:
    return f"{point.evaluations} evaluation" + ("s" if point.evaluations > 1 else "")


def _with(point: Point) -> str:
    return f"{point.name} with {point.evaluations}"


def _milliseconds(point: Point) -> str:
    return "" if point.one is None else f" ({point.one.median:.3g} ms for one sample)"


def _list(numbers: Sequence[int]) -> str:
    """1 to 4, or 1, 2 and 5."""
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return (
        ", ".join(map(str, numbers[:-1])) + (" and " if len(numbers) > 1 else "") + str(numbers[-1])
    )
