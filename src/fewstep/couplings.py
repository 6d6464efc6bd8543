"""How the two points of a pair arise: `(models, process, x0, z, times, cond) -> x_t, x_r`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fewstep.denoiser import Cond, Models, mask_of
from fewstep.distances import mse
from fewstep.errors import UserError
from fewstep.process import Process
from fewstep.solvers import heun
from fewstep.times import Times


class Coupling(Protocol):
    """x0, z `[B, ...]` -> the point x_t the student sees and its neighbour x_r on the same trajectory."""

    def __call__(
        self, models: Models, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
    ) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Data:
    """Independent coupling: both points mix the same x0 and the same z (CT, arXiv 2303.01469, eq. 10)."""

    def __call__(
        self, models: Models, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
    ) -> tuple[Tensor, Tensor]:
        return process.mix(x0, z, times.t), process.mix(x0, z, times.r)


@dataclass(frozen=True)
class Teacher:
    """x_r is where the teacher's ODE leads from x_t = mix(x0, z, t): a solver's move (CD, arXiv 2303.01469, eq. 6).

    variance_share: for `addim`, x_var = share ||x0_hat - x0||^2 / d with the sample's own x0
    (MCM, arXiv 2403.06807, algorithm 1: eta = 0.75).
    """

    solver: Callable[..., Tensor] = heun
    variance_share: float | None = None
    needs = frozenset({"teacher"})

    def __call__(
        self, models: Models, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
    ) -> tuple[Tensor, Tensor]:
        assert models.teacher is not None
        x_t, share = process.mix(x0, z, times.t), self.variance_share
        more: dict[str, Any] = {}
        if share is not None:
            more["x_var"] = lambda x0_hat, t: share * mse(x0_hat, x0).to(t.device, t.dtype)
        return x_t, self.solver(process, models.teacher, x_t, times.t, times.r, cond, **more)


@dataclass(frozen=True)
class MinibatchOT:
    """Independent coupling whose noise is dealt out anew: the exact assignment of least sum ||x0_i - z_j||^2.

    Within the batch, so a row depends on its batch. Needs SciPy. Source: arXiv 2302.00482, section 3.2.4.
    """

    def __call__(
        self, models: Models, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
    ) -> tuple[Tensor, Tensor]:
        try:
            from scipy.optimize import linear_sum_assignment
        except ImportError:
            raise UserError("minibatch optimal transport needs SciPy: pip install 'fewstep[ot]'") from None
        mask = mask_of(x0, cond)
        if mask is not None and not bool((mask == mask[:1]).all()):
            raise UserError("minibatch optimal transport deals noise out anew: expected the same mask in every row")
        gain = x0.flatten(1).double() @ z.flatten(1).double().T  # all that the sum of squares leaves to choose
        z = z[torch.as_tensor(linear_sum_assignment(gain.cpu().numpy(), maximize=True)[1], device=z.device)]
        return process.mix(x0, z, times.t), process.mix(x0, z, times.r)
