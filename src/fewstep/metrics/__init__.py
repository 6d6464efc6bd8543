"""Numbers that can be trusted: every one with its error, its floor and the protocol it was measured by."""

from fewstep.metrics.distances import energy, frechet, nearest_ratio
from fewstep.metrics.evaluation import evaluate
from fewstep.metrics.extractors import Extractor, file_sha256, open_extractor
from fewstep.metrics.features import Classifier
from fewstep.metrics.inputs import Input
from fewstep.metrics.kernels import kid, kid_subsets, mmd2
from fewstep.metrics.manifolds import prdc
from fewstep.metrics.meters import Meter, Prepared, Spaces, meters_of, spaces_of
from fewstep.metrics.protocol import Difference, Result, compare
from fewstep.metrics.statistics import Statistics, moments, read_statistics
from fewstep.metrics.transport import sliced_w2, w2
from fewstep.metrics.twosample import TwoSample, c2st

__all__ = [
    "Classifier",
    "Difference",
    "Extractor",
    "Input",
    "Meter",
    "Prepared",
    "Result",
    "Spaces",
    "Statistics",
    "TwoSample",
    "c2st",
    "compare",
    "energy",
    "evaluate",
    "file_sha256",
    "frechet",
    "kid",
    "kid_subsets",
    "meters_of",
    "mmd2",
    "moments",
    "nearest_ratio",
    "open_extractor",
    "prdc",
    "read_statistics",
    "sliced_w2",
    "spaces_of",
    "w2",
]
