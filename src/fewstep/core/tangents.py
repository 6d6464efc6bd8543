"""The limit r -> t: the goal that follows from a student's derivative along its trajectory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fewstep.base.conditions import Cond, apply_mask
from fewstep.base.errors import UserError, require
from fewstep.core import abilities, derivatives
from fewstep.core.denoiser import Denoiser, Masks, Models, Preconditioned
from fewstep.core.derivatives import Engine, Line
from fewstep.core.noise import Trig
from fewstep.core.process import Process, Time, expand, per_row
from fewstep.core.times import Times


class Drift:
    """The velocity u(x_t, t) = keep x_t + make F of a denoiser, F being its network's own output.

    The coefficients are joined in float64 before they meet F: derived from x0_hat, u loses digits
    like 1 / sin t. A plain function's F is its x0_hat. The masks are the denoiser's.
    """

    def __init__(self, denoiser: Denoiser, process: Process) -> None:
        self.denoiser, self.process = denoiser, process
        self.masks = abilities.masks(denoiser)

    def __call__(self, x_t: Tensor, t: Time, cond: Cond = None, **options: Masks) -> Tensor:
        t = per_row(t, x_t)
        one, zero = torch.ones_like(t), torch.zeros_like(t)
        keep = self.process.velocity(one, zero, t)
        make = self.process.velocity(zero, one, t)
        denoiser = self.denoiser
        if isinstance(denoiser, Preconditioned):
            c = denoiser.scaling(denoiser.process, t)
            keep = keep + make * c.skip
            make = make * c.out
            raw = denoiser.output(c, x_t, cond, **options)
        else:
            raw = denoiser(x_t, t, cond, **options)
        return apply_mask(expand(keep, x_t) * x_t + expand(make, x_t) * raw, cond)


def angle(process: Process, t: Tensor) -> tuple[float, Tensor, Tensor]:
    """sigma_data, cos t and sin t of a `trig` process. Raises UserError for another."""
    if not isinstance(process.schedule, Trig):
        raise UserError(
            f"tangent: process {type(process.schedule).__name__}: expected fewstep.process.trig()"
        )
    return process.schedule.sigma_data, t.cos(), t.sin()


@dataclass(frozen=True)
class Tangent:
    """sCM's target: the goal's F is the student's own F plus a tangent g, both without gradient.

    g = -cos^2 t (sd F - v) - ramp (cos t sin t x_t + sd dF),  dF along cos t sin t (v, 1)
    ramp = min(1, progress / warmup)
    g <- g / (||g|| + c)

    At ramp = 1 the first line is cos t df/dt along the trajectory, f = x0_hat. v = dx_t/dt stands
    in the neighbour's place: `couplings.Velocity`. A step along cos t sin t is one in the log of
    the noise level, so that nothing grows at either end of the time. On `trig` alone.
    warmup: share of the run.
    norm: of the whole sample as in the paper, its root mean square, or none.
    derivative: by jvp or differences; auto is what a run's `probe` chooses, and jvp without one.
    step: of the differences; left out it is `derivatives.step_of`.
    Source: sCM, arXiv 2410.11081, sections 3 and 4, algorithm 1.
    """

    warmup: float = 0.025
    c: float = 0.1
    norm: Literal["sample", "rms", "none"] = "sample"
    derivative: Engine = "auto"
    step: float | None = None
    needs = frozenset({"student"})

    def __post_init__(self) -> None:
        require(0 <= self.warmup <= 1, "warmup", self.warmup, "a share of the run in 0 .. 1")
        require(self.c > 0, "c", self.c, "above 0")
        require(self.norm in ("sample", "rms", "none"), "norm", self.norm, "sample, rms or none")
        engines = ("auto", "jvp", "difference")
        require(
            self.derivative in engines, "derivative", self.derivative, "auto, jvp or difference"
        )
        require(self.step is None or self.step > 0, "step", self.step, "above 0")

    def __call__(self, models: Models) -> Denoiser:
        return models.student

    def goal(
        self,
        process: Process,
        models: Models,
        x_t: Tensor,
        v: Tensor,
        times: Times,
        cond: Cond,
        run: Callable[[Denoiser, Tensor, Tensor, Cond], Tensor],
    ) -> Tensor:
        """The x0_hat to be learned at x_t; `run` makes every pass under the student's masks."""
        sigma_data, cos, sin = angle(process, times.t)
        drift = Drift(models.student, process)
        both = cos * sin

        def u_of(x: Tensor, t: Tensor) -> Tensor:
            return run(drift, x, t, cond)

        line: Line = (u_of, x_t, times.t, expand(both, x_t) * v, both)
        if self.derivative == "difference":
            step = self.step or derivatives.step_of(*derivatives.precision(models.student, x_t))
            u, du = derivatives.difference(*line, step)
        else:
            u, du = derivatives.jvp(*line)
        ramp = min(1.0, times.progress / self.warmup) if self.warmup else 1.0
        g = -expand(cos.square(), x_t) * (u - v) - ramp * (expand(both, x_t) * x_t + du)
        return expand(cos, x_t) * x_t - expand(sin, x_t) * (u + sigma_data * self.normalise(g))

    def normalise(self, g: Tensor) -> Tensor:
        """g / (||g|| + c) with the norm of each sample; g itself where norm = none."""
        if self.norm == "none":
            return g
        size = torch.linalg.vector_norm(g.flatten(1), dim=1)
        if self.norm == "rms":
            size = size / g[0].numel() ** 0.5
        return g / expand(size + self.c, g)

    def probe(
        self, process: Process, models: Models, x_t: Tensor, v: Tensor, times: Times, cond: Cond
    ) -> tuple[dict[str, str], str] | None:
        """The engine for this student as fields to set, and one line on why; None for no choice."""
        if self.derivative != "auto":
            return None
        _, cos, sin = angle(process, times.t)
        both = cos * sin

        def line(dtype: torch.dtype) -> Line:
            drift = Drift(derivatives.perturb(models.student, dtype), process)
            dx = (expand(both, v) * v).to(dtype)
            return lambda x, t: drift(x, t, cond), x_t.to(dtype), times.t, dx, both

        best = torch.float64 if x_t.device.type != "mps" else x_t.dtype
        choice = derivatives.choose(line, (best, x_t.dtype))
        if choice is None:
            return None
        engine, why = choice
        return {"derivative": engine}, why
