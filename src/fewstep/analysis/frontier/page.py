"""The results of a study: frontier.json, frontier.png, report.html, and text for the terminal."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.analysis import report
from fewstep.analysis.frontier import figures
from fewstep.analysis.frontier.latency import machine
from fewstep.analysis.frontier.models import Subject
from fewstep.analysis.frontier.points import Point
from fewstep.analysis.frontier.scoring import Bench, held_out, search_seed
from fewstep.analysis.frontier.summary import Summary
from fewstep.base.conditions import Cond
from fewstep.base.errors import storage
from fewstep.base.version import __version__

FORMAT = 1
_CONDITIONS, _ROWS = "conditions.npz", 100  # as many rows as `fewstep sample` draws
_CAPTION = (
    "Bars: 95 % intervals. Filled, with the number of evaluations: better than every cheaper filled"
    " one, left by evaluations, right by latency. Grey: what held-out data itself scores."
)
_NESTED = (
    "No commands: the conditions are dicts in a dict, which no file of conditions holds; in Python"
    " generator.sample(n, steps=..., cond=...) takes them."
)
_SAMPLES = "Samples by number of evaluations, all from the same noise, beside held-out data."


@dataclass(frozen=True)
class Frontier:
    """A finished study: its points, and what they were measured on."""

    points: Sequence[Point]
    bench: Bench
    command: str

    @property
    def summary(self) -> Summary:
        others = [
            self.bench.judge(meter.metric)
            for meter in self.bench.splits["test"].meters
            if meter.row.better != "one" and meter.metric != self.bench.metric
        ]
        return Summary(self.points, self.bench.judge(), others)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON's own types."""
        plan = self.bench.plan
        dataset = self.bench.dataset
        summary = self.summary
        facts = {
            "format": FORMAT,
            "fewstep": __version__,
            "command": self.command,
            "conclusion": summary.conclusion(),
            "metric": self.bench.metric,
            "better": "lower" if self.bench.sign > 0 else "higher",
            "data": {"name": dataset.name, "train": dataset.fingerprint(), **held_out(dataset)},
            "plan": {**asdict(plan), "search_seed": search_seed(plan.seed)},
            "machine": machine(self.points[0].subject.generator),
            "subjects": [_subject_facts(subject) for subject in summary.subjects],
            "points": [_point_facts(point, summary, self._command(point)) for point in self.points],
        }
        return json.loads(json.dumps(facts))

    def commands(self) -> list[str]:
        """How to sample like each point on offer, with its levels."""
        commands = [self._command(p) for p in self.points if p.on_offer]
        return [command for command in commands if command]

    def _how_to_sample(self) -> list[str]:
        """The commands, or why there are none."""
        return [_NESTED] if is_nested(self.bench.conditions(1)) else self.commands()

    def _command(self, point: Point) -> str:
        """The command that samples like a point; "" where none does.

        It names a file of conditions, but where there are none, or labels take turns.
        """
        cond = self.bench.conditions(1)
        if cond is None:
            return point.command()
        path = shlex.quote(str(self.bench.store.path.with_name(_CONDITIONS)))
        return "" if is_nested(cond) else point.command(f" --cond {path}")

    def text(self) -> str:
        """The tables, the conclusion and the commands for a terminal."""
        tables = self.summary.tables(self.bench.plan.batch)
        parts = [report.text_table(table.rows, table.head) for table in tables]
        parts += ["\n".join(lines) for lines in (self.summary.conclusion(), self._how_to_sample())]
        return "\n\n".join(filter(None, parts))

    def write(self, folder: Path) -> None:
        """frontier.json, frontier.png, samples.png and report.html in the folder.

        Beside them conditions.npz for the commands, where the data have conditions.
        """
        facts = self.to_json()
        about = f"{self.bench.dataset.name}, test split: {self._draws()}"
        drawing = figures.frontier(self.points, self.bench.judge(), about)
        with storage(f"cannot write to {folder}"):
            report.png(drawing, folder / "frontier.png")
            report.write(folder / "frontier.json", json.dumps(facts, indent=1))
            alt = f"{self.bench.metric} against evaluations and milliseconds"
            curves = report.Figure(report.svg(drawing), alt, _CAPTION)
            page = self._page(facts, [curves, self._samples(folder / "samples.png")])
            report.write(folder / "report.html", page)
            write_conditions(folder / _CONDITIONS, self.bench.conditions(_ROWS))

    def _draws(self) -> str:
        protocol = self.points[0].results[self.bench.metric].protocol
        return f"{protocol['draws']} x {protocol['n']} samples"

    def _page(self, facts: dict[str, Any], figures: list[report.Figure]) -> str:
        tables = self.summary.tables(self.bench.plan.batch)
        sections = [
            report.Section(title="Quality against cost", figures=figures, tables=tables),
            report.Section(title="How to sample", text=self._how_to_sample()),
            report.Section(
                title="How this was measured", points=self._protocol(facts), commands=[self.command]
            ),
        ]
        names = " and ".join(subject.name for subject in self.summary.subjects)
        note = f"fewstep {__version__}; every number is in frontier.json beside this page."
        return report.page(
            f"What each step buys: {names}", facts["conclusion"], sections, note=note
        )

    def _samples(self, path: Path) -> report.Figure:
        """Samples of the best points, beside held-out data of the same conditions."""
        best = [self.summary.worth(subject)[-1] for subject in self.summary.subjects]
        points = [p for p in self.points if p.worth or p in best]
        if self.points[0].subject.generator.facts.look.kind not in ("tiles", "plane"):
            points = list(dict.fromkeys((points[0], points[-1])))
        origins = [
            report.Origin(f"{p.name}: {p.evaluations}", p.subject.by(p.sampler, p.levels), p.steps)
            for p in points
        ]
        seed = self.bench.plan.seed
        return report.samples(path, origins, self.bench.dataset, seed=seed, caption=_SAMPLES)

    def _protocol(self, facts: dict[str, Any]) -> list[str]:
        """How the study was made, a point of the list each."""
        plan, where, data = facts["plan"], facts["machine"], facts["data"]
        return [
            f"Levels and samplers: chosen on the validation split by {self.bench.metric},"
            f" {plan['search_n']} samples of seed {plan['search_seed']} for each candidate, at most"
            f" {plan['candidates']} for each number of steps.",
            f"Scores: {self._draws()} of seed {plan['seed']} on the test split, against the"
            " training split.",
            "Better: 0 is outside the 95 % interval of the paired difference on the test split, and"
            f" the gain is {plan['gain']:.0%} of the value or more; no correction for the number of"
            " comparisons, and the spread of training runs is not in the intervals.",
            f"Times: {plan['repeats']} calls of `sample`, settings taking turns, on {where['name']}"
            f" ({where['device']}, threads: {where['threads']}, {where['dtype']}, torch"
            f" {where['torch']}). The lower quartile says what is cheaper.",
            *(f"{s['name']}: {s['about']}, {s['weights'][:16]}." for s in facts["subjects"]),
            f"Data {data['name']}: training split {data['train'][:16]}, test {data['test'][:16]}.",
        ]


