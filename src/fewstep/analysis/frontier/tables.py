"""The tables of a study, for the page and the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from fewstep.analysis.frontier.points import Point
from fewstep.analysis.frontier.summary import Summary, ends, number, with_error
from fewstep.analysis.report import Table

_FLOOR = ["held-out data (floor)", "-"]


def on_offer(points: Sequence[Point]) -> list[Point]:
    """The points on offer, each subject's by evaluations."""
    subjects = list(dict.fromkeys(id(p.subject) for p in points))
    offers = [p for p in points if p.on_offer]
    return sorted(offers, key=lambda p: (subjects.index(id(p.subject)), p.evaluations))


def costs(summary: Summary, batch: int, caption: str) -> Table:
    """What each point on offer costs, its score and its verdict."""
    metric = summary.judge.metric
    offers = on_offer(summary.points)
    head = ["setting", "evaluations", metric, "95 %", "ms, 1 sample", "quartiles"]
    rows = []
    for p in offers:
        r = p.results[metric]
        score = [number(r.value, r.error), ends(r.interval, r.error)]
        clock = [f"{p.one.median:.3g}", f"{p.one.low:.3g} to {p.one.high:.3g}"]
        speed = p.many.per_second
        rate = f"{speed:.3g}" if speed < 100 else f"{speed:,.0f}"
        rows.append([p.name, str(p.evaluations), *score, *clock, rate, summary.note(p)])
    r = summary.points[0].results[metric]
    if r.floor is not None:
        score = [number(r.floor, r.floor_error), ends(r.floor_interval, r.floor_error)]
        rows.append([*_FLOOR, *score, "-", "-", "-", ""])
    return Table([*head, f"samples/s, by {batch}", "verdict"], rows, caption, _strong(offers))


def others(points: Sequence[Point], metric: str) -> Table:
    """The other metrics of the points on offer, with their standard errors."""
    offers = on_offer(points)
    first = points[0].results
    metrics = [name for name in first if name != metric]
    rows = []
    for p in offers:
        scores = [with_error(p.results[name].value, p.results[name].error) for name in metrics]
        rows.append([p.name, str(p.evaluations), *scores])
    floors = [with_error(first[name].floor, first[name].floor_error) for name in metrics]
    rows.append([*_FLOOR, *floors])
    caption = "The other metrics, ± their standard errors."
    return Table(["setting", "evaluations", *metrics], rows, caption, _strong(offers))


def _strong(offers: Sequence[Point]) -> frozenset[int]:
    """The rows of points that are worth their cost."""
    return frozenset(i for i, p in enumerate(offers) if p.worth)


def samplers(points: Sequence[Point], metric: str) -> Table:
    """The metric by every solver and number of evaluations."""
    solver_points = [p for p in points if p.subject.kind == "solver"]
    counts = sorted({p.evaluations for p in solver_points})
    cells: dict[str, dict[int, str]] = {}
    for p in solver_points:
        value = f"{p.results[metric].value:.2g}"
        cells.setdefault(p.name, {})[p.evaluations] = value if p.on_offer else f"({value})"
    rows = [[name, *(line.get(count, "") for count in counts)] for name, line in cells.items()]
    caption = (
        f"{metric} by sampler and number of evaluations. In brackets: not on offer, since a setting"
        " that is no dearer was better on the validation split."
    )
    return Table(["by evaluations", *map(str, counts)], rows, caption)


def levels(points: Sequence[Point], metric: str) -> Table:
    """The noise levels of later steps, with their validation score and number of candidates."""
    rows = []
    for p in points:
        if not p.levels or p.validation is None:
            continue
        score = number(p.validation.value, p.validation.error)
        line = ", ".join(f"{level:g}" for level in p.levels)
        rows.append([p.name, str(p.evaluations), str(p.candidates), score, line])
    head = ["setting", "evaluations", "candidates", f"{metric}, validation", "noise levels"]
    return Table(head, rows, "Noise levels of the later steps, chosen on the validation split.")
