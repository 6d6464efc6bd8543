"""What is written: frontier.json, frontier.png and report.html; and the table that the terminal
shows.
"""

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
from fewstep.analysis.frontier.points import MULTISTEP, Judge, Point, chosen_levels
from fewstep.analysis.frontier.scoring import Bench, held_out, search_seed
from fewstep.analysis.frontier.summary import Verdicts
from fewstep.base.errors import StorageError
from fewstep.base.version import __version__

FORMAT = 1
_COLUMNS, _CLOUD = 12, 2000  # pictures of a row, points of a plot


@dataclass(frozen=True)
class Frontier:
    """A finished study: what was measured, and on what."""

    points: Sequence[Point]
    bench: Bench
    command: str

    @property
    def judge(self) -> Judge:
        return self.bench.judge()

    @property
    def verdicts(self) -> Verdicts:
        others = [
            m
            for m, r in self.points[0].results.items()
            if r.protocol["statistic"] != "nearest_ratio"
        ]
        return Verdicts(
            self.points, self.judge, [self.bench.judge(m) for m in others if m != self.bench.metric]
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON's own types."""
        plan, dataset = self.bench.plan, self.bench.dataset
        found = {
            "format": FORMAT,
            "fewstep": __version__,
            "command": self.command,
            "conclusion": self.verdicts.conclusion(),
            "metric": self.bench.metric,
            "better": "lower" if self.bench.sign > 0 else "higher",
            "data": {"name": dataset.name, "train": dataset.fingerprint(), **held_out(dataset)},
            "plan": {**asdict(plan), "search_seed": search_seed(plan.seed)},
            "machine": machine(self.points[0].subject.generator),
            "subjects": [_subject(s) for s in self.verdicts.subjects],
            "points": [self._point(point) for point in self.points],
        }
        return json.loads(json.dumps(found))

    def _point(self, point: Point) -> dict[str, Any]:
        return {
            "subject": point.subject.name,
            "sampler": point.sampler,
            "steps": point.steps,
            "evaluations": point.evaluations,
            "chosen": chosen_levels(point),
            "offered": point.offered,
            "worth": point.worth,
            "quick": point.quick,
            "note": self.verdicts.note(point),
            "results": [asdict(result) for result in point.results.values()],
            "latency": [asdict(timing) for timing in (point.one, point.many) if timing is not None],
            "command": point.command(),
        }

    def _costs(self) -> tables.Cells:
        return tables.costs(self.points, self.verdicts, self.bench.metric, self.bench.plan.batch)

    def _chosen(self) -> tables.Cells:
        return tables.chosen(self.points, self.bench.metric)

    def commands(self) -> list[str]:
        """How to sample as the points that are worth their cost were."""
        return list(dict.fromkeys(p.command() for p in self.points if p.worth and p.command()))

    def text(self) -> str:
        """The table, the conclusion and the commands for a terminal."""
        metric = self.bench.metric
        cells = [
            self._costs(),
            tables.others(self.points, metric),
            tables.samplers(self.points, metric),
            self._chosen(),
        ]
        parts = [
            *(tables.aligned(*c) for c in cells if c[1]),
            self._busy(),
            self.verdicts.conclusion(),
            self.commands(),
        ]
        return "\n\n".join("\n".join(part) for part in parts if part)

    def write(self, folder: Path) -> None:
        """frontier.json, frontier.png and report.html in the folder."""
        told = self.to_json()
        about = f"{self.bench.dataset.name}, test split: {self._draws()}, 95 % intervals"
        drawing = figures.frontier(self.points, self.judge, about)
        try:
            report.png(drawing, folder / "frontier.png")
            report.write(folder / "frontier.json", json.dumps(told, indent=1))
            report.write(folder / "report.html", self._page(told, report.svg(drawing)))
        except OSError as error:
            raise StorageError(f"cannot write to {folder}: {error.strerror or error}") from error

    def _busy(self) -> list[str]:
        """What is said where the clock cannot be trusted."""
        if not any(point.busy for point in self.points):
            return []
        return [
            "The machine was busy while it was timed: calls differ by more than half. The same"
            " command on a quiet machine keeps the scores and times anew."
        ]

    def _draws(self) -> str:
        protocol = self.points[0].results[self.bench.metric].protocol
        return f"{protocol['draws']} draw{'s' * (protocol['draws'] > 1)} of {protocol['n']} samples"

    def _page(self, told: dict[str, Any], drawing: bytes) -> str:
        names = " and ".join(s.name for s in self.verdicts.subjects)
        strong = frozenset(i for i, p in enumerate(tables.offered(self.points)) if p.worth)
        figure = report.Figure(
            drawing, f"{self.bench.metric} against evaluations and milliseconds", _CAPTION
        )
        (head, rows), (also, more) = self._costs(), tables.others(self.points, self.bench.metric)
        shown = [
            report.Table(head, tables.unbroken(rows), self._caption(), strong),
            report.Table(
                also, tables.unbroken(more), "The other metrics, ± their standard errors.", strong
            ),
        ]
        by, solved = tables.samplers(self.points, self.bench.metric)
        if solved:
            shown.append(report.Table(by, solved, _SOLVED.format(self.bench.metric)))
        pictures, (wide, chosen) = self._samples(), self._chosen()
        levels = [
            report.Table(
                wide, chosen, "Noise levels of the later steps, chosen on the validation split."
            )
        ] * bool(chosen)
        sections = [
            report.Section(
                title="Quality against cost", figures=[figure], tables=shown, text=self._busy()
            ),
            *([report.Section(title="Samples", figures=[pictures])] if pictures else []),
            report.Section(title="How to sample", text=self.commands(), tables=levels),
            report.Section(
                title="How this was measured", points=self._protocol(told), commands=[self.command]
            ),
        ]
        note = f"fewstep {__version__}; every number is in frontier.json beside this page."
        return report.page(
            f"What each step buys: {names}", [" ".join(told["conclusion"])], sections, note=note
        )

    def _caption(self) -> str:
        return (
            f"Test split, {self._draws()}: the mean over draws. Milliseconds of a call: the median."
            f" Bold: {_WORTH} so."
        )

    def _samples(self) -> report.Figure | None:
        """What the points that a reader asks for look like; None for data that is no picture and no
        plane.
        """
        shape = self.bench.dataset.shape
        best = [self.verdicts.kept(subject)[-1] for subject in self.verdicts.subjects]
        few = [p for p in self.points if p.worth or any(p is other for other in best)]
        many = [
            p for p in self.points if p.sampler == MULTISTEP or any(p is other for other in few)
        ]
        real = self.bench.dataset.validation.x0
        if len(shape) == 3 and shape[0] in (1, 3):
            rows = [(f"{p.name}: {p.evaluations}", self._drawn(p, _COLUMNS)) for p in many]
            drawing = figures.grid([*rows, ("held-out data", real[:_COLUMNS])])
            told = "each column of samples began at the same noise and has the same condition"
        elif shape == (2,):
            rows = [(f"{p.name}: {p.evaluations}", self._drawn(p, _CLOUD)) for p in few[-5:]]
            drawing, told = (
                figures.clouds([*rows, ("held-out data", real[:_CLOUD])]),
                "all began at the same noise",
            )
        else:
            return None
        file = BytesIO()
        drawing.savefig(
            file, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None}
        )
        caption = f"Samples, the number is that of evaluations; {told}."
        return report.Figure(
            file.getvalue(), "samples by number of evaluations", caption, "image/png"
        )

    def _drawn(self, point: Point, n: int) -> Tensor:
        subject = point.subject
        generator = subject.generator if point.sampler == "segments" else subject.by(point.sampler)
        x = generator.with_later_sigmas(point.levels or None).sample(
            n, steps=point.steps, seed=self.bench.plan.seed
        )
        return generator.facts.units.to_model(x)

    def _protocol(self, told: dict[str, Any]) -> list[str]:
        plan, where = self.bench.plan, told["machine"]
        searched = [f"{p.name} {p.steps}: {p.candidates}" for p in self.points if p.levels]
        solved = {
            p.subject.name: p.candidates for p in self.points if not p.levels and p.candidates
        }
        chosen = [*searched, *(f"{name}, all samplers: {count}" for name, count in solved.items())]
        threads = f"{where['threads']} thread{'s' * (where['threads'] > 1)}"
        return [
            (
                f"Chosen on the validation split by {self.bench.metric}, {plan.search_n} samples of"
                f" seed {told['plan']['search_seed']} for each candidate, all of them from the same"
                " noise."
            ),
            f"Candidates scored there: {'; '.join(chosen) or 'none'}.",
            (
                f"Scored once on the test split: up to {plan.n} samples of seed {plan.seed},"
                f" {self._draws()}, against the training split. Nothing of it entered a choice of"
                " levels or samplers; which settings are called better is read off it."
            ),
            (
                f"{_WORTH.capitalize()}: beyond chance, the 95 % interval of the paired difference"
                f" on the test split leaving 0 out, and by {plan.gain:.0%} of the value. No"
                " correction for the number of comparisons. All is given these weights and this"
                " training split: another training run is not in the intervals."
            ),
            (
                f"Evaluations are counted in the network. Milliseconds: {plan.repeats} calls of"
                " `sample` after one that is not timed, settings taking turns; for what is cheaper"
                f" the lower quartile counts. On {where['name']} ({where['device']}, {threads},"
                f" {where['dtype']}, torch {where['torch']})."
            ),
            *(f"{s['name']}: {s['about']}, weights {s['weights'][:16]}." for s in told["subjects"]),
            (
                f"Data {told['data']['name']}: training split {told['data']['train'][:16]},"
                f" validation {told['data']['validation'][:16]}, test {told['data']['test'][:16]}."
            ),
        ]


_WORTH = "better than every cheaper one that is marked"
_SOLVED = (
    "{} by sampler and number of evaluations. In brackets: beaten on the validation split by a"
    " setting that is no dearer, and so not on offer."
)
_CAPTION = (
    f"Bars: 95 % intervals. Filled marks, with their number of evaluations: {_WORTH} (left by"
    " evaluations, right by latency). Faint: not on offer. Grey: what held-out data itself scores,"
    " with its 95 % interval."
)


def _subject(subject: Any) -> dict[str, Any]:
    generator = subject.generator
    size = sum(p.numel() for p in generator.denoiser.parameters())
    closed = subject.given.startswith("exact:")
    about = (
        "closed form"
        if closed
        else f"{generator.run.method}, step {generator.step}, {size} weights"
    )
    return {
        "name": subject.name,
        "given": subject.given,
        "teacher": subject.teacher,
        "kind": subject.kind,
        "about": about,
        "weights": generator.fingerprint,
        "run": generator.run.to_json(),
    }
