"""The examination of a run: every measure in turn; one that cannot be taken says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from fewstep.analysis.doctor.average import average_gap, draw_samples
from fewstep.analysis.doctor.boundary import boundary
from fewstep.analysis.doctor.chain import loose_chain, target_drift
from fewstep.analysis.doctor.gradients import gradient_noise
from fewstep.analysis.doctor.later_steps import later_steps
from fewstep.analysis.doctor.loss import loss_by_level
from fewstep.analysis.doctor.memorisation import memorisation
from fewstep.analysis.doctor.rounding import rounding_of_gaps
from fewstep.analysis.doctor.subject import Subject
from fewstep.analysis.doctor.teacher_gap import teacher_gap
from fewstep.analysis.doctor.training_log import training_log
from fewstep.analysis.doctor.verdicts import Measure, Severity, Verdict, worst
from fewstep.base.errors import FewstepError
from fewstep.base.progress import Progress
from fewstep.core.denoiser import passes_in_parts


@dataclass(frozen=True)
class Examination:
    """All measures of one subject."""

    name: str
    about: str  # what it is, in one line
    measures: tuple[Measure, ...]

    @property
    def verdicts(self) -> list[Verdict]:
        return [verdict for measure in self.measures for verdict in measure.verdicts]

    @property
    def severity(self) -> Severity:
        """The worst of the verdicts; without any nothing is known to be well."""
        return worst([verdict.severity for verdict in self.verdicts]) if self.verdicts else "watch"


@dataclass
class Samples:
    """Samples of the average and of the student, drawn once, when a measure needs them."""

    subject: Subject
    drawings: dict[str, Tensor] = field(default_factory=dict)

    def of(self, who: str) -> Tensor:
        if who not in self.drawings:
            self.drawings[who] = draw_samples(self.subject, getattr(self.subject, who))
        return self.drawings[who]


def average(subject: Subject, samples: Samples) -> Measure:
    if subject.denoises or subject.student is None:
        return average_gap(subject, None)
    return average_gap(subject, (samples.of("ema"), samples.of("student")))


MEASURES: dict[str, Callable[[Subject, Samples], Measure]] = {
    "loss by noise level": lambda subject, _: loss_by_level(subject),
    "boundary": lambda subject, _: boundary(subject),
    "target drift": lambda subject, _: target_drift(subject),
    "chain": lambda subject, _: loose_chain(subject),
    "later steps": lambda subject, _: later_steps(subject),
    "rounding": lambda subject, _: rounding_of_gaps(subject),
    "gradient noise": lambda subject, _: gradient_noise(subject),
    "average": average,
    "teacher gap": lambda subject, _: teacher_gap(subject),
    "memorisation": lambda subject, samples: memorisation(subject, samples.of("ema")),
    "training log": lambda subject, _: training_log(subject),
}


def take(measures: Mapping[str, Callable[[], Measure]], *, progress: bool = False) -> list[Measure]:
    """Every measure in turn; one that raises a FewstepError is missing, with its message."""
    results = []
    with Progress(len(measures), "measure", show=progress) as bar:
        for name, measure in measures.items():
            try:
                results.append(measure())
            except FewstepError as error:
                results.append(Measure(name, "", missing=str(error)))
            bar.update(measured=name)
    return results


def examine(subject: Subject, *, progress: bool = False) -> Examination:
    """Takes every measure of a run; nothing is written."""
    samples = Samples(subject)
    measures = {name: partial(measure, subject, samples) for name, measure in MEASURES.items()}
    stage = f", stage {subject.stage}" if subject.method.before is not None else ""
    about = (
        f"{subject.run.method} on {subject.dataset.name}{stage}, step {subject.step} of"
        f" {subject.run.steps}"
    )
    with passes_in_parts(subject.split):
        return Examination(subject.name, about, tuple(take(measures, progress=progress)))
