"""Flow maps: which end a denoiser is told, routed rows, derivatives, and jumps of any number."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import fewstep as fs
from fewstep.analysis.verify.fixtures import small_network
from fewstep.analysis.verify.flow_points import STD, GaussianMap
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.core import derivatives, sampling, solvers
from fewstep.core.denoiser import Across, Awake, Diagonal, Preconditioned, Truncated, ask, diagonal
from fewstep.core.guidance import Guided
from fewstep.core.method import dropout
from fewstep.core.process import expand
from fewstep.core.tangents import EndTangent, Tangent
from tests.support.toys import Gaussian, small_student

PROCESSES = {
    name: fs.process.by_name(name, sigma_data=0.5) for name in ("linear", "edm", "trig", "cosine")
}
# alpha sigma' - alpha' sigma changes with t, which it does on none of the four.
BENT = fs.process.cosine(shift=(-1.4, 0.7))
LEVELS = ((2.0, 0.3), (0.5, 0.1), (0.3, 0.25), (4.0, 0.02), (1.0, 0.0))
NAMES = ("meanflow", "imf", "soflow", "alphaflow", "psd", "lsd", "esd", "lmd", "emd", "ayf")


class Map:
    """A smooth function of x, t and its end that keeps both times of each call."""

    ends = 1

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor | None]] = []

    def __call__(self, x, t, cond=None, to=None):
        t = torch.as_tensor(t, dtype=torch.float64).expand(len(x))
        end = torch.as_tensor(0.0 if to is None else to, dtype=torch.float64)
        self.calls.append((t.detach(), None if to is None else end.detach()))
        label = 0.0 if cond is None else cond.double()
        shift = (0.3 * label + (1 + t).log() - (1 + end / 2).log()) * torch.ones_like(t)
        return torch.tanh(0.7 * x + expand(shift, x))


class OneTime:
    """A denoiser of one time, which takes no end."""

    def __call__(self, x, t, cond=None):
        return 0.5 * x


def draw(rows: int, shape: tuple[int, ...] = (3,), stream: str = "x") -> Tensor:
    return torch.randn(rows, *shape, generator=generator(0, stream), dtype=torch.float64)


def far(process: fs.process.Process, progress: float = 1.0) -> fs.Times:
    levels, ends = torch.tensor(LEVELS, dtype=torch.float64).T
    t = process.time_at(levels)
    a = torch.where(ends > 0, process.time_at(ends), ends)
    return fs.Times(t, t, a, torch.ones_like(t), None, progress, a)


# Who is told


def test_only_flow_maps_are_told_where_they_lead():
    flow, x = Map(), draw(2)
    ask(flow, x, 0.5, None, 0.2)
    assert float(flow.calls[-1][1]) == 0.2
    torch.testing.assert_close(ask(OneTime(), x, 0.5, None, 0.2), 0.5 * x)
    ask(flow, x, 0.5)
    assert flow.calls[-1][1] is None


def test_a_diagonal_is_the_ordinary_denoiser():
    flow, x = Map(), draw(2)
    usual = diagonal(flow)
    torch.testing.assert_close(usual(x, 0.5), flow(x, 0.5, to=0.5), rtol=0, atol=0)
    torch.testing.assert_close(usual(x, 0.5, to=0.1), flow(x, 0.5, to=0.1), rtol=0, atol=0)
    assert isinstance(usual, Diagonal)
    assert diagonal(usual) is usual
    one = OneTime()
    assert diagonal(one) is one


def test_wrappers_pass_the_end_on():
    """Each gives what the map itself gives with that end, which differs from another end's."""
    flow, x, t = Map(), draw(3), torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64)
    label, to = torch.tensor([1, 0, 1]), torch.tensor([0.1, 0.5, 0.2], dtype=torch.float64)
    plain = flow(x, t, label, to=to)
    free = flow(x, t, torch.full_like(label, -1), to=to)
    guided = Guided(flow, 1.5)
    torch.testing.assert_close(guided(x, t, label, to), plain + 1.5 * (plain - free))
    banded = Guided(flow, 1.5, interval=(0.5, 1.0))
    some = banded(x, t, label, to)
    assert torch.equal(some[0], plain[0])
    torch.testing.assert_close(some[1:], guided(x, t, label, to)[1:])
    rows = torch.tensor([True, False, True])
    awake = Awake(flow, rows)(x, t, label, to)
    torch.testing.assert_close(awake, torch.where(rows[:, None], plain, x))
    both = Truncated(OneTime(), flow, 0.5)(x, t, label, to=to)
    torch.testing.assert_close(both, torch.where((t < 0.5)[:, None], 0.5 * x, plain))
    for wrapper in (guided, Awake(flow, rows), Truncated(OneTime(), flow, 0.5)):
        assert wrapper.ends == 1
    assert Guided(OneTime(), 1.5).ends == 0


