"""What is written: frontier.json, frontier.png and report.html; and the table that the terminal shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from torch import Tensor

import fewstep
from fewstep import report
from fewstep.errors import StorageError
from fewstep.frontier import figures
from fewstep.frontier.latency import machine
from fewstep.frontier.points import MULTISTEP, Judge, Point, chosen_levels
from fewstep.frontier.scoring import Bench, held_out, search_seed
from fewstep.frontier.words import Verdicts, number, spread

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
        return Judge(self.bench.metric, self.bench.sign)

    @property
    def verdicts(self) -> Verdicts:
        return Verdicts(self.points, self.judge)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON's own types."""
        plan, dataset = self.bench.plan, self.bench.dataset
        found = {
            "format": FORMAT,
            "fewstep": fewstep.__version__,
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

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows of words, a row for each point."""
        metrics = [self.bench.metric, *(m for m in self.points[0].results if m != self.bench.metric)]
        batch = self.bench.plan.batch
        head = ["", "evaluations", "levels", *metrics, "ms for 1", f"samples/s by {batch}", ""]
        rows = []
        for p in self.points:
            assert p.one is not None and p.many is not None
            times = f"{p.one.median:.3g} ({p.one.low:.3g} to {p.one.high:.3g})"
            levels = " ".join(f"{x:.3g}" for x in p.levels) or "-"
            scores = [spread(p.results[m]) for m in metrics]
            rows.append(
                [p.name, str(p.evaluations), levels, *scores, times, f"{p.many.per_second:.0f}", self.verdicts.note(p)]
            )
        floors = [p_floor(self.points[0], m) for m in metrics]
        rows.append(["held-out data (floor)", "-", "-", *floors, "-", "-", ""])
        return head, rows

    def commands(self) -> list[str]:
        """How to sample as the points that are worth their cost were."""
        return list(dict.fromkeys(p.command() for p in self.points if p.worth and p.command()))

    def text(self) -> str:
        """The table, the conclusion and the commands for a terminal."""
        head, rows = self.table()
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        lines = [
            "  ".join(_cell(c, w, i) for i, (c, w) in enumerate(zip(row, widths, strict=True))) for row in [head, *rows]
        ]
        return "\n".join([*(line.rstrip() for line in lines), "", *self.verdicts.conclusion(), "", *self.commands()])

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

    def _draws(self) -> str:
        protocol = self.points[0].results[self.bench.metric].protocol
        return f"{protocol['draws']} draws of {protocol['n']} samples"

    def _page(self, told: dict[str, Any], drawing: bytes) -> str:
        names = " and ".join(s.name for s in self.verdicts.subjects)
        head, rows = self.table()
        strong = frozenset(i for i, p in enumerate(self.points) if p.worth)
        figure = report.Figure(drawing, f"{self.bench.metric} against evaluations and milliseconds", _CAPTION)
        table = report.Table(head, rows, self._caption(), strong)
        pictures = self._samples()
        sections = [
            report.Section(title="Quality against cost", figures=[figure], tables=[table]),
            *([report.Section(title="Samples", figures=[pictures])] if pictures else []),
            report.Section(title="How to sample", text=self.commands()),
            report.Section(title="How this was measured", points=self._protocol(told), commands=[self.command]),
        ]
        note = f"fewstep {fewstep.__version__}; every number is in frontier.json beside this page."
        return report.page(f"What each step buys: {names}", [" ".join(told["conclusion"])], sections, note=note)

    def _caption(self) -> str:
        error = "± is the standard error of the mean over draws"
        return f"Test split, {self._draws()}; {error}; milliseconds: median and quartiles. Bold: worth its cost."

    def _samples(self) -> report.Figure | None:
        """What the points that a reader asks for look like; None for data that is no picture and no plane."""
        shape = self.bench.dataset.shape
        shown = [p for p in self.points if p.sampler == MULTISTEP or p.worth]
        if len(shape) == 3 and shape[0] in (1, 3):
            rows = [(f"{p.name}: {p.evaluations}", self._drawn(p, _COLUMNS)) for p in shown]
            drawing, told = figures.grid(rows), "each column began at the same noise and has the same condition"
        elif shape == (2,):
            best = [p for p in shown if p.worth][:6]
            rows = [(f"{p.name}: {p.evaluations}", self._drawn(p, _CLOUD)) for p in best]
            drawing, told = figures.clouds(rows), "all began at the same noise"
        else:
            return None
        file = BytesIO()
        drawing.savefig(file, format="png", dpi=150, metadata={"Software": None})
        caption = f"Samples, the number is that of evaluations; {told}."
        return report.Figure(file.getvalue(), "samples by number of evaluations", caption, "image/png")

    def _drawn(self, point: Point, n: int) -> Tensor:
        subject = point.subject
        generator = subject.generator if point.sampler == "segments" else subject.by(point.sampler)
        x = generator.with_middle(point.levels or None).sample(n, steps=point.steps, seed=self.bench.plan.seed)
        return generator.facts.units.to_model(x)

    def _protocol(self, told: dict[str, Any]) -> list[str]:
        plan, where = self.bench.plan, told["machine"]
        searched = [f"{p.name} {p.steps}: {p.candidates}" for p in self.points if p.levels]
        solved = {p.subject.name: p.candidates for p in self.points if not p.levels and p.candidates}
        chosen = [*searched, *(f"{name}, all samplers: {count}" for name, count in solved.items())]
        threads = f"{where['threads']} thread{'s' * (where['threads'] > 1)}"
        return [
            f"Chosen on the validation split by {self.bench.metric}, {plan.search_n} samples of seed "
            f"{told['plan']['search_seed']} for each candidate, all of them from the same noise.",
            f"Candidates scored there: {'; '.join(chosen) or 'none'}.",
            f"Scored once on the test split: up to {plan.n} samples of seed {plan.seed}, {self._draws()}, against the "
            f"training split. Nothing of the test split entered a choice.",
            "Worth its cost: better than every setting of fewer evaluations, the 95 % interval of the paired difference "
            "on the test split leaving 0 out. No correction for the number of comparisons. The intervals are given "
            "the weights and the training split: another training run is not in them.",
            f"Evaluations are counted in the network. Milliseconds: {plan.repeats} calls of `sample` after one that is not "
            f"timed, settings taking turns, on {where['name']} ({where['device']}, {threads}, {where['dtype']}, torch "
            f"{where['torch']}).",
            *(f"{s['name']}: {s['about']}, weights {s['weights'][:16]}." for s in told["subjects"]),
            f"Data {told['data']['name']}: training split {told['data']['train'][:16]}, validation "
            f"{told['data']['validation'][:16]}, test {told['data']['test'][:16]}.",
        ]


_CAPTION = (
    "Bars: 95 % intervals. Filled marks, with their number of evaluations: better than everything cheaper, beyond chance "
    "(left by evaluations, right by latency). Grey: what held-out data itself scores, with its 95 % interval."
)


def p_floor(point: Point, metric: str) -> str:
    """The floor of a metric with its error."""
    result = point.results[metric]
    if result.floor is None:
        return "-"
    return number(result.floor) + ("" if result.floor_error is None else f" ± {number(result.floor_error)}")


def _subject(subject: Any) -> dict[str, Any]:
    generator = subject.generator
    size = sum(p.numel() for p in generator.denoiser.parameters())
    closed = subject.given.startswith("exact:")
    about = "closed form" if closed else f"{generator.run.method}, step {generator.step}, {size} weights"
    return {
        "name": subject.name,
        "given": subject.given,
        "teacher": subject.teacher,
        "kind": subject.kind,
        "about": about,
        "weights": generator.fingerprint,
        "run": generator.run.to_json(),
    }


def _cell(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column == 0 else text.rjust(width)
