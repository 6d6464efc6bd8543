"""Measures the claims that are asked for, and reports the verdicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewstep.analysis import report
from fewstep.analysis.claims.claim import Claim, Results
from fewstep.analysis.claims.measurements import Job, Store
from fewstep.analysis.claims.page import facts_of, html
from fewstep.analysis.claims.pool import work
from fewstep.base.errors import require, unknown

REPORT = "report.html"


def registry() -> dict[str, Claim]:
    """The claims by name, in the order of the report."""
    from fewstep.analysis.claims import addim, direct, gc, mcm, oracle, tcm, transport

    return {
        "tcm": tcm.CLAIM,
        "gc-transport": transport.CLAIM,
        "gc": gc.CLAIM,
        "mcm": mcm.CLAIM,
        "addim": addim.CLAIM,
        "direct": direct.CLAIM,
        "oracle": oracle.CLAIM,
    }


def choose(claims: dict[str, Claim], only: Sequence[str] | None) -> dict[str, Claim]:
    """The claims of these names, or all. Raises UserError for an unknown name."""
    for name in only or ():
        if name not in claims:
            raise unknown("claim", name, claims)
    return {name: claim for name, claim in claims.items() if not only or name in only}


def run(
    out: str | Path,
    *,
    seeds: int = 5,
    only: Sequence[str] | None = None,
    jobs: int | None = None,
    progress: bool = True,
    claims: dict[str, Claim] | None = None,
) -> dict[str, Any]:
    """Measures on seeds 1 to `seeds`, writes `claims.json` and `report.html`, returns the verdicts.

    What the folder holds under the same settings is not measured again, so the same call goes on
    after an interruption.
    The facts are {"claims": {name: {"verdict", "statements", ...}}, "report": path, "data": path}.

    Args:
        out: the folder
        seeds: how many, 2 or more for an interval
        only: names of claims, all by default
        jobs: processes, one for each core by default
        progress: how far it is, on stderr
        claims: other ones than the papers'
    """
    require(seeds >= 1, "seeds", seeds, "1 or more")
    selection = choose(registry() if claims is None else claims, only)
    report.axes()  # without matplotlib it raises before anything is measured
    store = Store.open(Path(out))
    todo = [job for claim in selection.values() for job in jobs_of(claim, seeds)]
    work(todo, store, workers=jobs, progress=progress)
    results = {name: results_of(store, claim, seeds) for name, claim in selection.items()}
    facts = {name: facts_of(claim, results[name]) for name, claim in selection.items()}
    store.claims = {
        name: {**facts[name], "rows": {row: of.digest for row, of in claim.rows.items()}}
        for name, claim in selection.items()
    }
    store.write()
    page = report.write(store.folder / REPORT, html(selection, results, seeds))
    return {"claims": facts, "report": str(page), "data": str(store.file)}


def jobs_of(claim: Claim, seeds: int) -> list[Job]:
    return [Job(row, seed) for row in claim.rows.values() for seed in row.seeds(seeds)]


def results_of(store: Store, claim: Claim, seeds: int) -> Results:
    """The numbers of the claim's rows on these seeds; a row without seeds has them once."""
    return {
        name: {str(seed): store.seeds(row)[str(seed)] for seed in row.seeds(seeds)}
        for name, row in claim.rows.items()
    }


def claims_main(
    *,
    out: str | Path,
    seeds: int,
    only: str | None,
    as_json: bool,
    jobs: int | None = None,
    progress: bool = True,
) -> int:
    """`fewstep verify --claims`: measures, and prints a line for each claim or one JSON object.

    Returns 0 whatever the verdicts: one that contradicts a paper is a result and no failure.
    only: names with commas between.
    """
    names = None if only is None else [name.strip() for name in only.split(",")]
    facts = run(out, seeds=seeds, only=names, jobs=jobs, progress=progress)
    print(json.dumps(facts) if as_json else lines(facts))
    return 0


def lines(facts: dict[str, Any]) -> str:
    """The verdicts and the report's path."""
    width = max(len(name) for name in facts["claims"])
    verdicts = [f"{name:<{width}}  {claim['verdict']}" for name, claim in facts["claims"].items()]
    return "\n".join([*verdicts, f"report: {facts['report']}", f"numbers: {facts['data']}"])
