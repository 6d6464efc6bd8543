"""What pairs of noise and data cost to move: the coupling of an ideal generator against minibatch transport.

c(sigma) = E ||x0_hat - z||^2 / D with x0_hat the exact end of the ODE from x0 + sigma z, over that of independent
pairs, c(0) = E ||x0 - z||^2 / D. Source: GC, arXiv 2406.09570, figure 3. Nothing is trained.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

import fewstep as fs
from fewstep.denoiser import Models
from fewstep.exact import named
from fewstep.solvers import along, heun
from fewstep.times import Times, karras

LAWS = ("digits-mixture", "ring8", "grid25")
LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0, 80.0)
PAIRS, BATCH = 512, 256
MOVES = 32  # of Heun's method; `solver_error` says how far from the exact solution that ends
PROBED = 32
ROWS = 128  # at once: the exact denoiser is quickest so


def cost(x0: Tensor, z: Tensor) -> float:
    return (x0 - z).double().square().mean().item()


def endpoint(law: Any, x: Tensor, sigma: float) -> Tensor:
    """The end of the probability-flow ODE from x at this noise level."""
    grid = [*karras(0.002, sigma, MOVES, 7.0).tolist(), 0.0]
    return torch.cat([along(heun, grid)(law.process, law, part, sigma, 0.0) for part in x.split(ROWS)])


def dealt(x0: Tensor, z: Tensor) -> Tensor:
    """The noise as minibatch optimal transport deals it out among the data."""
    t = torch.ones(len(x0), dtype=torch.float64)
    x_t, _ = fs.couplings.MinibatchOT()(Models(student=None), fs.process.edm(), x0, z, Times(t, t, t, t), None)  # type: ignore[arg-type]
    return x_t - x0


def curve(name: str, seed: int) -> dict[str, float]:
    """Ratios to the independent cost: of each level, and of minibatch transport."""
    law = named(name)
    x0 = law.sample(PAIRS, seed=seed)
    z = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed))
    alone, found = cost(x0, z), {}
    for sigma in LEVELS:
        x = x0 + sigma * z
        end = endpoint(law, x, sigma)
        found[f"sigma {sigma:g}"] = cost(end, z) / alone
    away = end[:PROBED] - law.solve(x[:PROBED], sigma, 0.0)
    batches = zip(x0.split(BATCH), z.split(BATCH), strict=True)
    found["minibatch OT"] = sum(cost(a, dealt(a, b)) for a, b in batches) / (PAIRS // BATCH) / alone
    return {**found, "solver_error": away.double().square().mean().sqrt().item()}


def verdicts(rows: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Of each law: whether the cost falls from level to level, and from which one it is below transport's."""
    told: dict[str, Any] = {}
    for name, seeds in rows.items():
        costs = [[one[f"sigma {sigma:g}"] for sigma in LEVELS] for one in seeds]
        told[f"{name}: falls with sigma, in every seed"] = all(a > b for c in costs for a, b in pairwise(c))
        below = [all(one[f"sigma {sigma:g}"] < one["minibatch OT"] for one in seeds) for sigma in LEVELS]
        from_there = [sigma for i, sigma in enumerate(LEVELS) if all(below[i:])]
        told[f"{name}: below minibatch OT in every seed from sigma"] = from_there[0] if from_there else None
    return told
