"""How the two points of a pair arise: `(models, process, x0, z, times, cond) -> x_t, x_r`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from fewstep.base.conditions import Cond, apply_mask, mask_of, pick
from fewstep.base.device import send
from fewstep.base.errors import UserError, require
from fewstep.core import abilities, solvers, targets
from fewstep.core.denoiser import Models, ask, diagonal, on_rows, quiet
from fewstep.core.distances import mse
from fewstep.core.guidance import guided, without_label
from fewstep.core.process import Process, expand
from fewstep.core.targets import Ema, Frozen, Student, Target
from fewstep.core.tell import without_guidance
from fewstep.core.times import Times
from fewstep.networks.encoder import Encoder


class Coupling(Protocol):
    """x0, z `[B, ...]` -> the student's point x_t and its neighbour x_r on the same trajectory.

    Abilities: `needs`, the names of the models that it uses, `reuse`, `jumps`, `guidance`, `inner`,
    `module`.
    """

    def __call__(
        self, models: Models, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
    ) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Data:
    """Independent coupling: both points mix the same x0 and z (CT, arXiv 2303.01469, eq. 10)."""

    def __call__(
        self, models: Models, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
    ) -> tuple[Tensor, Tensor]:
        return process.mix(x0, z, times.t), process.mix(x0, z, times.r)


@dataclass(frozen=True)
class Teacher:
    """x_r is where a solver's move along the teacher's ODE leads from x_t = mix(x0, z, t).

    variance_share: for `addim`, x_var = share ||x0_hat - x0||^2 / d with the sample's own x0 and
    the teacher's unguided guess (MCM, arXiv 2403.06807, algorithm 1: eta = 0.75).
    guidance: of the teacher, see `guidance.Guided`.
    network: who teaches, the run's teacher or the stage before.
    Source: CD, arXiv 2303.01469, eq. 6.
    """

    solver: Callable[..., Tensor] = solvers.heun
    variance_share: float | None = None
    guidance: float = 0.0
    network: Target = field(default_factory=Frozen)
    jumps = True

    def __post_init__(self) -> None:
        is_finite = math.isfinite(self.guidance)
        require(is_finite, "guidance", self.guidance, "a finite number, 0 for none")
        is_share = self.variance_share is None or 0 <= self.variance_share <= 1
        require(is_share, "variance_share", self.variance_share, "a share in 0 .. 1")

    @property
    def needs(self) -> frozenset[str]:
        return abilities.needs(self.network)

    def __call__(
        self, models: Models, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
    ) -> tuple[Tensor, Tensor]:
        x_t = process.mix(x0, z, times.t)
        share = self.variance_share
        options: dict[str, Any] = {}
        if share is not None:
            options["x_var"] = lambda x0_hat, t: share * mse(x0_hat, x0)
        teacher = guided(self.network(models), self.guidance)
        return x_t, self.solver(process, teacher, x_t, times.t, times.r, cond, **options)


@dataclass(frozen=True)
class Velocity:
    """x_t and, in the neighbour's place, its velocity dx_t/dt: for `tangents.Tangent`, where r = t.

    Of data alpha' x0 + sigma' z, whose mean is the ODE's; of a teacher the ODE's own, velocity(x_t,
    D(x_t, t), t); of a student, a flow map, that of its diagonal.
    guidance: of the teacher, see `guidance.Guided`. everywhere: in rows of the diagonal too, whose
    goal then is the velocity's x0_hat, not x0.
    Source: sCM, arXiv 2410.11081, section 2.
    """

    source: Literal["data", "teacher", "student"] = "data"
    guidance: float = 0.0
    everywhere: bool = False

    def __post_init__(self) -> None:
        sources = ("data", "teacher", "student")
        require(self.source in sources, "source", self.source, "data, teacher or student")
        fits = math.isfinite(self.guidance) and (self.source == "teacher" or self.guidance == 0)
        expected = "a finite number, and 0 for data, which asks no teacher"
        require(fits, "guidance", self.guidance, expected)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(() if self.source == "data" else {self.source})

    def __call__(
        self, models: Models, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
    ) -> tuple[Tensor, Tensor]:
        t = times.t
        x_t = process.mix(x0, z, t)
        if self.source == "data":
            return x_t, process.rate(x0, z, t)
        network = models.student if self.source == "student" else models.teacher
        assert network is not None
        with quiet(network):
            x0_hat = guided(diagonal(network), self.guidance)(x_t, t, cond)
        return x_t, process.velocity(x_t, x0_hat, t)


@dataclass(frozen=True)
class OwnGuidance:
    """x_t and v_g = omega v + kappa u_c + (1 - omega - kappa) u_u, in rows of the diagonal too.

    v of the data; u_c and u_u are the velocities of the student's own diagonal with and without its
    label. At the optimum u_c is guided by the weight w = omega / (1 - kappa): MeanFlow, arXiv
    2505.13447, eq. 19-21. by_row: omega = 1 and kappa = 1 - 1/w by row, w and the interval of times
    that is guided being what the student is told (`tell.Guidance`): iMF, arXiv 2512.02012, section
    4.2. Rows without a label keep v.
    until: share of all times, from the data on, that is guided.
    pairs: off the diagonal, x_r = mix(x0, z, r) + (r - t)(v_g - v) instead of v_g, on linear
    x_t + (r - t) v_g: SoFlow, arXiv 2512.15657.
    """

    omega: float = 1.0
    kappa: float = 0.0
    by_row: bool = False
    until: float = 1.0
    pairs: bool = False
    needs = frozenset({"student"})
    everywhere = True

    def __post_init__(self) -> None:
        require(self.omega > 0, "omega", self.omega, "above 0")
        require(0 <= self.kappa < 1, "kappa", self.kappa, "in 0 .. 1, below 1")
        require(0 < self.until <= 1, "until", self.until, "a share above 0, at most 1 for all")

    def _shares(self, process: Process, times: Times, cond: Cond) -> tuple[Tensor, Tensor]:
        """omega and kappa of the rows."""
        one = torch.ones_like(times.t)
        if not self.by_row:
            last = self.until * process.t_max if self.until < 1 else math.inf
            inside = times.t <= last
            return torch.where(inside, self.omega, one), torch.where(inside, self.kappa, 0 * one)
        _, guidance = without_guidance(cond)
        require(guidance is not None, "condition", "without guidance", "what `tell.Guidance` adds")
        assert guidance is not None
        log_w, low, high = guidance.cpu().double().unbind(1)
        inside = (times.t >= low * process.t_max) & (times.t <= high * process.t_max)
        return one, torch.where(inside, 1 - (-log_w).exp(), 0.0)

    def __call__(
        self, models: Models, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
    ) -> tuple[Tensor, Tensor]:
        t = times.t
        x_t, v = process.mix(x0, z, t), process.rate(x0, z, t)
        omega, kappa = self._shares(process, times, cond)
        student = diagonal(models.student)
        free = without_label(cond)
        with quiet(models.student):
            u_u = process.velocity(x_t, student(x_t, t, free), t)
            guided_v = expand(omega, v) * v + expand(1 - omega - kappa, v) * u_u
            if bool(kappa.any()):
                u_c = process.velocity(x_t, student(x_t, t, cond), t)
                guided_v = guided_v + expand(kappa, v) * u_c
        label = cond["label"] if isinstance(cond, Mapping) else cond
        assert isinstance(label, Tensor)
        has_label = (label >= 0).reshape(-1, *[1] * (v.ndim - 1))
        v_g = torch.where(has_label, guided_v, v)
        if not self.pairs:
            return x_t, v_g
        assert times.to is not None
        x_r = process.mix(x0, z, times.r) + expand(times.r - t, v) * (v_g - v)
        return x_t, torch.where(expand(times.to < t, v).bool(), x_r, v_g)


@dataclass(frozen=True)
class Self:
    """x_r is where a flow map's own jump leads from x_t = mix(x0, z, t), without dropout.

    network: the student or its average.
    Source: progressive self-distillation, arXiv 2505.18825, eq. 13; Shortcut, arXiv 2410.12557.
    """

    network: Target = field(default_factory=Student)
    jumps = True

    @property
    def needs(self) -> frozenset[str]:
        return abilities.needs(self.network)

    def __call__(
        self, models: Models, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
    ) -> tuple[Tensor, Tensor]:
        x_t = process.mix(x0, z, times.t)
        network = self.network(models)
        with quiet(network):
            x0_hat = ask(network, x_t, times.t, cond, times.r)
        return x_t, process.jump(x_t, x0_hat, times.t, times.r)


@dataclass(frozen=True)
class Limited:
    """One coupling while r < t, and another, of velocities, where r = t in all rows."""

    near: Coupling = field(default_factory=Data)
    limit: Coupling = field(default_factory=Velocity)

    @property
    def needs(self) -> frozenset[str]:
        return abilities.needs(self.near) | abilities.needs(self.limit)

    def __call__(
        self, models: Models, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
    ) -> tuple[Tensor, Tensor]:
        pairs = self.limit if bool((times.r == times.t).all()) else self.near
        return pairs(models, process, x0, z, times, cond)


@dataclass(frozen=True)
class Trajectory:
    """`reuse` consecutive rows share x0, z and one solution of the teacher's ODE.

    x_t and x_r are its points at t and r. It is solved once, from mix(x0, z, s) at the group's
    highest t, or at `start`, to its lowest r; all of these are times of the solver's grid. So a row
    depends on the others of its group. A group's x0, z and condition are its first row's.
    prior: it starts at sigma(start) z, without data.
    """

    solver: solvers.Along
    reuse: int
    start: float | None = None
    guidance: float = 0.0
    prior: bool = False
    needs = frozenset({"teacher"})

    def __post_init__(self) -> None:
        require(self.reuse >= 1, "reuse", self.reuse, "at least 1")
        fits = self.start is not None or not self.prior
        require(fits, "start", self.start, "the time of the prior that trajectories start from")

    def __call__(
        self, models: Models, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
    ) -> tuple[Tensor, Tensor]:
        assert models.teacher is not None
        size = self.reuse
        require(len(x0) % size == 0, "rows", len(x0), f"a multiple of reuse={size}")
        first = torch.arange(0, len(x0), size)
        top = times.t.reshape(-1, size).amax(1)
        low = times.r.reshape(-1, size).amin(1)
        if self.start is not None:
            top = torch.full_like(top, self.start)
        teacher = guided(models.teacher, self.guidance)
        x_top = process.mix(x0[::size], z[::size], top)
        if self.prior:
            x_top = process.prior(z[::size], self.start)
        x_t = torch.full_like(x0, torch.nan)
        x_r = torch.full_like(x0, torch.nan)
        # Each row takes the points of its group at its own t and r.
        for now, x in self.solver.points(process, teacher, x_top, top, low, pick(cond, first)):
            s = now.repeat_interleave(size)
            x_s = x.repeat_interleave(size, 0)
            x_t = torch.where(expand(times.t == s, x).bool(), x_s, x_t)
            x_r = torch.where(expand(times.r == s, x).bool(), x_s, x_r)
        return x_t, x_r


@dataclass(frozen=True)
class Cached:
    """Pairs of trajectories that were solved beforehand: both points mix their x0 and z.

    `draw_batch` takes x0 and z from the data's path at the row's level. grid: the levels of the
    path, and 0.
    """

    grid: tuple[float, ...]
    jumps = True  # its students are no denoisers, though nothing here asks a teacher

    def __call__(
        self, models: Models, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
    ) -> tuple[Tensor, Tensor]:
        return Data()(models, process, x0, z, times, cond)


@dataclass(frozen=True)
class GeneratorInduced:
    """With probability `share` a row's data is the model's endpoint: x0 := D(mix(x0, z, r), r).

    Both points then mix that x0 with the row's own z, of minibatch OT the dealt one. Rows whose r
    is at the anchor keep their data, and only rows that need an endpoint are evaluated, without
    dropout.
    share: a number, or a function of progress, in the paper mu; its code's `mix_gen_induced_traj`
    is 1 - mu.
    bound: endpoints are clipped to [-bound, bound]. Under a loss of weight 1 three standard
    deviations of the data keep the loop of model and endpoints from diverging, and six do not: see
    docs/methods/gc.md.
    Source: GC, arXiv 2406.09570, eq. 13, 14 and 21.
    """

    share: float | Callable[[float], float] = 0.5
    predictor: Target = field(default_factory=Ema)
    bound: float = 3.0
    inner: Coupling = field(default_factory=Data)

    def __post_init__(self) -> None:
        is_share = callable(self.share) or 0 <= self.share <= 1
        require(is_share, "share", self.share, "the probability of a generated row, in 0 .. 1")
        require(self.bound > 0, "bound", self.bound, "above 0; 1e30 for none")
        fits = not isinstance(self.inner, Trajectory | Cached)
        expected = "a coupling that takes any x0: no shared or cached one"
        require(fits, "inner", type(self.inner).__name__, expected)

    @property
    def needs(self) -> frozenset[str]:
        return abilities.needs(self.predictor) | abilities.needs(self.inner)

    def __call__(
        self, models: Models, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
    ) -> tuple[Tensor, Tensor]:
        share = self.share(times.progress) if callable(self.share) else self.share
        fits = times.u is not None and times.u.shape[1] > 1
        require(fits, "times.u", None, "uniforms [B, 2], one to choose by")
        assert times.u is not None
        rows = (times.u[:, 1] < share) & (times.r > times.a)
        inner = self.inner
        if isinstance(inner, MinibatchOT):  # the endpoint is of the noise that the row keeps
            z, inner = inner.deal(x0, z, cond), Data()
        x_r = process.mix(x0, z, times.r)
        end = on_rows(self.predictor(models), x_r, times.r, cond, rows, x0)
        end = end.clamp(-self.bound, self.bound)
        x0 = torch.where(expand(rows, x0).bool(), end, x0)
        return inner(models, process, apply_mask(x0, cond), z, times, cond)


@dataclass(frozen=True)
class MinibatchOT:
    """Independent coupling with the noise reordered: the assignment of least sum ||x0_i - z_j||^2.

    It is exact within the batch, so a row depends on its batch, and on the part of it that
    `accumulate` makes. Needs SciPy. Source: arXiv 2302.00482, section 3.2.4.
    """

    def __call__(
        self, models: Models, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
    ) -> tuple[Tensor, Tensor]:
        return Data()(models, process, x0, self.deal(x0, z, cond), times, cond)

    def deal(self, x0: Tensor, z: Tensor, cond: Cond) -> Tensor:
        """The noise in the order of the assignment."""
        try:
            from scipy.optimize import linear_sum_assignment
        except ImportError:
            raise UserError(
                "minibatch optimal transport needs SciPy: pip install 'fewstep[ot]'"
            ) from None
        mask = mask_of(x0, cond)
        if mask is not None and not bool((mask == mask[:1]).all()):
            raise UserError(
                "minibatch optimal transport deals noise out anew: expected the same mask in"
                " every row"
            )
        # The inner products are all that varies in the sum of squares.
        gain = x0.flatten(1).double() @ z.flatten(1).double().T
        order = linear_sum_assignment(gain.cpu().numpy(), maximize=True)[1]
        return z[torch.as_tensor(order, device=z.device)]


@dataclass(frozen=True)
class Walk:
    """Points of the teacher's own trajectories from the prior, with its velocities: without data.

    `reuse` consecutive rows are one trajectory's, which starts at sigma(t_max) z and goes from row
    to row by DDIM's move: their times fall, see `times.Strata`. One pass of the teacher at a row's
    point gives both its velocity, which stands in the neighbour's place as `tangents.Tangent` needs
    it, and the move to the next. A group's z and condition are its first row's.
    Source: TBCM, arXiv 2511.20410, section 3.
    """

    reuse: int = 16
    guidance: float = 0.0
    needs = frozenset({"teacher"})

    def __post_init__(self) -> None:
        require(self.reuse >= 1, "reuse", self.reuse, "at least 1")
        require(math.isfinite(self.guidance), "guidance", self.guidance, "a finite number")

    def __call__(
        self, models: Models, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
    ) -> tuple[Tensor, Tensor]:
        assert models.teacher is not None
        teacher, size = guided(models.teacher, self.guidance), self.reuse
        require(len(z) % size == 0, "rows", len(z), f"a multiple of reuse={size}")
        now = torch.full((len(z) // size,), process.t_max, dtype=torch.float64)
        first = pick(cond, send(torch.arange(0, len(z), size), z.device))
        x = process.prior(z[::size])
        guess = teacher(x, now, first)
        points, velocities = [], []
        for t in times.t.reshape(-1, size).T:
            x = process.jump(x, guess, now, t)
            guess, now = teacher(x, t, first), t
            points.append(x)
            velocities.append(process.velocity(x, guess, t))
        return torch.stack(points, 1).flatten(0, 1), torch.stack(velocities, 1).flatten(0, 1)


@dataclass(frozen=True)
class Variational:
    """Both points mix x0 with a noise of its own, z := mu(x0) + s(x0) z, of a trained encoder.

    The encoder is one of our networks of (x0, 0) with twice the channels, whose two halves are
    mu and ln s, each times a gain that starts at 0: at first z stays what it is.
    network, options: its factory's name and options.
    Source: VCT, arXiv 2502.18197, section 3.
    """

    network: str = "mlp"
    options: tuple[tuple[str, Any], ...] = ()
    needs = frozenset({"encoder"})

    def module(self, shape: tuple[int, ...]) -> nn.Module:
        """The encoder of data of this shape, initialised from torch's global generator."""
        return Encoder(self.network, shape, **dict(self.options))

    def __call__(
        self, models: Models, process: Process, x0: Tensor, z: Tensor, times: Times, cond: Cond
    ) -> tuple[Tensor, Tensor]:
        assert models.encoder is not None
        mean, log_std = models.encoder(x0)
        z = apply_mask(mean + log_std.exp() * z, cond)
        return Data()(models, process, x0, z, times, cond)