def is_nested(cond: Cond) -> bool:
    """Whether a condition has dicts in a dict."""
    return isinstance(cond, Mapping) and any(isinstance(part, Mapping) for part in cond.values())


def write_conditions(path: Path, cond: Cond) -> None:
    """The conditions of samples as an .npz that `sample --cond` reads; nothing without any.

    Nor of dicts in a dict: NumPy would write them as a pickle, which nothing here reads.
    """
    if cond is not None and not is_nested(cond):
        parts: dict[str, Any] = dict(cond) if isinstance(cond, Mapping) else {"cond": cond}
        np.savez(path, **parts)


def _point_facts(point: Point, summary: Summary, command: str) -> dict[str, Any]:
    choice: dict[str, Any] = {"levels": point.levels, "candidates": 0, "validation": None}
    if (score := point.validation) is not None:
        facts = {"value": score.value, "error": score.error, "protocol": score.protocol}
        choice |= {"candidates": score.protocol["candidates"], "validation": facts}
    return {
        "subject": point.subject.name,
        "sampler": point.sampler,
        "steps": point.steps,
        "evaluations": point.evaluations,
        "chosen": choice,
        "offered": point.on_offer,
        "worth": point.worth,
        "quick": point.quick,
        "note": summary.note(point),
        "results": [asdict(result) for result in point.results.values()],
        "latency": [asdict(point.one), asdict(point.many)],
        "command": command,
    }


def _subject_facts(subject: Subject) -> dict[str, Any]:
    generator = subject.generator
    size = sum(p.numel() for p in generator.denoiser.parameters())
    about = f"{generator.run.method}, step {generator.step}, {size} weights"
    return {
        "name": subject.name,
        "given": subject.source,
        "teacher": subject.teacher,
        "kind": subject.kind,
        "about": "closed form" if subject.source.startswith("exact:") else about,
        "weights": generator.fingerprint,
        "run": generator.run.to_json(),
    }
