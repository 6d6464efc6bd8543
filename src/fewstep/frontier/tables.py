"""The tables of a study, as words: costs beside the metric that chose, and the other metrics."""

from __future__ import annotations

from collections.abc import Sequence

from fewstep.frontier.points import Point
from fewstep.frontier.words import Verdicts, number, spread

Cells = tuple[list[str], list[list[str]]]  # head and rows


def costs(points: Sequence[Point], verdicts: Verdicts, metric: str, batch: int) -> Cells:
    """What each point costs, and what the metric that chose says of it."""
    head = ["setting", "evaluations", metric, "95 %", "ms, 1 sample", "quartiles"]
    rows = []
    for p in points:
        result = p.results[metric]
        told = [number(result.value), _pair(result.interval)]
        rows.append([p.name, str(p.evaluations), *told, *_clock(p), verdicts.note(p)])
    first = points[0].results[metric]
    if first.floor is not None:
        floor = [number(first.floor), _pair(first.floor_interval)]
        rows.append(["held-out data (floor)", "-", *floor, "-", "-", "-", ""])
    return [*head, f"samples/s, by {batch}", "verdict"], rows


def chosen(points: Sequence[Point], metric: str) -> Cells:
    """The noise levels of later steps, by which score on the validation split, and of how many candidates."""
    rows = []
    for p in points:
        if not p.levels or p.validation is None:
            continue
        levels = ", ".join(f"{level:g}" for level in p.levels)
        rows.append([p.name, str(p.evaluations), str(p.candidates), number(p.validation.value), levels])
    return ["setting", "evaluations", "candidates", f"{metric}, validation", "noise levels"], rows


def others(points: Sequence[Point], metric: str) -> Cells:
    """The other metrics with their standard errors."""
    metrics = [m for m in points[0].results if m != metric]
    rows = [[p.name, str(p.evaluations), *(spread(p.results[m]) for m in metrics)] for p in points]
    floors = [_floor(points[0], m) for m in metrics]
    return ["setting", "evaluations", *metrics], [*rows, ["held-out data (floor)", "-", *floors]]


def _floor(point: Point, metric: str) -> str:
    """The floor of a metric with its error."""
    result = point.results[metric]
    if result.floor is None:
        return "-"
    return number(result.floor) + ("" if result.floor_error is None else f" ± {number(result.floor_error)}")


def _pair(ends: tuple[float, float] | None) -> str:
    """The ends of an interval."""
    return "-" if ends is None else f"{number(ends[0])} to {number(ends[1])}"


def _clock(point: Point) -> list[str]:
    """Milliseconds for one sample, their quartiles, and samples per second of the larger call."""
    if point.one is None or point.many is None:
        return ["-", "-", "-"]
    rate = f"{point.many.per_second:.3g}" if point.many.per_second < 100 else f"{point.many.per_second:,.0f}"
    return [f"{point.one.median:.3g}", f"{point.one.low:.3g} to {point.one.high:.3g}", rate]


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in columns: names and verdicts to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def cell(text: str, i: int) -> str:
        return text.ljust(widths[i]) if i == 0 or head[i] in ("verdict", "noise levels") else text.rjust(widths[i])

    return ["  ".join(cell(text, i) for i, text in enumerate(row)).rstrip() for row in [head, *rows]]


def unbroken(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """The cells with spaces at which no line breaks, but for names and verdicts."""
    return [
        [c.replace(" ", "\u00a0") if (c[:1].isdigit() and " to " in c) or "±" in c else c for c in row] for row in rows
    ]
