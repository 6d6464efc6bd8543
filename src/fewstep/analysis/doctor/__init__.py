"""`fewstep doctor`: the faults of a run or a teacher, as measured numbers with a message for each.

Every measure is a function that returns a `Measure`: its table, and verdicts that name their
evidence, the threshold and where that comes from. Nothing is written into a run.
"""

from fewstep.analysis.doctor.examination import MEASURES, Examination, examine
from fewstep.analysis.doctor.subject import Subject, subject_of
from fewstep.analysis.doctor.verdicts import Measure, Verdict

__all__ = ["MEASURES", "Examination", "Measure", "Subject", "Verdict", "examine", "subject_of"]
