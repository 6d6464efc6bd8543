"""Further losses of a method's rows: `(models, process, x0, z, times, cond, run) -> [B]`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fewstep.base.conditions import Cond
from fewstep.base.errors import require
from fewstep.core import balances, distances, spaces, weights
from fewstep.core.balances import Balance
from fewstep.core.denoiser import Models
from fewstep.core.distances import Distance
from fewstep.core.process import Process, expand
from fewstep.core.spaces import Space
from fewstep.core.times import Times
from fewstep.core.weights import Weight


@dataclass(frozen=True)
class FlowMatching:
    """weight balance(distance(u(x_t, t, t), v)): every row trains the diagonal too, at its own t.

    space: of the comparison; velocities, or x0 of denoising.
    Source: iMF, arXiv 2512.02012, algorithm 1; of x0: CTM, arXiv 2310.02279, eq. 7.
    """

    balance: Balance = balances.unbalanced
    distance: Distance = distances.sse
    space: Space = field(default_factory=spaces.Velocity)
    weight: Weight = weights.one
    needs = frozenset({"student"})

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
        x_t = process.mix(x0, z, times.t)
        x0_hat = run(models.student, x_t, times.t, cond, times.t)
        d = self.distance(*(self.space(process, x_t, one, times) for one in (x0_hat, x0)))
        return expand(self.weight(process, times), d) * self.balance(d, times, models)


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
