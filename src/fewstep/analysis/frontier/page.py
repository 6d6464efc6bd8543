"""The results of a study: frontier.json, frontier.png, report.html, and text for the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep.analysis import report
from fewstep.analysis.frontier import figures, tables
from fewstep.analysis.frontier.latency import machine
from fewstep.analysis.frontier.models import Subject
from fewstep.analysis.frontier.points import MULTISTEP, Point, choice_facts
from fewstep.analysis.frontier.scoring import Bench, held_out, search_seed
from fewstep.analysis.frontier.summary import Summary
from fewstep.base.errors import StorageError
from fewstep.base.version import __version__

FORMAT = 1
_COLUMNS = 12  # pictures of a row
_CLOUD = 2000  # points of a plot
_WORTH = "better than every cheaper one that is marked"
_CAPTION = (
    f"Bars: 95 % intervals. Filled marks, with their number of evaluations: {_WORTH} (left by"
    " evaluations, right by latency). Faint: not on offer. Grey: what held-out data itself scores,"
    " with its 95 % interval."
)
_BUSY = (
    "The machine was busy while it was timed: calls differ by more than half. The same command on a"
    " quiet machine reads the scores again and measures the times anew."
)


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
            "points": [_point_facts(point, summary) for point in self.points],
        }
        return json.loads(json.dumps(facts))

    def tables(self) -> list[report.Table]:
        """Costs and scores, the other metrics, and the solvers if there are any."""
        caption = (
            f"Test split, {self._draws()}: the mean over draws. Milliseconds of a call: the median."
            f" Bold: {_WORTH} so."
        )
        metric = self.bench.metric
        return [
            tables.costs(self.summary, self.bench.plan.batch, caption),
            tables.others(self.points, metric),
            *_if_any(tables.samplers(self.points, metric)),
        ]

    def levels(self) -> list[report.Table]:
        """The levels of the later steps, if any were chosen."""
        return _if_any(tables.levels(self.points, self.bench.metric))

    def commands(self) -> list[str]:
        """How to sample like the points that are worth their cost."""
        commands = [p.command() for p in self.points if p.worth]
        return [command for command in dict.fromkeys(commands) if command]

    def warnings(self) -> list[str]:
        """A sentence where the times cannot be trusted."""
        return [_BUSY] if any(point.busy for point in self.points) else []

    def text(self) -> str:
        """The tables, the conclusion and the commands for a terminal."""
        parts = [
            *(report.text_table(t.rows, t.head) for t in (*self.tables(), *self.levels())),
            *self.warnings(),
            "\n".join(self.summary.conclusion()),
            "\n".join(self.commands()),
        ]
        return "\n\n".join(part for part in parts if part)

    def write(self, folder: Path) -> None:
        """frontier.json, frontier.png and report.html in the folder."""
        facts = self.to_json()
        about = f"{self.bench.dataset.name}, test split: {self._draws()}, 95 % intervals"
        drawing = figures.frontier(self.points, self.bench.judge(), about)
        try:
            report.png(drawing, folder / "frontier.png")
            report.write(folder / "frontier.json", json.dumps(facts, indent=1))
            report.write(folder / "report.html", self._page(facts, report.svg(drawing)))
        except OSError as error:
            raise StorageError(f"cannot write to {folder}: {error.strerror or error}") from error

    def _draws(self) -> str:
        protocol = self.points[0].results[self.bench.metric].protocol
        return f"{_plural(protocol['draws'], 'draw')} of {protocol['n']} samples"

    def _page(self, facts: dict[str, Any], drawing: bytes) -> str:
        alt = f"{self.bench.metric} against evaluations and milliseconds"
        sections = [
            report.Section(
                title="Quality against cost",
                text=self.warnings(),
                figures=[report.Figure(drawing, alt, _CAPTION)],
                tables=self.tables(),
            )
        ]
        samples = self._samples()
        if samples is not None:
            sections.append(report.Section(title="Samples", figures=[samples]))
        sections += [
            report.Section(title="How to sample", text=self.commands(), tables=self.levels()),
            report.Section(
                title="How this was measured", points=self._protocol(facts), commands=[self.command]
            ),
        ]
        names = " and ".join(subject.name for subject in self.summary.subjects)
        note = f"fewstep {__version__}; every number is in frontier.json beside this page."
        lead = [" ".join(facts["conclusion"])]
        return report.page(f"What each step buys: {names}", lead, sections, note=note)

    def _samples(self) -> report.Figure | None:
        """Samples of the points of interest; None for data that is neither pictures nor plane."""
        shape = self.bench.dataset.shape
        is_picture = len(shape) == 3 and shape[0] in (1, 3)
        if not is_picture and shape != (2,):
            return None
        best = [self.summary.worth(subject)[-1] for subject in self.summary.subjects]
        points = [
            p
            for p in self.points
            if p.worth or p in best or (is_picture and p.sampler == MULTISTEP)
        ]
        real = self.bench.dataset.validation.x0[: _COLUMNS if is_picture else _CLOUD]
        if not is_picture:
            points = points[-5:]
        rows = [(f"{p.name}: {p.evaluations}", self._sample(p, len(real))) for p in points]
        draw = figures.grid if is_picture else figures.clouds
        drawing = draw([*rows, ("held-out data", real)])
        file = BytesIO()
        drawing.savefig(
            file, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None}
        )
        caption = "Samples, with their numbers of evaluations, all from the same noise"
        if is_picture:
            caption += "; a column has one condition"
        alt = "samples by number of evaluations"
        return report.Figure(file.getvalue(), alt, f"{caption}.", "image/png")

    def _sample(self, point: Point, n: int) -> Tensor:
        subject = point.subject
        generator = subject.generator if point.sampler == "segments" else subject.by(point.sampler)
        generator = generator.with_later_sigmas(point.levels or None)
        x = generator.sample(n, steps=point.steps, seed=self.bench.plan.seed)
        return generator.facts.units.to_model(x)

    def _protocol(self, facts: dict[str, Any]) -> list[str]:
        """How the study was made, a sentence or two for each point of the list."""
        plan = self.bench.plan
        where = facts["machine"]
        data = facts["data"]
        counts = {}
        for p in self.points:
            if p.levels:
                counts[f"{p.name} {p.steps}"] = p.candidates
            elif p.candidates:
                counts[f"{p.subject.name}, all samplers"] = p.candidates
        candidates = "; ".join(f"{name}: {count}" for name, count in counts.items())
        return [
            f"Chosen on the validation split by {self.bench.metric}, {plan.search_n} samples of"
            f" seed {facts['plan']['search_seed']} for each candidate, all of them from the same"
            " noise.",
            f"Candidates scored there: {candidates or 'none'}.",
            f"Scored once on the test split: up to {plan.n} samples of seed {plan.seed},"
            f" {self._draws()}, against the training split. Levels and samplers were chosen without"
            " it; which settings are called better is read off it.",
            f"{_WORTH.capitalize()}: beyond chance, so that 0 is outside the 95 % interval of the"
            f" paired difference on the test split, and by {plan.gain:.0%} of the value. There is"
            " no correction for the number of comparisons. All is given these weights and this"
            " training split: another training run is not in the intervals.",
            f"Evaluations are counted in the network. Milliseconds: {plan.repeats} calls of"
            " `sample` after one that is not timed, settings taking turns; for what is cheaper the"
            f" lower quartile counts. On {where['name']} ({where['device']},"
            f" {_plural(where['threads'], 'thread')}, {where['dtype']}, torch {where['torch']}).",
            *(
                f"{s['name']}: {s['about']}, weights {s['weights'][:16]}."
                for s in facts["subjects"]
            ),
            f"Data {data['name']}: training split {data['train'][:16]}, validation"
            f" {data['validation'][:16]}, test {data['test'][:16]}.",
        ]


def _if_any(table: report.Table) -> list[report.Table]:
    return [table] if table.rows else []


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _point_facts(point: Point, summary: Summary) -> dict[str, Any]:
    return {
        "subject": point.subject.name,
        "sampler": point.sampler,
        "steps": point.steps,
        "evaluations": point.evaluations,
        "chosen": choice_facts(point),
        "offered": point.on_offer,
        "worth": point.worth,
        "quick": point.quick,
        "note": summary.note(point),
        "results": [asdict(result) for result in point.results.values()],
        "latency": [asdict(point.one), asdict(point.many)],
        "command": point.command(),
    }


def _subject_facts(subject: Subject) -> dict[str, Any]:
    generator = subject.generator
    size = sum(p.numel() for p in generator.denoiser.parameters())
    about = f"{generator.run.method}, step {generator.step}, {size} weights"
    if subject.given.startswith("exact:"):
        about = "closed form"
    return {
        "name": subject.name,
        "given": subject.given,
        "teacher": subject.teacher,
        "kind": subject.kind,
        "about": about,
        "weights": generator.fingerprint,
        "run": generator.run.to_json(),
    }
