"""Measures the claims that are asked for and tells what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewstep.analysis import report
from fewstep.analysis.claims.claim import Claim, Found
from fewstep.analysis.claims.measurements import Job, Store
from fewstep.analysis.claims.page import html, said
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


def chosen(claims: dict[str, Claim], only: Sequence[str] | None) -> dict[str, Claim]:
    """The claims named, or all. Raises UserError for a name that none has."""
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
    """Measures on seeds 1 to `seeds`, writes `claims.json` and `report.html` into `out`, and
    returns the verdicts.

    What the folder holds under the same settings is not measured again, so an interrupted run goes
    on from there.
    The facts are {"claims": {name: {"verdict", "statements", ...}}, "report": path, "data": path}.

    Args:
        out: the folder
        seeds: how many, 2 or more for an interval
        only: names of claims, all by default
        jobs: processes, one of each core by default
        progress: a bar on stderr
        claims: other ones than the papers'
    """
    require(seeds >= 1, "seeds", seeds, "1 or more")
    wanted = chosen(registry() if claims is None else claims, only)
    report.axes()
    store = Store.open(Path(out))
    work(
        [job for claim in wanted.values() for job in jobs_of(claim, seeds)],
        store,
        workers=jobs,
        progress=progress,
    )
    found = {name: gathered(store, claim, seeds) for name, claim in wanted.items()}
    told = {name: said(claim, found[name]) for name, claim in wanted.items()}
    store.claims = {name: {**facts, "rows": digests(wanted[name])} for name, facts in told.items()}
    store.write()
    page = report.write(store.folder / REPORT, html(wanted, found, seeds))
    return {"claims": told, "report": str(page), "data": str(store.file)}


def jobs_of(claim: Claim, seeds: int) -> list[Job]:
    return [Job(row, seed) for row in claim.rows.values() for seed in row.seeds(seeds)]


def gathered(store: Store, claim: Claim, seeds: int) -> Found:
    """What the claim's rows measured on these seeds; a row without seeds has its numbers once."""
    return {
        name: {str(seed): store.seeds(row)[str(seed)] for seed in row.seeds(seeds)}
        for name, row in claim.rows.items()
    }


def digests(claim: Claim) -> dict[str, str]:
    """Where the numbers of each row are among the measured ones."""
    return {name: row.digest for name, row in claim.rows.items()}
