"""The tables of a study, as words: costs beside the metric that chose, and the other metrics."""

from __future__ import annotations

from collections.abc import Sequence

from fewstep.analysis.frontier.points import Point
from fewstep.analysis.frontier.summary import Verdicts, ends, number, spread

Cells = tuple[list[str], list[list[str]]]  # head and rows


def offered(points: Sequence[Point]) -> list[Point]:
    """The points on offer, each subject's by evaluations."""
    subjects = list(dict.fromkeys(id(p.subject) for p in points))
    kept = [p for p in points if p.offered]
    return sorted(kept, key=lambda p: (subjects.index(id(p.subject)), p.evaluations))


def costs(points: Sequence[Point], verdicts: Verdicts, metric: str, batch: int) -> Cells:
    """What each point on offer costs, and what the metric that chose says of it."""
    head = ["setting", "evaluations", metric, "95 %", "ms, 1 sample", "quartiles"]
    rows = []
    for p in offered(points):
        r = p.results[metric]
        told = [number(r.value, r.error), ends(r.interval, r.error)]
        rows.append([p.name, str(p.evaluations), *told, *_clock(p), verdicts.note(p)])
    r = points[0].results[metric]
    if r.floor is not None:
        floor = [number(r.floor, r.floor_error), ends(r.floor_interval, r.floor_error)]
        rows.append(["held-out data (floor)", "-", *floor, "-", "-", "-", ""])
    return [*head, f"samples/s, by {batch}", "verdict"], rows


def samplers(points: Sequence[Point], metric: str) -> Cells:
    """The metric by every solver and number of evaluations; in brackets what is not on offer."""
    solved = [p for p in points if p.kind == "solver"]
    counts = sorted({p.evaluations for p in solved})
    rows = []
    for name in dict.fromkeys(p.name for p in solved):
        line = {p.evaluations: p for p in solved if p.name == name}
        rows.append([name, *(_offered(line[c], metric) if c in line else "" for c in counts)])
    return ["by evaluations", *map(str, counts)], rows


def _offered(point: Point, metric: str) -> str:
    told = f"{point.results[metric].value:.2g}"
    return told if point.offered else f"({told})"


def chosen(points: Sequence[Point], metric: str) -> Cells:
    """The noise levels of later steps, by which score on the validation split, and of how many
    candidates.
    """
    rows = []
    for p in points:
        if not p.levels or p.validation is None:
            continue
        levels = ", ".join(f"{level:g}" for level in p.levels)
        rows.append(
            [
                p.name,
                str(p.evaluations),
                str(p.candidates),
                number(p.validation.value, p.validation.error),
                levels,
            ]
        )
    return ["setting", "evaluations", "candidates", f"{metric}, validation", "noise levels"], rows


def others(points: Sequence[Point], metric: str) -> Cells:
    """The other metrics of the points on offer, with their standard errors."""
    first, kept = points[0].results, offered(points)
    metrics = [m for m in first if m != metric]
    scores = [[spread(p.results[m].value, p.results[m].error) for m in metrics] for p in kept]
    rows = [[p.name, str(p.evaluations), *told] for p, told in zip(kept, scores, strict=True)]
    floors = [spread(first[m].floor, first[m].floor_error) for m in metrics]
    return ["setting", "evaluations", *metrics], [*rows, ["held-out data (floor)", "-", *floors]]


def _clock(point: Point) -> list[str]:
    """Milliseconds for one sample, their quartiles, and samples per second of the larger call."""
    if point.one is None or point.many is None:
        return ["-", "-", "-"]
    rate = (
        f"{point.many.per_second:.3g}"
        if point.many.per_second < 100
        else f"{point.many.per_second:,.0f}"
    )
    return [f"{point.one.median:.3g}", f"{point.one.low:.3g} to {point.one.high:.3g}", rate]


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in columns: names and verdicts to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def cell(text: str, i: int) -> str:
        return (
            text.ljust(widths[i])
            if i == 0 or head[i] in ("verdict", "noise levels")
            else text.rjust(widths[i])
        )

    return [
        "  ".join(cell(text, i) for i, text in enumerate(row)).rstrip() for row in [head, *rows]
    ]


def unbroken(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """The cells of numbers with spaces at which no line breaks."""
    return [
        [c.replace(" ", "\u00a0") if c[:1].isdigit() or c[:1] == "-" else c for c in row]
        for row in rows
    ]
