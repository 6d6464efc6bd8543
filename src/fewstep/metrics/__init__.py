"""Numbers that can be trusted: every one with its error, its floor and the protocol it was measured by."""

from fewstep.metrics.distances import energy, frechet, nearest_ratio
from fewstep.metrics.evaluation import Result, evaluate
from fewstep.metrics.features import Classifier

__all__ = ["Classifier", "Result", "energy", "evaluate", "frechet", "nearest_ratio"]