def truncated(pairs: Coupling, t_prime: float) -> Coupling:
    """The coupling whose generated endpoints below t_prime are the frozen network's (TCM).

    No other network is trained there.
    """
    if not isinstance(pairs, GeneratorInduced):
        return pairs
    return replace(pairs, predictor=targets.truncated(t_prime, pairs.predictor))


def of_data(
    omega: float = 1.0,
    kappa: float = 0.0,
    by_row: bool = False,
    until: float = 1.0,
    pairs: bool = False,
) -> Coupling:
    """The velocity of the data, under the student's own guidance unless omega = 1, kappa = 0.

    pairs: their two points instead.
    """
    if by_row or (omega, kappa) != (1, 0):
        return OwnGuidance(omega, kappa, by_row, until, pairs)
    return Data() if pairs else Velocity()


def of_velocity(
    source: str, omega: float = 1.0, kappa: float = 0.0, until: float = 1.0
) -> Coupling:
    """The velocity that an option names: of data, see `of_data`, or of a teacher, in all rows.

    Raises UserError.
    """
    if source == "data":
        return of_data(omega, kappa, until=until)
    require(source == "teacher", "velocity", source, "data or teacher")
    need = "1 and 0: a teacher is given under guidance, fs.guide"
    require((omega, kappa) == (1, 0), "omega, kappa", (omega, kappa), need)
    return Velocity("teacher", everywhere=True)