def test_across_translates_both_times():
    """A map of edm in the times of linear: the jump leads to the same point, scaled."""
    edm, linear = PROCESSES["edm"], PROCESSES["linear"]
    x, t, a = draw(2), torch.tensor([0.6, 0.8]).double(), torch.tensor([0.2, 0.0]).double()
    law = Across(GaussianMap(edm), edm, linear)
    assert law.ends == 1
    ours = linear.jump(x, law(x, t, None, a), t, a)
    truth = linear.jump(x, GaussianMap(linear)(x, t, None, a), t, a)
    torch.testing.assert_close(ours, truth)


def test_a_preconditioned_network_gets_the_difference_of_the_angles():
    """0 on the diagonal, whatever the process; without `to` it leads to the data."""
    for process in PROCESSES.values():
        student = small_student((3,), ends=1)
        student.process = process
        t = process.time_at(torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64))
        a = process.time_at(torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64))
        angle = [torch.atan2(process.sigma(s), 0.5 * process.alpha(s)) for s in (t, a, 0 * t)]
        torch.testing.assert_close(student.end(t, a)[:, 0], angle[0] - angle[1])
        torch.testing.assert_close(student.end(t, None)[:, 0], angle[0] - angle[2])
        assert not bool(student.end(t, t).any())
        assert student.ends == 1
        x = draw(3)
        torch.testing.assert_close(student(x, t, to=0.0), student(x, t), rtol=0, atol=0)
        assert not torch.equal(student(x, t, to=a), student(x, t))
    more = small_student((3,), ends=1)
    more.network.ends = 4
    assert more.end(t, a).shape == (3, 4)
    assert more.end(t, a)[:, 1:].tolist() == [[0.0, 0.0, 1.0]] * len(t)  # ln w, all times
    assert small_student((3,)).end(t, a) is None


def test_a_method_refuses_a_student_that_is_not_told():
    method = fs.methods.meanflow()
    times = method.times(torch.rand(4, 2, dtype=torch.float64), 0.0)
    with pytest.raises(UserError, match=r"models.student = .*expected a denoiser that takes `to=`"):
        method.loss(fs.Models(OneTime()), draw(4), draw(4), times)


# Rows of the diagonal


def models(student, method: fs.Method) -> fs.Models:
    return fs.Models(student, student, Gaussian(process=method.process), student)


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in NAMES), ("imf", {"derivative": "difference"})]
)
def test_routed_rows_are_the_rows_alone(name, options):
    """Losses and gradients of a batch with both kinds, by masks; a row alone is not routed."""
    method = getattr(fs.methods, name)(**options)
    method = replace(method, times=replace(method.times, share=0.5)) if name != "ayf" else method
    student = small_student((3,), dropout=0.4, ends=1)
    x0, z = draw(6), draw(6, stream="z")
    u = torch.rand(6, 3, generator=generator(1, "u"), dtype=torch.float64)
    times = method.times(u, 0.9, torch.arange(6))

    def gradients(loss: Tensor) -> tuple[Tensor, Tensor]:
        student.zero_grad()
        (loss * torch.arange(1, len(loss) + 1)).sum().backward()
        return loss.detach(), torch.cat([p.grad.flatten() for p in student.parameters()])

    seeds = list(range(6))
    together = gradients(method.loss(models(student, method), x0, z, times, seed=seeds))
    rows = [
        method.loss(models(student, method), x0[i : i + 1], z[i : i + 1], times.at(at), seed=[i])
        for i, at in enumerate(torch.arange(6)[:, None])
    ]
    for ours, truth in zip(together, gradients(torch.cat(rows)), strict=True):
        torch.testing.assert_close(ours, truth)


