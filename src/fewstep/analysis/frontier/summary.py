"""What a study says: its tables, and a conclusion in sentences that the numbers alone decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fewstep.analysis.frontier.models import Subject
from fewstep.analysis.frontier.points import Judge, Point, worth
from fewstep.analysis.report import Table

_BUSY = (
    "The machine was busy while it was timed: calls differ by more than half. The same command on a"
    " quiet machine reads the scores again and measures the times anew."
)
_SINGLE = "A single draw has no interval: better and worse are by the values alone."
_FLOOR = ("held-out data (floor)", "-")


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
            return "not on offer"
        cheaper = [p for p in self.points if p.worth and p.evaluations <= point.evaluations]
        rivals = [p for p in cheaper if not self.judge.better(point, p)]
        best = min(rivals, key=self.judge.value)
        verdict = "worse than" if self.judge.better(best, point) else "no better than"
        return f"{verdict} {best.label}"

    def conclusion(self) -> list[str]:
        """The best setting, each subject's best, where teachers come up to it, what to mistrust."""
        best = max((p for p in self.points if p.worth), key=lambda p: p.evaluations)
        sentences = [f"The best setting is {best.label}.", *map(self._best, self.subjects)]
        for teacher in (s for s in self.subjects if s.teacher):
            students = (s for s in self.subjects if not s.teacher)
            sentences += [self._meeting(student, teacher) for student in students]
        if any(p.results[self.judge.metric].interval is None for p in self.points):
            sentences.append(_SINGLE)
        if any(p.busy for p in self.points):
            sentences.append(_BUSY)
        return sentences

    def _best(self, subject: Subject) -> str:
        """The subject's best setting; which dearer ones and which metrics gain nothing."""
        points = self.worth(subject)
        first, best = points[0], points[-1]
        result = best.results[self.judge.metric]
        text = (
            f"{best.label} reaches {result.metric} {number(result.value)}"
            f" (95 %: {ends(result.interval)}) in {best.one.median:.3g} ms."
        )
        dearer = {p.evaluations for p in self.of(subject) if p.evaluations > best.evaluations}
        if dearer:
            text += f" More are no better: {', '.join(map(str, sorted(dearer)))}."
        metrics = [j.metric for j in self.others if best is not first and not j.better(best, first)]
        if metrics:
            text += f" It is no better than with {first.evaluations} by {', '.join(metrics)}."
        return text

    def _meeting(self, student: Subject, teacher: Subject) -> str:
        """The fewest evaluations with which the teacher is no worse than the student's best."""
        ours = self.worth(student)[-1]
        equals = [p for p in self.of(teacher) if not self.judge.better(ours, p)]
        if not equals:
            most = max(p.evaluations for p in self.of(teacher))
            return f"{teacher.name} with up to {most} evaluations is worse than {ours.label}."
        first = min(equals, key=lambda p: (p.evaluations, self.judge.value(p)))
        return (
            f"{first.label} is the cheapest of its settings that is no worse than {ours.label}:"
            f" {first.evaluations / ours.evaluations:.3g} times the evaluations and"
            f" {first.one.median / ours.one.median:.2g} times the latency."
        )

    def tables(self, batch: int) -> list[Table]:
        """Scores and costs of every point; the other metrics of what is on offer."""
        return [self._scores(batch), self._others()]

    def _scores(self, batch: int) -> Table:
        metric = self.judge.metric
        rows = []
        for p in self.points:
            r = p.results[metric]
            score = [number(r.value), ends(r.interval)]
            clock = [number(p.one.median), ends((p.one.low, p.one.high))]
            rate = p.many.per_second
            speed = f"{rate:.3g}" if rate < 100 else f"{rate:,.0f}"
            rows.append([p.name, str(p.evaluations), *score, *clock, speed, self.note(p)])
        r = self.points[0].results[metric]
        score = [number(r.floor), ends(r.floor_interval)]
        rows.append([*_FLOOR, *score, "-", "-", "-", ""])
        head = ["setting", "evaluations", metric, "95 %", "ms, 1 sample", "quartiles"]
        strong = frozenset(i for i, p in enumerate(self.points) if p.worth)
        caption = "The mean over draws, the median of calls. Bold: better than every cheaper bold."
        return Table([*head, f"samples/s, by {batch}", "verdict"], rows, caption, strong)

    def _others(self) -> Table:
        first = self.points[0].results
        metrics = [name for name in first if name != self.judge.metric]
        rows = []
        for p in (p for p in self.points if p.on_offer):
            results = [p.results[name] for name in metrics]
            rows.append([p.name, str(p.evaluations), *(pm(r.value, r.error) for r in results)])
        floors = [pm(first[name].floor, first[name].floor_error) for name in metrics]
        rows.append([*_FLOOR, *floors])
        return Table(["setting", "evaluations", *metrics], rows, "Values ± their standard errors.")


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def ends(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.3g} to {interval[1]:.3g}"


def pm(value: float | None, error: float | None) -> str:
    return number(value) if error is None else f"{number(value)} ± {number(error)}"
