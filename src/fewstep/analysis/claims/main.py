"""`fewstep verify --claims`, after its options are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fewstep.analysis.claims.runner import run


def claims_main(
    *, out: str | Path, seeds: int, only: str | None, as_json: bool, jobs: int | None = None
) -> int:
    """Measures, prints a line for each claim and where the report is (or one JSON object); 0
    whatever the verdicts.

    A verdict that contradicts a paper is a result and no failure. only: names with commas between.
    """
    names = None if only is None else [name.strip() for name in only.split(",")]
    facts = run(out, seeds=seeds, only=names, jobs=jobs)
    print(json.dumps(facts) if as_json else lines(facts))
    return 0


def lines(facts: dict[str, Any]) -> str:
    """The verdicts and the report's path."""
    width = max(len(name) for name in facts["claims"])
    told = [f"{name:<{width}}  {claim['verdict']}" for name, claim in facts["claims"].items()]
    return "\n".join([*told, f"report: {facts['report']}", f"numbers: {facts['data']}"])
