"""The report: verdicts at the top, then for each claim its words, figure, statements, numbers and
commands.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from typing import Any

import torch

from fewstep.analysis import report
from fewstep.analysis.claims.claim import Claim, Found, column, number, pm
from fewstep.analysis.claims.verdicts import REPRODUCED, RULE, TONES, Statement, overall
from fewstep.analysis.report import Section, Table
from fewstep.base.version import __version__

GLOSSARY = (
    (
        "ODE error: root mean square distance of a sample to where the exact probability-flow ODE"
        " leads from the same noise, over 2000 samples and all scalars. Feature Fréchet distance:"
        " between the samples' and the law's moments in the last hidden layer of a small"
        " classifier; pixel Fréchet: in the data's own space. Energy distance: of samples"
        " themselves, 0 where they follow the law. Variance ratio: total variance of the samples"
        " over that of the law."
    ),
    (
        "Errors of trained arms are of one network per seed, its weights averaged; CPU seconds are"
        " of whatever machine ran this."
    ),
)


def said(claim: Claim, found: Found) -> dict[str, Any]:
    """The claim's facts as JSON: verdict, statements, words."""
    statements = claim.statements(found)
    facts = {
        "title": claim.title,
        "claim": claim.says,
        "setting": claim.setting,
        "verdict": overall(statements),
    }
    return {
        **facts,
        "statements": [one.to_json() for one in statements],
        "words": list(claim.words(found)),
    }


def told(one: Statement) -> str:
    """Mean and interval."""
    mean, low, high = one.found
    if one.sure:
        return number(mean)
    return (
        f"{number(mean)} [{number(low)}, {number(high)}]"
        if math.isfinite(low)
        else f"{number(mean)} (one seed)"
    )


def key(claim: Claim, found: Found) -> Statement:
    """The main statement that decided the verdict."""
    main = [one for one in claim.statements(found) if one.main]
    worst = overall(main)
    return next(one for one in main if one.verdict == worst)


def section(claim: Claim, found: Found) -> Section:
    statements = claim.statements(found)
    main = [one for one in statements if one.main]
    verdict = overall(statements)
    count = sum(one.verdict == REPRODUCED for one in main)
    rows = [
        [("" if one.main else "(control) ") + one.text, told(one), one.verdict]
        for one in statements
    ]
    judged = Table(["difference, claimed to be above 0", "mean [95 % interval]", "verdict"], rows)
    return Section(
        title=claim.title,
        verdict=(
            TONES[verdict],
            f"{verdict.capitalize()}: {count} of {len(main)} main statements reproduced",
        ),
        text=[claim.says, f"Measured here: {claim.setting}", *claim.words(found)],
        figures=[claim.figure(found)],
        tables=[judged, numbers(claim, found)],
        commands=[f"{name}: {row.command}" for name, row in claim.rows.items()],
    )


def numbers(claim: Claim, found: Found) -> Table:
    """The means of every row with half their intervals; measures that no row has are left out."""
    known = {
        m: text
        for m, text in claim.measures.items()
        if any(column(found[name], m) for name in found)
    }
    rows = []
    for name, seeds in found.items():
        cells = [column(seeds, measure) for measure in known]
        if any(cells):
            rows.append([name, *(pm(values) if values else "" for values in cells)])
    return Table(
        ["", *known.values()],
        rows,
        caption="Mean over the seeds ± half of the 95 % Student interval.",
    )


def summary(claims: Mapping[str, Claim], found: Mapping[str, Found]) -> Section:
    rows = []
    for name, claim in claims.items():
        one = key(claim, found[name])
        rows.append(
            [claim.title, overall(claim.statements(found[name])), f"{one.text}: {told(one)}"]
        )
    table = Table(["claim", "verdict", "the statement that decided it: mean [95 % interval]"], rows)
    return Section(title="Verdicts", tables=[table], points=[RULE, *GLOSSARY])


def html(claims: Mapping[str, Claim], found: Mapping[str, Found], seeds: int) -> str:
    """The page."""
    names = ",".join(claims)
    lead = [
        (
            "What the papers say of their methods, measured on data whose denoiser and ODE are"
            f" known exactly, at a scale of minutes on a CPU: {seeds} seeds, 1 to {seeds}. A claim"
            " that is not reproduced here may well hold at the papers' scale: their trainings are"
            " hundreds to thousands of times longer, on photographs."
        ),
    ]
    note = (
        f"fewstep {__version__}, torch {torch.__version__}, {platform.machine()}. Again: fewstep"
        f" verify --claims --seeds {seeds} --only {names} --out FOLDER; every number is in"
        " FOLDER/claims.json."
    )
    parts = [
        summary(claims, found),
        *(section(claim, found[name]) for name, claim in claims.items()),
    ]
    return report.page("What the methods claim, where the truth is known", lead, parts, note=note)
