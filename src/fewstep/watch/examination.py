"""The doctor, when it is asked for: in a thread, one run at a time, kept by fingerprint."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from fewstep.analysis.doctor import Examination, subject_of
from fewstep.analysis.doctor.entry import run_examination
from fewstep.base.errors import one_line
from fewstep.run.checkpoint import Checkpoint

MOST = 64  # examinations that are kept


@dataclass(frozen=True)
class Outcome:
    """What the doctor says of a checkpoint, or why it says nothing."""

    fingerprint: str
    step: int
    examination: Examination | None = None
    fault: str = ""


class Doctor:
    """Examines the newest checkpoint of a run, named by the run's number."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.lock = threading.Lock()
        self.patient: tuple[int, int] | None = None  # (run, step) that is examined now
        self.outcomes: dict[str, Outcome] = {}  # by fingerprint
        self.last: dict[int, Outcome] = {}  # of each run

    def start(self, number: int, checkpoint: Checkpoint) -> bool:
        """Begins unless it is known already; False where the doctor is with another run."""
        record = checkpoint.record
        fingerprint = record.fingerprint or ""
        with self.lock:
            before = self.outcomes.get(fingerprint)
            if before is not None:
                self.last[number] = before
                return True
            if self.patient is not None:
                return self.patient[0] == number
            self.patient = number, record.step
        options = {"target": self._examine, "args": (number, checkpoint), "daemon": True}
        threading.Thread(name="fewstep-doctor", **options).start()  # type: ignore[arg-type]
        return True

    def _examine(self, number: int, checkpoint: Checkpoint) -> None:
        record = checkpoint.record
        outcome = Outcome(record.fingerprint or "", record.step)
        try:
            subject = subject_of(checkpoint.path, device=self.device)
            examination = run_examination(subject)
            outcome = Outcome(outcome.fingerprint, outcome.step, examination)
        except Exception as error:  # of data that are gone, or a checkpoint that was removed
            line = one_line(str(error) or type(error).__name__)
            outcome = Outcome(outcome.fingerprint, outcome.step, fault=line)
        with self.lock:
            self.patient = None
            self.last[number] = outcome
            if outcome.examination is not None:
                self.outcomes[outcome.fingerprint] = outcome
            while len(self.outcomes) > MOST:
                del self.outcomes[next(iter(self.outcomes))]
