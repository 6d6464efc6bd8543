"""The report: verdicts, then for each claim its statements, figure, numbers and commands."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from fewstep.analysis import report
from fewstep.analysis.claims.claim import (
    CONTRADICTED,
    NOT_MET,
    OPEN,
    REPRODUCED,
    Claim,
    Results,
    Statement,
    column,
    overall,
)
from fewstep.analysis.report import Section, Table
from fewstep.base.version import __version__
from fewstep.statistics.intervals import pm

TONES = {REPRODUCED: "good", OPEN: "open", CONTRADICTED: "bad", NOT_MET: "open"}

NOTES = (
    (
        "Every statement is a difference that the paper says is positive, taken seed by seed:"
        " within a seed all arms see the same data, noise and initial weights. It is reproduced"
        " where the 95 % Student interval of its mean over the seeds lies wholly above 0,"
        " contradicted where it lies wholly below, and otherwise not reproduced at this scale. A"
        " claim has the worst verdict of its main statements; the others are controls. Where a"
        " premise of the claim is not reproduced itself, the verdict is: premise not met. There is"
        " no correction for the number of statements."
    ),
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


@dataclass(frozen=True)
class Finding:
    """A claim with its rows' numbers."""

    claim: Claim
    results: Results

    @cached_property
    def statements(self) -> list[Statement]:
        return list(self.claim.statements(self.results))

    @property
    def main(self) -> list[Statement]:
        return [one for one in self.statements if one.main and not one.premise]

    @property
    def verdict(self) -> str:
        return overall(self.statements)

    @property
    def decisive(self) -> Statement:
        """The statement that decided the verdict: a main one, or a premise that does not hold."""
        if self.verdict == NOT_MET:
            return next(one for one in self.statements if one.premise and one.verdict != REPRODUCED)
        return next(one for one in self.main if one.verdict == self.verdict)

    def to_json(self) -> dict[str, Any]:
        return {
            "title": self.claim.title,
            "claim": self.claim.says,
            "setting": self.claim.setting,
            "fair": self.claim.fair,
            "lesson": self.claim.lesson(self.results),
            "verdict": self.verdict,
            "statements": [one.to_json() for one in self.statements],
        }

    def numbers(self) -> Table:
        """The means of every row with half their intervals, of the measures that some row has."""
        titles = self.claim.measures
        table = {
            name: {m: pm(values) for m in titles if (values := column(row, m))}
            for name, row in self.results.items()
        }
        present = [m for m in titles if any(m in cells for cells in table.values())]
        rows = [[name, *(c.get(m, "") for m in present)] for name, c in table.items() if c]
        caption = "Mean over the seeds ± half of the 95 % Student interval."
        return Table(["", *(titles[m] for m in present)], rows, caption=caption)

    def section(self) -> Section:
        claim, count = self.claim, sum(one.verdict == REPRODUCED for one in self.main)
        summary = f"{count} of {len(self.main)} main statements reproduced"
        rows = [[f"{_role(one)}{one.text}", str(one), one.verdict] for one in self.statements]
        head = ["difference, claimed to be above 0", "mean [95 % interval]", "verdict"]
        return Section(
            title=claim.title,
            verdict=(TONES[self.verdict], f"{self.verdict.capitalize()}: {summary}"),
            text=[
                claim.says,
                f"Measured here: {claim.setting}",
                f"Why this is a fair test: {claim.fair}",
                f"What was learned: {claim.lesson(self.results)}",
            ],
            figures=[claim.figure(self.results)],
            tables=[Table(head, rows), self.numbers()],
            commands=[f"{name}: {row.command}" for name, row in claim.rows.items()],
        )


def _role(statement: Statement) -> str:
    """What the table says of a statement that is no main one."""
    if statement.premise:
        return "(premise) "
    return "" if statement.main else "(control) "


def html(
    findings: Mapping[str, Finding], seeds: int, left_out: Mapping[str, Claim] | None = None
) -> str:
    """The page; `left_out` are the claims that were not measured."""
    lead = (
        "What the papers say of their methods, measured on laws whose denoiser and ODE are known"
        " exactly where a claim is about the ODE, and on pictures where it is about pictures, at a"
        f" scale of minutes on a CPU: {seeds} seeds, 1 to {seeds}. A claim that is"
        " not reproduced here may well hold at the papers' scale: their trainings are hundreds to"
        " thousands of times longer, on photographs."
    )
    note = (
        f"fewstep {__version__}, torch {torch.__version__}, {platform.machine()}. Again: fewstep"
        f" verify --claims --seeds {seeds} --only {','.join(findings)} --out FOLDER; every number"
        " is in FOLDER/claims.json."
    )
    head = ["claim", "verdict", "the statement that decided it: mean [95 % interval]"]
    rows = [
        [one.claim.title, one.verdict, f"{one.decisive.text}: {one.decisive}"]
        for one in findings.values()
    ]
    rows += [
        [one.title, "not measured", f"about {one.hours(seeds):.1f} CPU hours: --long"]
        for one in (left_out or {}).values()
    ]
    verdicts = Section(title="Verdicts", tables=[Table(head, rows)], points=NOTES)
    sections = [verdicts, *(one.section() for one in findings.values())]
    return report.page(
        "What the methods claim, where the truth is known", [lead], sections, note=note
    )
