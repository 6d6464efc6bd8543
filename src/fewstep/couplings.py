"""How the two points of a pair arise: `(models, process, x0, z, times, cond) -> x_t, x_r`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from fewstep import solvers
from fewstep.denoiser import Cond, Models, guided, mask_of, masked, on_rows
from fewstep.distances import mse
from fewstep.errors import UserError, require
from fewstep.process import Process, expand
from fewstep.targets import Ema, Target
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

    variance_share: for `addim`, x_var = share ||x0_hat - x0||^2 / d with the sample's own x0 and the teacher's
    unguided guess (MCM, arXiv 2403.06807, algorithm 1: eta = 0.75).
    guidance: of the teacher, see `denoiser.Guided`.
    """

    solver: Callable[..., Tensor] = solvers.heun
    variance_share: float | None = None
    guidance: float = 0.0
    needs = frozenset({"teacher"})

    def __post_init__(self) -> None:
        require(math.isfinite(self.guidance), "guidance", self.guidance, "a finite number, 0 for none")

    def __call__(
        self, models: Models, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
    ) -> tuple[Tensor, Tensor]:
        assert models.teacher is not None
        x_t, share = process.mix(x0, z, times.t), self.variance_share
        more: dict[str, Any] = {}
        if share is not None:
            more["x_var"] = lambda x0_hat, t: share * mse(x0_hat, x0)
        teacher = guided(models.teacher, self.guidance)
        return x_t, self.solver(process, teacher, x_t, times.t, times.r, cond, **more)


@dataclass(frozen=True)
class GeneratorInduced:
    """With probability `share` a row's data is what the model makes of the lower point: x0 := D(mix(x0, z, r), r).

    Both points then mix that x0 with the row's own z. Rows whose r is at the anchor keep their data, and only
    rows that need one have their endpoint evaluated, without dropout.
    share: a number, or a function of progress. Source: GC, arXiv 2406.09570, eq. 13, 14 and 21, where it is mu;
    its code's `mix_gen_induced_traj` is 1 - mu.
    bound: endpoints are clipped to [-bound, bound]. Under a loss of weight 1 three standard deviations of the data
    keep the loop of model and endpoints from diverging, and six do not: see docs/methods/gc.md.
    """

    share: float | Callable[[float], float] = 0.5
    predictor: Target = field(default_factory=Ema)
    bound: float = 3.0
    inner: Coupling = field(default_factory=Data)

    def __post_init__(self) -> None:
        known = callable(self.share) or 0 <= self.share <= 1
        require(known, "share", self.share, "the probability of a generated row, in 0 .. 1")
        require(self.bound > 0, "bound", self.bound, "above 0; infinity for none")

    @property
    def needs(self) -> frozenset[str]:
        return self.predictor.needs | getattr(self.inner, "needs", frozenset())

    def __call__(
        self, models: Models, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
    ) -> tuple[Tensor, Tensor]:
        share = self.share(times.progress) if callable(self.share) else self.share
        require(times.u is not None and times.u.shape[1] > 1, "times.u", None, "uniforms [B, 2], one to choose by")
        assert times.u is not None
        rows = (times.u[:, 1] < share) & (times.r > times.a)
        x_r = process.mix(x0, z, times.r)
        made = on_rows(self.predictor(models), x_r, times.r, cond, rows, x0)
        made = torch.where(expand(rows, x0).bool(), made.clamp(-self.bound, self.bound), x0)
        return self.inner(models, process, masked(made, cond), z, times, cond)


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


def named(pairs: str, eta: float = 0.75, guidance: float = 0.0) -> Coupling:
    """The coupling that a method's option names: data, ot, or a teacher's solver. Raises UserError."""
    plain: dict[str, Coupling] = {"data": Data(), "ot": MinibatchOT()}
    if pairs in plain:
        require(guidance == 0, "guidance", guidance, f"0, since pairs = {pairs!r} ask no teacher")
        return plain[pairs]
    return Teacher(solvers.named(pairs), eta if pairs == "addim" else None, guidance)
