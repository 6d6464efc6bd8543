"""Goals and guesses that follow from derivatives of a student: along its trajectory, or in its end.

With jump(x_t, D, t -> a) = keep x_t + make D and D = P x_t - Q u, u = dx/dt the velocity that D
stands for, the jump of a flow map does not change along a trajectory,
keep (v - u) + make dD/dt = 0, and follows the ODE in its end, dX/da = v(X, a).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fewstep.base.conditions import Cond, apply_mask, pick
from fewstep.base.device import send
from fewstep.base.errors import require
from fewstep.core import abilities, derivatives, weights
from fewstep.core.conventions import Convention
from fewstep.core.denoiser import Denoiser, Masks, Models, Preconditioned, ask
from fewstep.core.derivatives import Engine, Line
from fewstep.core.process import Process, Time, expand, per_row
from fewstep.core.targets import Probe, Student, Target
from fewstep.core.times import Times
from fewstep.core.weights import Weight

LOWEST = 1e-3  # noise level where the velocity at the data's end is asked for
ROUNDING = 1e-12  # of rates in float64

Pass = Any  # a `method.Passes`, which knows this module


class Drift:
    """The velocity u(x_t, t) = keep x_t + make F of a denoiser, F being its network's own output.

    The coefficients are joined in float64 before they meet F: derived from x0_hat, u loses digits
    like 1 / sin t. A plain function's F is its x0_hat. Masks and ends are the denoiser's.
    """

    def __init__(self, denoiser: Denoiser, process: Process) -> None:
        self.denoiser, self.process = denoiser, process
        self.masks = abilities.masks(denoiser)
        self.ends = abilities.ends(denoiser)

    def __call__(
        self,
        x_t: Tensor,
        t: Time,
        cond: Cond = None,
        masks: Masks | None = None,
        to: Time | None = None,
    ) -> Tensor:
        t = per_row(t, x_t)
        one, zero = torch.ones_like(t), torch.zeros_like(t)
        keep = self.process.velocity(one, zero, t)
        make = self.process.velocity(zero, one, t)
        denoiser = self.denoiser
        if isinstance(denoiser, Preconditioned):
            c = denoiser.scaling(denoiser.process, t)
            keep = keep + make * c.skip
            make = make * c.out
            raw = denoiser.output(c, x_t, cond, masks, denoiser.end(t, to, cond))
        else:
            raw = ask(denoiser, x_t, t, cond, to, **({} if masks is None else {"masks": masks}))
        return apply_mask(expand(keep, x_t) * x_t + expand(make, x_t) * raw, cond)


class Frame(NamedTuple):
    """P and Q of D = P x_t - Q u, and their rates in t, `[B]`.

    P = sigma' / W, Q = sigma / W, W = alpha sigma' - alpha' sigma. The second rate is P - dQ/dt,
    which is 0 where W does not change: on edm, linear, trig and cosine.
    """

    p: Tensor
    q: Tensor
    p_rate: Tensor
    bend: Tensor


def frame(process: Process, t: Tensor) -> Frame:
    """The frame at the times `[B]`, by differentiation of the schedule in float64."""
    schedule = process.schedule
    with torch.enable_grad():
        t = t.detach().requires_grad_()
        alpha, sigma, rate = schedule.alpha(t), schedule.sigma(t), schedule.sigma_rate(t)
        turn = alpha * rate - schedule.alpha_rate(t) * sigma
        p, q = rate / turn, sigma / turn
        # Backwards, since forward mode costs ten times as much and loads a compiler.
        p_rate, q_rate = (_slope(part, t) for part in (p, q))
    return Frame(p.detach(), q.detach(), p_rate, p.detach() - q_rate)


def _slope(part: Tensor, t: Tensor) -> Tensor:
    """The rates of numbers that each depend on their own time, or on none."""
    if not part.requires_grad:
        return torch.zeros_like(t)
    return torch.autograd.grad(part.sum(), t, retain_graph=True)[0]


def _check(engine: str, step: float | None) -> None:
    engines = ("auto", "jvp", "difference")
    require(engine in engines, "derivative", engine, "auto, jvp or difference")
    require(step is None or step > 0, "step", step, "above 0")


@dataclass(frozen=True)
class Tangent:
    """The limit r -> t: the goal's velocity is u + unit g / (||g|| + c), without gradient.

    g = weight ((keep + make P) (v - u) + ramp rest),  ramp = min(1, progress / warmup)

    With ramp = 1 that is weight (keep (v - u) + make dD/dt), which is 0 for an exact flow map; the
    rest holds the derivative of u, and what is before it is diffusion. Without norm and weight the
    goal's velocity on linear is MeanFlow's v - (t - a) du/dt; at a = 0 on trig g is sCM's.
    v = dx_t/dt stands in the neighbour's place: `couplings.Velocity`. The derivative is taken along
    weight Q (v, 1), a step in the log of the noise level, so that nothing grows at either end of
    the time.
    warmup: share of the run.
    norm: of the whole sample as in the paper, its root mean square, or none.
    derivative: by jvp or differences; auto is what a run's `probe` chooses, and jvp without one.
    step: of the differences; left out it is `derivatives.step_of`.
    weight: of g; sCM's is alpha. unit: of velocities; sCM's is sigma_data.
    along: v is the pair's; of student, D is derived along the student's own diagonal velocity, and
        v stands elsewhere (iMF, arXiv 2512.02012, section 3).
    Source: MeanFlow, arXiv 2505.13447, eq. 11; sCM, arXiv 2410.11081, sections 3 and 4, algorithm
    1.
    """

    warmup: float = 0.025
    c: float = 0.1
    norm: Literal["sample", "rms", "none"] = "sample"
    derivative: Engine = "auto"
    step: float | None = None
    weight: Weight = weights.one
    unit: float = 1.0
    along: Literal["pair", "student"] = "pair"
    needs = frozenset({"student"})

    def __post_init__(self) -> None:
        require(0 <= self.warmup <= 1, "warmup", self.warmup, "a share of the run in 0 .. 1")
        require(self.c > 0, "c", self.c, "above 0")
        require(self.norm in ("sample", "rms", "none"), "norm", self.norm, "sample, rms or none")
        _check(self.derivative, self.step)

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
        run: Pass,
    ) -> Tensor:
        """The x0_hat to be learned at x_t; `run` makes every pass under the student's masks."""
        p, q, p_rate, bend = frame(process, times.t)
        keep, make = process.move(times.t, times.a)
        scale = self.weight(process, times)
        line = self._line(process, models.student, x_t, v, times, cond, run, scale * q)
        if self.derivative == "difference":
            step = self._step(models, x_t)
            u, du = derivatives.difference(*line, step, process.end, run.is_by_row)
        else:
            u, du = derivatives.jvp(*line)
        ramp = min(1.0, times.progress / self.warmup) if self.warmup else 1.0
        flat = expand(-make * scale * p_rate, x_t) * x_t + expand(make, x_t) * du
        if bool((bend.abs() > ROUNDING).any()):  # not on edm, linear, trig and cosine
            flat = flat - expand(make * scale * bend, x_t) * u
        g = -expand(scale * (keep + make * p), x_t) * (u - v) - ramp * flat
        return expand(p, x_t) * x_t - expand(q, x_t) * (u + self.unit * self.normalise(g))

    def _line(
        self,
        process: Process,
        student: Denoiser,
        x_t: Tensor,
        v: Tensor,
        times: Times,
        cond: Cond,
        run: Pass,
        speed: Tensor,
    ) -> Line:
        """The student's velocity, and the direction in (x, t) along which it is derived."""
        drift = Drift(student, process)
        if self.along == "student":
            v = run(drift, x_t, times.t, cond, times.t)

        def u_of(x: Tensor, t: Tensor) -> Tensor:
            if len(x) == len(x_t):
                return run(drift, x, t, cond, times.to)
            twice = torch.arange(len(x_t)).repeat(2)
            to = None if times.to is None else times.to[twice]
            return run.at(twice)(drift, x, t, pick(cond, send(twice, x.device)), to)

        return u_of, x_t, times.t, expand(speed, x_t) * v, speed

    def _step(self, models: Models, x_t: Tensor) -> float:
        """The step of differences: its own, or what the student's numbers have digits for."""
        return self.step or derivatives.step_of(*derivatives.precision(models.student, x_t))

    def normalise(self, g: Tensor) -> Tensor:
        """g / (||g|| + c) with the norm of each sample; g itself where norm = none."""
        if self.norm == "none":
            return g
        size = torch.linalg.vector_norm(g.flatten(1), dim=1)
        if self.norm == "rms":
            size = size / g[0].numel() ** 0.5
        return g / expand(size + self.c, g)

    def probe(
        self,
        process: Process,
        models: Models,
        x_t: Tensor,
        v: Tensor,
        times: Times,
        cond: Cond,
        is_full: bool = True,
    ) -> Probe:
        """The tangent with the engine for this student, and one line on why.

        Differences, two passes as one batch, take a third of a jvp's time on a U-Net. They are
        preferred where they are right, the weights are float32, the run `is_full` in its precision
        (in a run of low precision they would be in float32 all the same), and the student's
        convention is none of another process.
        None where it takes differences anyway. Raises UserError for a jvp that was asked for and is
        wrong.
        """
        if self.derivative == "difference":
            return None
        speed = self.weight(process, times) * frame(process, times.t).q

        def line(dtype: torch.dtype) -> Line:
            student = derivatives.perturb(models.student, dtype)
            return self._line(process, student, x_t.to(dtype), v.to(dtype), times, cond, ask, speed)

        def own(line: Line) -> Tensor:
            return derivatives.difference(*line, step, end)[1]

        best = torch.float64 if x_t.device.type != "mps" else x_t.dtype
        step, end = self._step(models, x_t), process.end
        coarsest = derivatives.step_of(*derivatives.precision(models.student, x_t))
        has_digits = is_full and coarsest <= derivatives.step_of(torch.float32)
        # Its label and coefficients stop where the times of its own process do.
        has_kink = isinstance(getattr(models.student, "scaling", None), Convention)
        differs = self.derivative == "auto" and has_digits and not has_kink
        prefer: Engine = "difference" if differs else "jvp"
        choice = derivatives.choose(line, (best, x_t.dtype), own, end, prefer)
        if choice is None:
            return None
        engine, why = choice
        need = f"difference or auto: {why}"
        require(self.derivative in ("auto", engine), "derivative", self.derivative, need)
        if self.derivative == engine:
            return None
        return replace(self, derivative=engine), {"derivative": engine}, why


