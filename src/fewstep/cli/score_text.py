"""Scores in words: the table of `fewstep eval`, and how they were measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewstep.analysis.metrics import Result


def table(results: list[Result], speeds: list[dict[str, Any]]) -> str:
    """A line for each metric and number of steps."""
    from fewstep.base.table import text_table

    head = ["metric", "steps", "value", "95 % interval", "floor", "95 % interval", "ratio"]
    rows = []
    for r in results:
        score = [number(r.value), _pair(r.interval)]
        floor = [number(r.floor), _pair(r.floor_interval)]
        rows.append([r.metric, str(r.steps), *score, *floor, _ratio(r)])
    for s in speeds:
        rows.append(["samples/s", str(s["steps"]), f"{s['samples_per_second']:.0f}"])
    return text_table(rows, head)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _pair(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.4f} .. {interval[1]:.4f}"


def _ratio(r: Result) -> str:
    """Value over floor, where the metric has a ratio and the floor an interval."""
    from fewstep.analysis.metrics import METRICS
    from fewstep.analysis.metrics.denoised import NAME

    row = METRICS.get(r.protocol["statistic"].removeprefix(NAME))
    has_ratio = row is not None and row.shows_ratio
    return f"{r.value / r.floor:.2f}" if has_ratio and r.floor and r.floor_interval else "-"


def notes(results: list[Result]) -> list[str]:
    """How the distances, denoised data, the ODE error and the calibration were measured."""
    from fewstep.analysis.metrics import CALIBRATION
    from fewstep.analysis.metrics.denoised import NAME
    from fewstep.analysis.metrics.teachers import ODE_ERROR

    kinds: dict[str, list[Result]] = {"": [], NAME: [], ODE_ERROR: [], "calibration": []}
    for r in results:
        statistic = r.protocol["statistic"]
        kind = "calibration" if statistic in CALIBRATION else ""
        kind = next((name for name in (NAME, ODE_ERROR) if statistic.startswith(name)), kind)
        kinds[kind].append(r)
    words = (_protocol, _denoised, _ode_error, _calibration)
    return [line for own, of in zip(kinds.values(), words, strict=True) if own for line in of(own)]


def _denoised(results: list[Result]) -> list[str]:
    """How denoised data were made, and which levels a network was not trained at."""
    protocol = results[0].protocol
    lines = [
        f"denoised: {protocol['draws']} draws of {protocol['n']} rows of the {protocol['split']}"
        " split under noise of the level @, after one evaluation; floor: without noise"
    ]
    low = protocol["trained_from"]
    if low and any(r.protocol["time"] < low for r in results):
        lines.append(f"denoised: the second stage was not trained below t = {low:g} (--composite)")
    return lines


def _ode_error(results: list[Result]) -> list[str]:
    """What the ODE error is relative to."""
    protocol = results[0].protocol
    guidance = f", guidance {protocol['teacher_guidance']:g}" * bool(protocol["teacher_guidance"])
    return [
        f"ode_error: rms of {protocol['n']} samples minus the ends of the teacher's ODE from the"
        f" same noise, {protocol['teacher_moves']} moves of {protocol['teacher_solver']}{guidance},"
        f" {protocol['teacher']} ({protocol['teacher_fingerprint'][:8]}); floor: half the moves"
        " against all"
    ]


def _calibration(results: list[Result]) -> list[str]:
    """How the calibration was measured, and the worst variables."""
    protocol = results[0].protocol
    names = ", ".join(dict.fromkeys(r.metric for r in results))
    lines = [
        f"{names}: {protocol['n']} samples for each of {protocol['draws']} conditions of the"
        f" {protocol['split']} split, beside its x0; the floor is what is right"
    ]
    for steps in dict.fromkeys(r.steps for r in results):
        details = [(r.metric, r.protocol.get("detail", {})) for r in results if r.steps == steps]
        worst = [
            f"{metric} {detail['worst'][0]} ({number(detail['worst'][1])})"
            for metric, detail in details
            if "worst" in detail and len(detail.get("variables", "many")) > 1
        ]
        if worst:
            count = f"{steps} step" + "s" * (steps > 1)
            lines.append(f"worst variables at {count}: {', '.join(worst)}")
    return lines


def _protocol(results: list[Result]) -> list[str]:
    """How the numbers were measured, in a few lines."""
    protocol = results[0].protocol
    held_out = f"the {protocol['split']} split"
    if "teacher" in protocol:
        held_out = f"other samples of the teacher, {protocol['teacher']}"
    n = protocol["n"]
    count = protocol["n_reference"] or "unknown many"
    lines = [
        f"each value: mean over {protocol['draws']} disjoint draws of {n} samples against {count}"
        f" reference samples ({protocol['reference'][:8]})",
        f"95 % interval: of that mean, given the reference; floor: draws of {n} of {held_out},"
        " likewise",
    ]
    if protocol.get("extractor"):
        lines.append(f"extractor: {protocol['space']} ({protocol['extractor'][:8]})")
    if protocol["candidates"] > 1:
        lines.append(f"the best of {protocol['candidates']} scored on this split: it flatters")
    return lines
