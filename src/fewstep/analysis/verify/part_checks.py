"""Weights and distances by their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fewstep.analysis.verify.check import Check, apart, column, worst
from fewstep.analysis.verify.fixtures import SD, data
from fewstep.core import distances, weights
from fewstep.core import process as processes
from fewstep.core.times import Times


def weighed(
    weight: Callable[..., Tensor], wanted: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
) -> float:
    """A weight against its formula of (t, r, alpha, sigma) on the cosine process and on edm."""
    errors = []
    for process in (processes.edm(), processes.cosine()):
        t, r = column(0.2, 0.5, 0.9), column(0.1, 0.45, 0.2)
        times = Times(t, r, 0 * t, 0 * t + 1)
        errors.append(
            apart(weight(process, times), wanted(t, r, process.alpha(t), process.sigma(t)))
        )
    return worst(*errors)


def gap() -> float:
    return weighed(weights.inverse_gap, lambda t, r, alpha, sigma: 1 / (t - r))


def snr_one() -> float:
    return weighed(weights.snr_plus_one, lambda t, r, alpha, sigma: alpha**2 / sigma**2 + 1)


def edm_weight() -> float:
    return weighed(weights.Edm(SD), lambda t, r, a, s: ((s / a) ** 2 + SD**2) / (s / a * SD) ** 2)


def distance(
    part: Callable[[Tensor, Tensor], Tensor], formula: Callable[[Tensor, int], Tensor]
) -> float:
    """A distance against its formula of one sample's difference and size, at two shapes."""
    errors = []
    for shape in ((3,), (2, 4, 4)):
        x, y, _ = data(3, shape)
        errors.append(
            apart(
                part(x, y),
                torch.stack([formula(a - b, a.numel()) for a, b in zip(x, y, strict=True)]),
            )
        )
    return worst(*errors)


def root_huber() -> float:
    c = 0.05
    return distance(
        distances.RootHuber(c), lambda e, d: (e.square().sum() + c**2 * d).sqrt() - c * math.sqrt(d)
    )


def l2() -> float:
    return distance(distances.l2_norm, lambda e, d: e.square().sum().sqrt())


def rms_huber() -> float:
    c = 0.05
    return distance(distances.RmsHuber(c), lambda e, d: (e.square().sum() / d + c**2).sqrt() - c)


def element_huber() -> float:
    c = 0.05
    return distance(
        distances.ElementHuber(c), lambda e, d: ((e.square() + c**2).sqrt() - c).sum() / d
    )


def mean_square() -> float:
    return distance(distances.mse, lambda e, d: e.square().sum() / d)


def checks() -> list[Check]:
    square, gaps = ("diffusion", "ct", "cd", "direct_cm", "sct", "scd"), ("ict", "gc", "ect", "tcm")
    edm = ("diffusion", "ect", "ct", "cd")
    rows: list[tuple[str, str, Callable[[], float], str, tuple[str, ...]]] = [
        ("weight 1/(t - r)", "2310.14189, sec. 3.1", gap, "weights.inverse_gap", gaps),
        ("weight SNR + 1", "2202.00512, sec. 4", snr_one, "weights.snr_plus_one", ("mcm",)),
        (
            "weight (t^2 + sd^2)/(t sd)^2 = 1/c_out^2",
            "2206.00364, table 1",
            edm_weight,
            "weights.Edm",
            edm,
        ),
        (
            "huber: sqrt(|e|^2 + c^2) - c, c ~ sqrt(D)",
            "2310.14189, sec. 3.3",
            root_huber,
            "distances.RootHuber",
            gaps[:2],
        ),
        (
            "L2 norm: sqrt of the sum over the sample",
            "2406.14548, sec. 3",
            l2,
            "distances.l2_norm",
            gaps[2:],
        ),
        (
            "huber of the root mean square",
            "2403.06807, sec. 4",
            rms_huber,
            "distances.RmsHuber",
            ("mcm",),
        ),
        (
            "huber of every element, their mean",
            "2411.08954, code",
            element_huber,
            "distances.ElementHuber",
            square[3:4],
        ),
        (
            "mean square over the elements",
            "2303.01469, sec. 4",
            mean_square,
            "distances.mse",
            square,
        ),
    ]
    look = "the number per row is not this formula: see fewstep."
    return [
        Check(name, source, measure, 1e-10, look + where, users)
        for name, source, measure, where, users in rows
    ]
