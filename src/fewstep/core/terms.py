"""Further losses of a method's rows: `(models, process, x0, z, times, cond, run) -> [B]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fewstep.base.conditions import Cond
from fewstep.core import balances, distances, spaces
from fewstep.core.balances import Balance
from fewstep.core.denoiser import Models
from fewstep.core.distances import Distance
from fewstep.core.process import Process
from fewstep.core.times import Times


@dataclass(frozen=True)
class FlowMatching:
    """balance(distance(u(x_t, t, t), v)): the diagonal is trained in every row, to its own t.

    Source: iMF, arXiv 2512.02012, algorithm 1.
    """

    balance: Balance = balances.unbalanced
    distance: Distance = distances.sse
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
        x_t, velocity = process.mix(x0, z, times.t), spaces.Velocity()
        x0_hat = run(models.student, x_t, times.t, cond, times.t)
        d = self.distance(*(velocity(process, x_t, one, times) for one in (x0_hat, x0)))
        return self.balance(d, times, models)