def by_name(pairs: str, eta: float = 0.75, guidance: float = 0.0) -> Coupling:
    """The coupling that an option names: data, ot or a teacher's solver. Raises UserError."""
    couplings: dict[str, Coupling] = {"data": Data(), "ot": MinibatchOT()}
    if pairs in couplings:
        require(guidance == 0, "guidance", guidance, f"0, since pairs = {pairs!r} ask no teacher")
        return couplings[pairs]
    return Teacher(solvers.by_name(pairs), eta if pairs == "addim" else None, guidance)


def on_trajectories(
    grid: tuple[float, ...],
    solver: str = "ddim",
    *,
    guidance: float = 0.0,
    reuse: int = 1,
    start: float | None = None,
    from_cache: bool = False,
) -> Coupling:
    """Pairs on a teacher's trajectories over the grid: the row's own, a shared or a cached one.

    Raises UserError where a cached trajectory is given options, since it is solved already.
    """
    if from_cache:
        expected = "0 with source = cache: it was chosen when they were solved"
        require(guidance == 0, "guidance", guidance, expected)
        expected = "1 with source = cache: every point of a trajectory is used already"
        require(reuse == 1, "reuse", reuse, expected)
        return Cached(grid)
    move = solvers.along(solvers.by_name(solver), grid)
    if reuse == 1:
        return Teacher(move, guidance=guidance)
    return Trajectory(move, reuse, start, guidance)
