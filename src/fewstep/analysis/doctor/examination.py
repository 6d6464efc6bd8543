"""The examination of a run: every measure in turn, with what it cannot take said instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor
from tqdm import tqdm

from fewstep.analysis.doctor.average import average_gap, drawn
from fewstep.analysis.doctor.boundary import boundary
from fewstep.analysis.doctor.chain import loose_chain, target_drift
from fewstep.analysis.doctor.gradients import gradient_noise
from fewstep.analysis.doctor.loss import loss_by_level
from fewstep.analysis.doctor.memorisation import memorisation
from fewstep.analysis.doctor.subject import Patient
from fewstep.analysis.doctor.teacher_gap import teacher_gap
from fewstep.analysis.doctor.training_log import logbook
from fewstep.analysis.doctor.verdicts import Measure, Severity, Verdict, worst
from fewstep.base.errors import FewstepError


@dataclass(frozen=True)
class Examination:
    """All measures of one patient."""

    name: str
    about: str  # what it is, in one line
    measures: tuple[Measure, ...]

    @property
    def verdicts(self) -> list[Verdict]:
        return [verdict for measure in self.measures for verdict in measure.verdicts]

    @property
    def severity(self) -> Severity:
        return worst([verdict.severity for verdict in self.verdicts])


@dataclass
class Samples:
    """Samples of the average and the student, drawn once where they are asked for."""

    patient: Patient
    kept: dict[str, Tensor] = field(default_factory=dict)

    def of(self, who: str) -> Tensor:
        if who not in self.kept:
            self.kept[who] = drawn(self.patient, getattr(self.patient, who))
        return self.kept[who]


def average(patient: Patient, samples: Samples) -> Measure:
    known = not patient.denoises and patient.student is not None
    return average_gap(patient, (samples.of("ema"), samples.of("student")) if known else None)


MEASURES: dict[str, Callable[[Patient, Samples], Measure]] = {
    "loss by noise level": lambda patient, _: loss_by_level(patient),
    "boundary": lambda patient, _: boundary(patient),
    "target drift": lambda patient, _: target_drift(patient),
    "chain": lambda patient, _: loose_chain(patient),
    "gradient noise": lambda patient, _: gradient_noise(patient),
    "average": average,
    "teacher gap": lambda patient, _: teacher_gap(patient),
    "memorisation": lambda patient, samples: memorisation(patient, samples.of("ema")),
    "training log": lambda patient, _: logbook(patient),
}


def taken(
    measures: Mapping[str, Callable[[], Measure]], *, progress: bool = False
) -> list[Measure]:
    """Every measure in turn; one that cannot be taken says why."""
    found = []
    with tqdm(measures.items(), disable=not progress, leave=False) as bar:
        for name, measure in bar:
            bar.set_description(name)
            try:
                found.append(measure())
            except FewstepError as error:
                found.append(Measure(name, "", missing=str(error)))
    return found


def examine(patient: Patient, *, progress: bool = False) -> Examination:
    """Takes every measure of a run; nothing is written."""
    samples = Samples(patient)
    todo = {name: partial(measure, patient, samples) for name, measure in MEASURES.items()}
    stage = f", stage {patient.stage}" if patient.method.before is not None else ""
    about = (
        f"{patient.run.method} on {patient.dataset.name}{stage}, step {patient.step} of"
        f" {patient.run.iterations}"
    )
    return Examination(patient.name, about, tuple(taken(todo, progress=progress)))