@dataclass(frozen=True)
class EndTangent:
    """The flow map follows the ODE in its end: dX/da = v(X, a), X = jump(x_t, D(x_t, t, to=a), a).

    guess = D + make / make_a dD/da, with a gradient through the derivative in a alone,
    goal = (v(X, a) - keep_a x_t) / make_a, without one; their difference is that of both sides over
    make_a, which on edm and linear is -1/t: as velocities they are compared in `spaces.Velocity`.
    v is the velocity of a network's diagonal at X: the student's, its average's, or a teacher's.
    The derivative is a centred difference in the angle of a, so two passes with gradient for a row,
    of whose mean D is taken, and no tangent in space. At the data itself no velocity is defined:
    rows that end there end at the level LOWEST.
    step: of the angle.
    Source: Lagrangian self-distillation, arXiv 2505.18825, eq. 12; with a teacher arXiv 2406.07507,
    eq. 3.2.
    """

    network: Target = field(default_factory=Student)
    step: float = 5e-3

    def __post_init__(self) -> None:
        require(0 < self.step < 1, "step", self.step, "in 0 .. 1")

    @property
    def needs(self) -> frozenset[str]:
        return abilities.needs(self.network) | {"student"}

    @property
    def rate(self) -> Callable[[float], float] | None:
        return abilities.rate(self.network)

    def __call__(self, models: Models) -> Denoiser:
        return self.network(models)

    def guess(
        self, process: Process, models: Models, x_t: Tensor, times: Times, cond: Cond, run: Pass
    ) -> Tensor:
        """D with its derivative in rows off the diagonal, D on it: one batch of passes."""
        t, to = times.t, times.to
        assert to is not None
        far = to < t
        a = self._end(process, times)
        to = torch.where(far, a, to)
        index = torch.cat([torch.arange(len(t)), far.nonzero().flatten()])
        # dt / dangle
        pace = (process.alpha(a).square() + process.sigma(a).square()) / process.turn(a)
        h = torch.where(far, torch.minimum(self.step * pace, a), 0.0)
        ends = torch.cat([to + h, (to - h)[far]])
        here = send(index, x_t.device)
        both = run.at(index)(models.student, x_t[here], t[index], pick(cond, here), ends)
        above = both[: len(t)]
        place = send(far.nonzero().flatten(), x_t.device)
        below = above.index_copy(0, place, both[len(t) :])
        make_a = self._rates(process, t, a)[1]
        share = torch.where(far, process.move(t, a)[1] / make_a / (2 * h), 0.0)
        share = torch.where(far, share, 0.0)
        return (above + below) / 2 + expand(share, x_t) * (above - below)

    def goal(
        self,
        process: Process,
        models: Models,
        x_t: Tensor,
        x_r: Tensor,
        times: Times,
        cond: Cond,
        run: Pass,
    ) -> Tensor:
        """The x0_hat whose jump moves in a as the ODE says."""
        t, a = times.t, self._end(process, times)
        x_a = process.jump(x_t, run(models.student, x_t, t, cond, a), t, a)
        v = run(Drift(self.network(models), process), x_a, a, cond, a)
        keep_a, make_a = self._rates(process, t, a)
        return (v - expand(keep_a, x_t) * x_t) / expand(make_a, x_t)

    def _end(self, process: Process, times: Times) -> Tensor:
        """The end of a row, which is not quite the data."""
        return torch.maximum(times.a, process.time_at(LOWEST))

    def _rates(self, process: Process, t: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """The rates of keep and make in a."""
        keep = process.schedule.sigma_rate(a) / process.sigma(t)
        return keep, process.schedule.alpha_rate(a) - keep * process.alpha(t)
