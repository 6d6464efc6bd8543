"""Metrics: every number comes with its error, its floor and the protocol of its measurement."""

from fewstep.analysis.metrics.calibration import CALIBRATION, Calibration
from fewstep.analysis.metrics.denoised import denoised_frechet
from fewstep.analysis.metrics.evaluation import evaluate
from fewstep.analysis.metrics.extractors import Extractor, file_sha256, open_extractor
from fewstep.analysis.metrics.gains import Gain, gains
from fewstep.analysis.metrics.metric import Metric
from fewstep.analysis.metrics.prepared import Meter, Prepared, Spaces, meters_of, spaces_of
from fewstep.analysis.metrics.preprocessing import Input
from fewstep.analysis.metrics.protocol import Difference, Result, compare
from fewstep.analysis.metrics.registry import METRICS
from fewstep.analysis.metrics.teachers import ode_error
from fewstep.analysis.metrics.verdict import Verdict, verdicts
from fewstep.run.teacher_ode import Teacher, open_teacher
from fewstep.statistics.classes import classifier_score
from fewstep.statistics.distances import energy, frechet, nearest_ratio
from fewstep.statistics.ensembles import (
    coverage,
    crps,
    energy_score,
    ranks,
    spread_skill,
    uniformity,
)
from fewstep.statistics.kernels import kid, kid_subsets, mmd2
from fewstep.statistics.manifolds import prdc
from fewstep.statistics.moments import Statistics, moments, read_statistics
from fewstep.statistics.transport import sliced_w2, w2
from fewstep.statistics.twosample import TwoSample, c2st
from fewstep.training.classifier import Classifier

__all__ = [
    "CALIBRATION",
    "METRICS",
    "Calibration",
    "Classifier",
    "Difference",
    "Extractor",
    "Gain",
    "Input",
    "Meter",
    "Metric",
    "Prepared",
    "Result",
    "Spaces",
    "Statistics",
    "Teacher",
    "TwoSample",
    "Verdict",
    "c2st",
    "classifier_score",
    "compare",
    "coverage",
    "crps",
    "denoised_frechet",
    "energy",
    "energy_score",
    "evaluate",
    "file_sha256",
    "frechet",
    "gains",
    "kid",
    "kid_subsets",
    "meters_of",
    "mmd2",
    "moments",
    "nearest_ratio",
    "ode_error",
    "open_extractor",
    "open_teacher",
    "prdc",
    "ranks",
    "read_statistics",
    "sliced_w2",
    "spaces_of",
    "spread_skill",
    "uniformity",
    "verdicts",
    "w2",
]
