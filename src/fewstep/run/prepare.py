"""A run made ready."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fewstep.base.options import Options
from fewstep.run.checkpoint import Checkpoint
from fewstep.run.config import Run

AUTO = "auto"  # the value of an option that a probe decides


def filled(options: Options, decided: Options) -> Options:
    """The options with `decided`'s value for each that is "auto", those of a base included."""

    def one(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            inner = decided.get(name, decided)
            return filled(value, inner if isinstance(inner, dict) else {})
        return decided.get(name, value) if value == AUTO else value

    return {name: one(name, value) for name, value in options.items()}


def remembered(run: Run, saved: Checkpoint | None) -> Run:
    """The run with what the one that it goes on from had decided."""
    before = saved.state["run"] if saved else {}
    if before.get("method") != run.method:
        return run
    return replace(run, method_options=filled(run.method_options, before.get("method_options", {})))
