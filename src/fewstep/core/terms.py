"""Further losses of a method's rows: `(models, process, x0, z, times, cond, run) -> [B]`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from fewstep.base.conditions import Cond
from fewstep.base.errors import require
from fewstep.core import abilities, balances, distances, spaces, weights
from fewstep.core.balances import Balance
from fewstep.core.couplings import Coupling, Velocity
from fewstep.core.denoiser import Models
from fewstep.core.distances import Distance
from fewstep.core.process import Process, expand
from fewstep.core.spaces import Space
from fewstep.core.tangents import LOWEST
from fewstep.core.times import Times
from fewstep.core.weights import Weight


@dataclass(frozen=True)
class FlowMatching:
    """weight balance(distance(u(x_s, s, s), v)): every row trains the diagonal of a flow map too.

    at: s = t (iMF, arXiv 2512.02012, algorithm 1), or the end, s = a, from the level of 1e-3 on
        (TVM, arXiv 2511.19797).
    space: of the comparison; velocities, or x0 of denoising (CTM, arXiv 2310.02279, eq. 7).
    """

    pairs: Coupling = field(default_factory=Velocity)  # whose velocity v is
    balance: Balance = balances.unbalanced
    distance: Distance = distances.sse
    at: Literal["t", "a"] = "t"
    space: Space = field(default_factory=spaces.Velocity)
    weight: Weight = weights.one

    @property
    def needs(self) -> frozenset[str]:
        return abilities.needs(self.pairs) | {"student"}

    def __call__(
        self,
        models: Models,
        process: Process,
        x0: Tensor,
        z: Tensor,
        times: Times,
        cond: Cond,
        run: Any,
    ) -> Tensor:
        s = times.t if self.at == "t" else torch.maximum(times.a, process.time_at(LOWEST))
        here = times._replace(t=s)
        with torch.no_grad():
            x_s, v = self.pairs(models, process, x0, z, here, cond)
        both = run(models.student, x_s, s, cond, s), process.guess_of(x_s, v, s)
        d = self.distance(*(self.space(process, x_s, one, here) for one in both))
        return expand(self.weight(process, here), d) * self.balance(d, times, models)


def denoising(weight: Weight) -> FlowMatching:
    """weight ||D(x_t, t, to=t) - x0||^2 / D: the same, compared as data."""
    return FlowMatching(distance=distances.mse, space=spaces.x0, weight=weight)


@dataclass(frozen=True)
class Divergence:
    """weight KL(N(mu, s^2) || N(0, 1)) / D of the noise that an encoder gives x0.

    Source: VCT, arXiv 2502.18197, section 3.
    """

    weight: float = 1.0
    needs = frozenset({"encoder"})

    def __post_init__(self) -> None:
        require(self.weight >= 0, "weight", self.weight, "0 or more")

    def __call__(
        self,
        models: Models,
        process: Process,
        x0: Tensor,
        z: Tensor,
        times: Times,
        cond: Cond,
        run: Any,
    ) -> Tensor:
        assert models.encoder is not None
        mean, log_std = models.encoder(x0)
        kl = (mean.square() + (2 * log_std).exp() - 1) / 2 - log_std
        return self.weight * kl.flatten(1).mean(1)
