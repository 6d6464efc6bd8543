"""A linear student fitted level by level to a method's goals on Gaussian data, without sampling
error.

The goals are linear in (x0, z), so a product of two quadratures of three nodes has their least
squares exactly.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fewstep.analysis.verify.check import column
from fewstep.analysis.verify.fixtures import SD
from fewstep.core.denoiser import Denoiser, Models
from fewstep.core.method import Method
from fewstep.core.times import Times

NODES, MASS = (-(3**0.5), 0.0, 3**0.5), (1 / 6, 2 / 3, 1 / 6)  # Gauss-Hermite, of unit variance
SHARES = (0.25, 0.75)  # the rows' second uniforms: GC at share 1/2 generates one half of the mass


class Linear:
    """D(x, t) = g(t) x, with the slopes fitted so far; the nearest level's."""

    def __init__(self, slopes: dict[float, float]) -> None:
        self.slopes = slopes

    def __call__(self, x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
        gains = [
            min((abs(known - at), gain) for known, gain in self.slopes.items())[1]
            for at in t.tolist()
        ]
        return column(*gains).reshape(-1, 1) * x_t


def nodes() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x0, z `[18, 1]`, uniforms `[18, 2]` and the mass of each row."""
    rows = [
        (SD * a, b, u, p * q / 2)
        for a, p in zip(NODES, MASS, strict=True)
        for b, q in zip(NODES, MASS, strict=True)
        for u in SHARES
    ]
    x0, z, u, mass = torch.tensor(rows, dtype=torch.float64).T
    return x0[:, None], z[:, None], torch.stack([u, u], 1), mass


def fitted(method: Method, levels: Times, slopes: dict[float, float], **others: Denoiser) -> Tensor:
    """Least squares of each level's goals on its x_t, from the lowest level up; `slopes` knows what
    lies below.
    """
    student, found = Linear(slopes), []
    models = Models(**{"student": student, "ema": student, **others})  # type: ignore[arg-type]
    x0, z, u, mass = nodes()
    for i in range(len(levels.t)):
        t, r, a, w = (part[i].expand(len(x0)) for part in levels[:4])
        times = Times(t, r, a, w, u)
        x_t, x_r = method.coupling(models, method.process, x0, z, times, None)
        goal = method.goal(models, x_t, x_r, times, None, lambda who, x, t, cond: who(x, t, cond))
        slope = ((goal * x_t)[:, 0] * mass).sum() / (x_t.square()[:, 0] * mass).sum()
        slopes[levels.t[i].item()] = slope.item()
        found.append(slope)
    return torch.stack(found)
