"""Measures the claims that are asked for, and reports the verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewstep.analysis import report
from fewstep.analysis.claims.claim import Claim
from fewstep.analysis.claims.page import Finding, html
from fewstep.analysis.claims.pool import Job, Store, work
from fewstep.base.errors import require, unknown


def registry() -> dict[str, Claim]:
    """The claims by name, in the order of the report."""
    from fewstep.analysis.claims import addim, direct, gc, mcm, oracle, steps, tcm, transport, why

    return {
        "tcm": tcm.CLAIM,
        "gc-transport": transport.CLAIM,
        "gc": gc.CLAIM,
        "gc-unet": gc.UNET,
        "mcm": mcm.CLAIM,
        "addim": addim.CLAIM,
        "direct": direct.CLAIM,
        "oracle": oracle.CLAIM,
        "steps": steps.CLAIM,
        "why": why.CLAIM,
    }


def run(
    out: str | Path,
    *,
    seeds: int = 5,
    only: Sequence[str] | None = None,
    long: bool = False,
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
        only: names of claims, all by default; UserError for an unknown one
        long: also those that take hours; a claim that `only` names is measured whatever it takes
        jobs: processes, one for each core by default
        progress: how far it is, on stderr
        claims: other ones than the papers'
    """
    require(seeds >= 1, "seeds", seeds, "1 or more")
    claims = registry() if claims is None else claims
    for name in only or ():
        if name not in claims:
            raise unknown("claim", name, claims)
    report.axes()  # without matplotlib it raises before anything is measured
    store = Store(Path(out))

    def is_chosen(name: str, claim: Claim) -> bool:
        if only:
            return name in only
        # What was measured before is shown again.
        return long or not claim.long or all(map(store.has, jobs_of(claim, seeds)))

    selection = {name: claim for name, claim in claims.items() if is_chosen(name, claim)}
    left_out = {} if only else {n: c for n, c in claims.items() if n not in selection}
    todo = [job for claim in selection.values() for job in jobs_of(claim, seeds)]
    work(todo, store, workers=jobs, progress=progress)
    findings = {name: finding(store, claim, seeds) for name, claim in selection.items()}
    facts = {name: one.to_json() for name, one in findings.items()}
    store.claims = {
        name: {**facts[name], "rows": {row: of.digest for row, of in claim.rows.items()}}
        for name, claim in selection.items()
    }
    store.write()
    page = report.write(store.folder / "report.html", html(findings, seeds, left_out))
    return {"claims": facts, "report": str(page), "data": str(store.file)}


def jobs_of(claim: Claim, seeds: int) -> list[Job]:
    return [Job(row, seed) for row in claim.rows.values() for seed in claim.seeds(row, seeds)]


def finding(store: Store, claim: Claim, seeds: int) -> Finding:
    """The claim with its numbers on these seeds; a row without seeds has them once."""
    rows = {
        name: {str(seed): store.seeds(row)[str(seed)] for seed in claim.seeds(row, seeds)}
        for name, row in claim.rows.items()
    }
    return Finding(claim, rows)