@pytest.mark.parametrize(
    ("name", "passes", "more"),
    [
        ("meanflow", 1, {}),
        ("imf", 2, {"imf": 8}),
        ("soflow", 1, {}),
        ("psd", 2, {}),
        ("lsd", 3, {}),
        ("esd", 2, {}),
        ("emd", 1, {}),
        ("lmd", 2, {}),
    ],
)
def test_only_far_rows_pay(name, passes, more):
    """Rows that the student evaluates in 8: 8 in its own pass, the other passes in 2 far ones."""
    method = getattr(fs.methods, name)()
    method = replace(method, times=replace(method.times, share=0.75))
    flow = Map()
    u = torch.rand(8, 3, generator=generator(1, "u"), dtype=torch.float64)
    times = method.times(u, 0.5, torch.arange(8))
    method.loss(models(flow, method), draw(8), draw(8, stream="z"), times)
    sizes = [len(t) for t, _ in flow.calls]
    own = 8 + more.get(name, 0)
    assert sum(sizes) == own + 2 * passes


def test_a_batch_of_the_diagonal_asks_nothing_else():
    """Flow matching: one pass, and the loss against the velocity of the data."""
    method = replace(fs.methods.meanflow(), balance=fs.balances.unbalanced)
    method = replace(method, times=replace(method.times, share=1.0))
    flow, x0, z = Map(), draw(4), draw(4, stream="z")
    times = method.times(torch.rand(4, 2, dtype=torch.float64), 0.0)
    loss = method.loss(models(flow, method), x0, z, times)
    ((t, to),) = flow.calls
    assert torch.equal(t, to)
    x_t = method.process.mix(x0, z, t)
    u = (x_t - Map()(x_t, t, None, t)) / t[:, None]
    torch.testing.assert_close(loss, (u - (z - x0)).square().sum(1))


# Derivatives


def pieces(process):
    flow, times = Map(), far(process)
    x0, z = draw(len(LEVELS)), draw(len(LEVELS), stream="z")
    return flow, times, process.mix(x0, z, times.t), process.rate(x0, z, times.t)


@pytest.mark.parametrize("process", [*PROCESSES.values(), BENT], ids=[*PROCESSES, "bent"])
@pytest.mark.parametrize("engine", ["jvp", "difference"])
def test_the_tangent_is_the_rate_of_the_end_along_the_trajectory(process, engine):
    """velocity(goal) = velocity(D) + d/dt jump(x_t, D(x_t, t, to=a), t -> a) along (v, 1)."""
    flow, times, x_t, v = pieces(process)
    t, a = times.t, times.a

    def end(x, t):
        return process.jump(x, flow(x, t, None, a), t, a)

    slope = derivatives.jvp(end, x_t, t, v, torch.ones_like(t))[1]
    truth = process.velocity(x_t, flow(x_t, t, None, a), t) + slope
    target = Tangent(0.0, norm="none", derivative=engine)
    run = dropout(flow, len(x_t), None, x_t.device)
    goal = target.goal(process, fs.Models(flow), x_t, v, times, None, run)
    near = {"rtol": 1e-8, "atol": 1e-8} if engine == "jvp" else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(process.velocity(x_t, goal, t), truth, **near)


def test_the_tangent_at_the_data_on_trig_is_that_of_scm():
    """goal = D - sin t dD/dt, so F's goal is F + dD/dt / sigma_data; times cos t it is sCM's g."""
    process = PROCESSES["trig"]
    flow, times, x_t, v = pieces(process)
    times = times._replace(a=0 * times.t, to=0 * times.t)
    slope = derivatives.jvp(lambda x, t: flow(x, t), x_t, times.t, v, torch.ones_like(times.t))[1]
    run = dropout(flow, len(x_t), None, x_t.device)
    target = Tangent(0.0, norm="none", derivative="jvp")
    goal = target.goal(process, fs.Models(flow), x_t, v, times, None, run)
    truth = flow(x_t, times.t) - expand(times.t.sin(), x_t) * slope
    torch.testing.assert_close(goal, truth)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
