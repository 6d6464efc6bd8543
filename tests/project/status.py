"""Writes docs/status.md and its picture from the checks, the claims and docs/papers.md.

`python -m tests.project.status`, seconds; tests/project/test_status.py fails where the page is old.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import fewstep as fs
from fewstep.analysis.claims import registry
from fewstep.analysis.verify import all_checks
from fewstep.analysis.verify.papers import PAPERS, TOGETHER
from fewstep.base.options import names_of
from fewstep.run import recipes

DOCS = Path(__file__).parents[2] / "docs"
NONE = "\N{EN DASH}"
PAGE, PICTURE = DOCS / "status.md", DOCS / "pictures" / "status.png"
GRADES = ("proved", "measured", "runs", "missing")
COLOURS = ("#1e8449", "#2471a3", "#b9770e", "#c0392b")
WORDS = {"proved": "prove", "measured": "measured", "runs": "run", "missing": "missing"}


class Row(NamedTuple):
    """A row of docs/papers.md: whose it is, what it is, and its grades."""

    paper: str
    what: str
    here: str
    status: str

    @property
    def grades(self) -> list[str]:
        return [grade for grade in GRADES if re.search(rf"\b{WORDS[grade]}", self.status)]


def papers() -> list[Row]:
    """The rows of docs/papers.md; those of its table `The family` are named by their first word."""
    rows, paper = [], ""
    for line in (DOCS / "papers.md").read_text().splitlines():
        if line.startswith("## "):
            paper = line[3:].partition(",")[0].partition(" (")[0]
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("| ") or cells[0].startswith(("in the paper", "paper")):
            continue
        rows.append(Row(paper, cells[0], cells[1], cells[-1]))
    return rows


def page() -> str:
    checks, rows = all_checks(), papers()
    counts = {paper: Counter() for paper in dict.fromkeys(row.paper for row in rows)}
    for row in rows:
        counts[row.paper].update(row.grades)
    lacking = [row for row in rows if "missing" in row.grades]
    return TEXT.format(
        checks=f"{len(checks):,}",
        methods=len(names_of(fs.methods)),
        recipes=len(recipes.PAPERS),
        by_method="\n".join(by_method(checks)),
        by_paper="\n".join(by_paper(counts)),
        claims="\n".join(by_claim()),
        lacking="\n".join(
            f"| {row.what} | {row.here.replace(NONE, 'not here')} |" for row in lacking
        ),
    )


def by_method(checks):
    """Of each method: checks that name it, those of them that are its paper's, their sources."""
    for name in sorted(names_of(fs.methods)):
        mine = sum(name in check.methods for check in checks)
        papers = {paper.source for paper in PAPERS if paper.method == name}
        link = f"[`{name}`](methods/{TOGETHER.get(name, name)}.md)"
        yield f"| {link} | {mine} | {'; '.join(sorted(papers))} |"


def by_paper(counts):
    for paper, grades in counts.items():
        cells = " | ".join(str(grades[grade] or NONE) for grade in GRADES)
        yield f"| {paper} | {cells} |"


def by_claim():
    """The verdicts of docs/claims.json, with how many of the main statements hold."""
    facts = json.loads((DOCS / "claims.json").read_text())["claims"]
    for name in registry():
        holds = sum(one["verdict"] == "reproduced" for one in facts[name]["statements"])
        verdict, count = facts[name]["verdict"], len(facts[name]["statements"])
        yield f"| `{name}` | {facts[name]['title']} | {verdict} | {holds} of {count} |"


def draw() -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from PIL import Image

    rows = papers()
    names = list(dict.fromkeys(row.paper for row in rows))[::-1]
    figure, axes = pyplot.subplots(figsize=(9, 3), layout="constrained")
    left = [0] * len(names)
    for grade, colour in zip(GRADES, COLOURS, strict=True):
        widths = [sum(row.grades[-1:] == [grade] for row in rows if row.paper == n) for n in names]
        bars = axes.barh(names, widths, left=left, color=colour, label=grade)
        axes.bar_label(bars, [str(w or "") for w in widths], label_type="center", color="white")
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_xlabel("rows of the papers' tables and figures, each by the lowest of its grades")
    axes.legend(ncols=4, loc="lower right", frameon=False, bbox_to_anchor=(1, 1))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=100)
    pyplot.close(figure)
    Image.open(PICTURE).convert("RGB").quantize(48).save(PICTURE, optimize=True)


TEXT = """\
# Status

What is proved, what was measured, what only runs, and what is planned and not here. The page is
generated from the checks, the claims and the [table of the papers](papers.md) by
`python -m tests.project.status`, and a test fails where it is old.

| grade | what it means |
|---|---|
| proved | an equation, limit or schedule is checked to rounding, in `make test` |
| measured | run at the scale of a laptop; the number is linked |
| runs | the command exists and is tested for a few steps; **nothing was measured** |
| missing | planned, not here |

**Nothing was measured at the scale of a paper.** Recipes with the settings of papers: {recipes},
all of the grade "runs".

![Bars for each paper: rows that are proved, measured, run or missing](pictures/status.png)

| paper | proved | measured | runs | missing |
|---|---|---|---|---|
{by_paper}

A row of a paper can have two grades, such as an equation that is proved and a recipe that runs.

## Proved: the equations of each method

`fewstep verify` has {checks} checks. Each compares something with its formula, and `tests/planted`
holds mistakes that they must find ([how](verify.md)). Of the {methods} methods:

| method | checks that name it | its loss is compared with, written out separately |
|---|---|---|
{by_method}

## Measured: the claims of the papers

By `fewstep verify --claims` on five seeds, on laws that are known exactly and on digits
([report](claims.html), [in words](results.md#what-the-papers-claim)). The verdict is that of a
claim's main statements; the last column counts all, those about its premises and limits too.

| claim | | verdict | statements that hold |
|---|---|---|---|
{claims}

## Planned, not here

| | |
|---|---|
{lacking}
| any number of a GPU: speed, memory, FID | estimated where a page says so, not measured |
"""


def main() -> None:
    PAGE.write_text(page())
    draw()


if __name__ == "__main__":
    main()
