"""Samples against a teacher's own solutions: of the same noise, and of other noise.

Where x are samples, y the solutions from the same noise, both about their class's mean, and
b = E<x, y> / E|y|^2, v = E|x|^2 / E|y|^2, the squared ODE error is (1 - 2 b + v) E|y|^2. So of the
samples s x the least error has s = b / v, and the right variance s = v^-1/2. A mean of what could
be has v = b: its variance is all explained, and it varies less than the solutions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.analysis.claims.reference import rms
from fewstep.analysis.metrics import energy, frechet, prdc, w2
from fewstep.base.randomness import SAMPLING_BLOCK, normal
from fewstep.core.denoiser import Denoiser
from fewstep.core.process import Process
from fewstep.core.sampling import sample, solver_grid
from fewstep.core.solvers import Solver
from fewstep.training.classifier import Classifier

COUNT = 2000  # scored samples, and as many solutions from other noise
NOISE = 1_000_003  # seed of the noise of the former: no run's
FEW = 1000  # samples of the best assignment, which takes time like their cube
PROTOCOL = {"solutions": COUNT, "noise": NOISE, "few": FEW, "version": 1}


MEASURES = {
    "ode_error": "ODE error",
    "feature_frechet": "feature Fréchet",
    "energy_x1000": "energy x 1000",
    "variance_ratio": "variance v",
    "explained": "explained b",
    "marginal_part": "Fréchet part",
    "assigned_part": "assigned W2",
    "recall": "recall",
    "coverage": "coverage",
}
"""Columns of arms that are scored here."""


class Solutions(NamedTuple):
    """Unit noise and labels of the scored samples, their solutions, and those of other noise."""

    z: Tensor
    cond: Tensor
    own: Tensor
    other: Tensor

    def from_means(self, x: Tensor) -> Tensor:
        """x less the mean of its class's solutions."""
        labels = self.cond.unique()  # 0, 1, ...
        return x - torch.stack([self.own[self.cond == one].mean(0) for one in labels])[self.cond]


def follow(
    process: Process, teacher: Denoiser, solver: Solver, moves: int, z: Tensor, cond: Tensor
) -> Tensor:
    """Where so many of the teacher's moves lead from unit noise."""
    grid = solver_grid(process, moves, ())
    with torch.no_grad():
        return sample(process, teacher, process.prior(z), grid, solver, cond)


def noise(shape: tuple[int, ...], classes: int) -> tuple[Tensor, Tensor]:
    """Unit noise of both parts, the scored first, and the labels in turn."""
    z = normal(NOISE, "prior", 0, 2 * COUNT, shape, SAMPLING_BLOCK)
    return z, torch.arange(2 * COUNT) % classes


def moments(solutions: Solutions, x: Tensor) -> tuple[float, float]:
    """b and v, about the class means of the solutions."""
    away, own = (solutions.from_means(part).double() for part in (x, solutions.own))
    total = own.square().sum()
    return ((away * own).sum() / total).item(), (away.square().sum() / total).item()


def lengthen(solutions: Solutions, x: Tensor, factor: float) -> Tensor:
    """The samples about the class means of the solutions, times the factor."""
    away = solutions.from_means(x)
    return x + (factor - 1) * away


def quality(solutions: Solutions, judge: Classifier, x: Tensor) -> dict[str, float]:
    """Distances to the teacher's samples from other noise, which no pairing can help."""
    other = solutions.other
    return {
        "feature_frechet": frechet(judge.features(x), judge.features(other)),
        "energy_x1000": 1000 * energy(x, other),
    }


def scores(solutions: Solutions, judge: Classifier, x: Tensor) -> dict[str, Any]:
    """ODE error and its parts, quality as it is, and of samples at full variance."""
    own, other = solutions.own, solutions.other
    b, v = moments(solutions, x)
    error = rms(x - own)
    marginal = (max(0.0, frechet(x, own)) / x[0].numel()) ** 0.5
    prd = prdc(x.flatten(1), other.flatten(1))
    numbers = {
        "ode_error": error,
        **quality(solutions, judge, x),
        "variance_ratio": v,
        "explained": b,
        "marginal_part": marginal,
        "assigned_part": w2(x[:FEW], own[:FEW]) / x[0].numel() ** 0.5,
        "recall": prd["recall"],
        "coverage": prd["coverage"],
    }
    y = lengthen(solutions, x, v**-0.5)
    after = {"ode_error": rms(y - own), **quality(solutions, judge, y)}
    numbers |= {f"full variance: {measure}": value for measure, value in after.items()}
    return numbers
