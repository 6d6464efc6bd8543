"""The report: verdicts at the top, then for each claim comments, figure, numbers and commands."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from typing import Any

import torch

from fewstep.analysis import report
from fewstep.analysis.claims.claim import Claim, Results, column, number, pm
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


def facts_of(claim: Claim, results: Results) -> dict[str, Any]:
    """The claim's facts as JSON: verdict, statements, comments."""
    statements = claim.statements(results)
    return {
        "title": claim.title,
        "claim": claim.says,
        "setting": claim.setting,
        "verdict": overall(statements),
        "statements": [one.to_json() for one in statements],
        "words": list(claim.comments(results)),
    }


def estimate_text(statement: Statement) -> str:
    """Mean and interval."""
    mean, low, high = statement.estimate
    if statement.exact:
        return number(mean)
    if not math.isfinite(low):
        return f"{number(mean)} (one seed)"
    return f"{number(mean)} [{number(low)}, {number(high)}]"


def decisive(claim: Claim, results: Results) -> Statement:
    """The main statement that decided the verdict."""
    main = [one for one in claim.statements(results) if one.main]
    worst = overall(main)
    return next(one for one in main if one.verdict == worst)


def section(claim: Claim, results: Results) -> Section:
    statements = claim.statements(results)
    main = [one for one in statements if one.main]
    verdict = overall(statements)
    count = sum(one.verdict == REPRODUCED for one in main)
    summary = f"{verdict.capitalize()}: {count} of {len(main)} main statements reproduced"
    rows = [
        [one.text if one.main else f"(control) {one.text}", estimate_text(one), one.verdict]
        for one in statements
    ]
    head = ["difference, claimed to be above 0", "mean [95 % interval]", "verdict"]
    return Section(
        title=claim.title,
        verdict=(TONES[verdict], summary),
        text=[claim.says, f"Measured here: {claim.setting}", *claim.comments(results)],
        figures=[claim.figure(results)],
        tables=[Table(head, rows), numbers(claim, results)],
        commands=[f"{name}: {row.command}" for name, row in claim.rows.items()],
    )


def numbers(claim: Claim, results: Results) -> Table:
    """The means of every row with half their intervals, of the measures that some row has."""
    measures = [m for m in claim.measures if any(column(row, m) for row in results.values())]
    rows = []
    for name, seeds in results.items():
        cells = [column(seeds, measure) for measure in measures]
        if any(cells):
            rows.append([name, *(pm(values) if values else "" for values in cells)])
    return Table(
        ["", *(claim.measures[measure] for measure in measures)],
        rows,
        caption="Mean over the seeds ± half of the 95 % Student interval.",
    )


def summary_section(claims: Mapping[str, Claim], results: Mapping[str, Results]) -> Section:
    rows = []
    for name, claim in claims.items():
        one = decisive(claim, results[name])
        rows.append([claim.title, one.verdict, f"{one.text}: {estimate_text(one)}"])
    head = ["claim", "verdict", "the statement that decided it: mean [95 % interval]"]
    return Section(title="Verdicts", tables=[Table(head, rows)], points=[RULE, *GLOSSARY])


def html(claims: Mapping[str, Claim], results: Mapping[str, Results], seeds: int) -> str:
    """The page."""
    lead = (
        "What the papers say of their methods, measured on data whose denoiser and ODE are known"
        f" exactly, at a scale of minutes on a CPU: {seeds} seeds, 1 to {seeds}. A claim that is"
        " not reproduced here may well hold at the papers' scale: their trainings are hundreds to"
        " thousands of times longer, on photographs."
    )
    note = (
        f"fewstep {__version__}, torch {torch.__version__}, {platform.machine()}. Again: fewstep"
        f" verify --claims --seeds {seeds} --only {','.join(claims)} --out FOLDER; every number is"
        " in FOLDER/claims.json."
    )
    sections = [section(claim, results[name]) for name, claim in claims.items()]
    parts = [summary_section(claims, results), *sections]
    return report.page("What the methods claim, where the truth is known", [lead], parts, note=note)
