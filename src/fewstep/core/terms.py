"""Further losses of a method's rows: `(models, process, x0, z, times, cond, run) -> [B]`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from fewstep.base.conditions import Cond
from fewstep.core import abilities, balances, distances
from fewstep.core.balances import Balance
from fewstep.core.couplings import Coupling, Velocity
from fewstep.core.denoiser import Models
from fewstep.core.distances import Distance
from fewstep.core.process import Process
from fewstep.core.tangents import LOWEST
from fewstep.core.times import Times


@dataclass(frozen=True)
class FlowMatching:
    """balance(distance(u(x_s, s, s), v)): the diagonal of a flow map is trained in every row.

    at: s = t (iMF, arXiv 2512.02012, algorithm 1), or the end, s = a, from the level of 1e-3 on
        (TVM, arXiv 2511.19797).
    """

    pairs: Coupling = field(default_factory=Velocity)  # whose velocity v is
    balance: Balance = balances.unbalanced
    distance: Distance = distances.sse
    at: Literal["t", "a"] = "t"

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
        with torch.no_grad():
            x_s, v = self.pairs(models, process, x0, z, times._replace(t=s), cond)
        x0_hat = run(models.student, x_s, s, cond, s)
        d = self.distance(process.velocity(x_s, x0_hat, s), v)
        return self.balance(d, times, models)