def test_the_end_derivative_is_that_of_the_jump(process):
    """(guess - goal) make_a = dX/da - v(X, a), to the difference's step^2."""
    flow, times, x_t, _ = pieces(process)
    times = times.at(torch.arange(4))
    x_t, t, a = x_t[:4], times.t, times.a

    def end(x, a):
        return process.jump(x_t, flow(x_t, t, None, a), t, a)

    x_a, slope = derivatives.jvp(end, x_t, a, 0 * x_t, torch.ones_like(a))
    truth = slope - process.velocity(x_a, flow(x_a, a, None, a), a)
    one = torch.ones_like(a)
    make_a = derivatives.jvp(lambda x, a: process.move(t, a)[1], a, a, 0 * a, one)[1]
    run = dropout(flow, 4, None, x_t.device)
    errors = []
    for step in (4e-3, 2e-3):
        target = EndTangent(step=step)
        args = process, fs.Models(flow), x_t
        guess = target.guess(*args, times, None, run)
        goal = target.goal(*args, x_t, times, None, run)
        errors.append((expand(make_a, x_t) * (guess - goal) - truth).norm(dim=1))
    assert float(errors[1].max()) < 1e-3
    torch.testing.assert_close(errors[0] / errors[1], 4 * one, rtol=2e-2, atol=0)


def test_the_guess_has_the_gradient_of_the_difference():
    """By the map's own number: dD and d(dD/da) both reach it; rows of the diagonal have D alone."""
    process = PROCESSES["linear"]
    t = torch.tensor([0.8, 0.6], dtype=torch.float64)
    a = torch.tensor([0.3, 0.0], dtype=torch.float64)
    to = torch.tensor([0.3, 0.6], dtype=torch.float64)
    times = fs.Times(t, t, a, torch.ones_like(t), None, 1.0, to)
    number = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    class Cubic:
        ends = 1

        def __call__(self, x, t, cond=None, to=0.0):
            return number * expand(torch.as_tensor(to) ** 2, x) * torch.ones_like(x)

    x_t = draw(2)
    run = dropout(Cubic(), 2, None, x_t.device)
    guess = EndTangent(step=1e-3).guess(process, fs.Models(Cubic()), x_t, times, None, run)
    # make / make_a = a - t on linear
    ends = torch.stack([a[0] ** 2 + (a[0] - t[0]) * 2 * a[0], to[1] ** 2])
    torch.testing.assert_close(
        guess.detach(), (0.7 * ends)[:, None].expand(2, 3), rtol=1e-4, atol=0
    )
    (slope,) = torch.autograd.grad(guess.sum(), number)
    torch.testing.assert_close(slope, 3 * ends.sum(), rtol=1e-4, atol=0)


def line_of(student: Preconditioned):
    times = far(student.process)
    x0, z = draw(len(LEVELS)), draw(len(LEVELS), stream="z")
    x_t, v = student.process.mix(x0, z, times.t), student.process.rate(x0, z, times.t)

    def curve(x, t):
        return student(x, t, None, None, times.a)

    return curve, x_t, times.t, v, torch.ones_like(times.t)


def told_student(process) -> Preconditioned:
    network = small_network(shape=(3,), ends=1).network
    return Preconditioned(network, fs.scalings.Trig(sigma_data=0.5), process)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
def test_a_jvp_in_two_times_is_the_difference(process):
    line = line_of(told_student(process))
    slope = derivatives.jvp(*line)[1]
    assert derivatives.relative(derivatives.difference(*line, 1e-4)[1], slope) < 1e-5


@pytest.mark.long
def test_a_compiled_jvp_is_the_jvp():
    student = told_student(PROCESSES["linear"])
    line = line_of(student)
    compiled = torch.compile(lambda *args: derivatives.jvp(line[0], *args), backend="aot_eager")
    with torch.no_grad():
        slope = compiled(*line[1:])[1]
    assert derivatives.relative(slope, derivatives.jvp(*line)[1]) < 1e-3


def test_goals_are_clipped_as_velocities():
    """Bounded at 0.5: no velocity of a goal is beyond, and smaller ones stay."""
    process = PROCESSES["linear"]
    method = fs.methods.alphaflow(bound=0.5, derivative="jvp")
    free = fs.methods.alphaflow(bound=1e9, derivative="jvp")
    flow, times, x_t, v = pieces(process)
    run = dropout(flow, len(x_t), None, x_t.device)
    bound, plain = (
        process.velocity(x_t, one.goal(fs.Models(flow), x_t, v, times, None, run), times.t)
        for one in (method, free)
    )
    assert plain.abs().max() > 0.5 > plain.abs().min()
    torch.testing.assert_close(bound, plain.clamp(-0.5, 0.5))


# Samplers


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
@pytest.mark.parametrize("steps", [1, 2, 3, 8])
def test_jumps_of_an_exact_map_are_the_solution_by_any_number_of_steps(process, steps):
    calls = []

    class Counted(GaussianMap):
        def __call__(self, *args, **options):
            calls.append(args)
            return super().__call__(*args, **options)

    by = sampling.sampler("jumps")
    grid = by.times(process, steps)
    x = draw(4) * float(process.sigma(grid[0]))
    end = sampling.sample(process, Counted(process), x, grid, by.step)

    def deviation(t: float) -> Tensor:
        return (process.alpha(t).square() * STD**2 + process.sigma(t).square()).sqrt()

    torch.testing.assert_close(end, x * (deviation(grid[-1]) / deviation(grid[0])))
    assert len(calls) == steps == len(grid) - 1


def test_ordinary_solvers_ask_a_flow_map_on_its_diagonal():
    flow, process = Map(), PROCESSES["linear"]
    sampling.sample(process, flow, draw(2), [0.9, 0.5, 0.0], solvers.ddim)
    assert all(torch.equal(t, to.expand(len(t))) for t, to in flow.calls)
    flow.calls.clear()
    noise = sampling.sample(
        process, flow, draw(2), [0.9, 0.5, 0.0], solvers.renoise, noise=lambda i: draw(2)
    )
    assert noise.shape == (2, 3)
    assert all(float(to.max()) == 0 for _, to in flow.calls)


@pytest.mark.parametrize("by", ["time", "level"])
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
def test_strategic_steps_keep_the_law(process, by):
    """x_s = k x_l + fresh noise has the variance of x_s, for an exact map; 0 jumps, 1 re-noises."""
    t, s = (float(process.time_at(level)) for level in (2.0, 0.4))
    law, x = GaussianMap(process), draw(4)
    one, none = torch.ones_like(x), torch.zeros_like(x)

    def step(x, noise, gamma):
        return solvers.strategic(process, law, x, t, s, noise=lambda: noise, gamma=gamma, by=by)

    def variance(t: float) -> Tensor:
        return process.alpha(t).square() * STD**2 + process.sigma(t).square()

    for gamma in (0.0, 0.3, 0.8, 1.0):
        gain, fresh = step(one, none, gamma)[0, 0], step(none, one, gamma)[0, 0]
        total = gain.square() * variance(t) + fresh.square()
        torch.testing.assert_close(total, variance(s))
        assert (fresh > 0) == (gamma > 0)
    plain = solvers.jump(process, law, x, t, s)
    torch.testing.assert_close(step(x, one, 0.0), plain)
    if float(process.sigma(0.0)) == 0:
        fully = solvers.renoise(process, law, x, t, s, noise=lambda: one)
        torch.testing.assert_close(step(x, one, 1.0), fully)
    with pytest.raises(UserError, match=r"gamma = 1.5"):
        step(x, one, 1.5)


def test_where_strategic_steps_land():
    """By time (1 - gamma) s, by level sqrt(1 - gamma^2) of it; the last step ends at the data."""
    process, flow = PROCESSES["linear"], Map()
    for by, low in (("time", 0.28), ("level", None)):
        solvers.strategic(process, flow, draw(2), 0.9, 0.4, noise=lambda: draw(2), gamma=0.3, by=by)
        to = float(flow.calls[-1][1][0])
        if low is None:
            level = float(process.level(0.4)) * (1 - 0.3**2) ** 0.5
            low = float(process.time_at(level))
        assert to == pytest.approx(low)
    end = solvers.strategic(process, flow, draw(2), 0.9, 0.0, noise=lambda: 1e9 * draw(2))
    assert end.abs().max() < 10
