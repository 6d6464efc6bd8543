"""Groups of rows, points of trajectories and trained couplings: the methods' losses written out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import fewstep as fs
from fewstep.analysis.verify.fixtures import cast, no_encoder
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.training.batches import sharing
from tests.support.toys import tiny_run

SD = 0.5


def draw(rows: int, uniforms: int = 3, size: int = 3):
    source = generator(0, "trajectories")
    x0 = SD * torch.randn(rows, size, generator=source, dtype=torch.float64)
    z = torch.randn(rows, size, generator=source, dtype=torch.float64)
    return x0, z, torch.rand(rows, uniforms, generator=source, dtype=torch.float64)


def gradients(nets, loss):
    loss.sum().backward()
    return nets.gradients()


def one(net):
    """A network of one sample and floats."""

    def call(x, t, to=None):
        column = [None if s is None else torch.tensor([s], dtype=torch.float64) for s in (t, to)]
        return net(x[None], column[0], None, *([] if to is None else column[1:]))[0]

    return call


# CTM.


def ctm_loss(nets, x0, z, t, r, a, grid):
    """|| G_ema(G(x_t, t, a), a, 0) - G_ema(G_ema(Heun(x_t, t -> r), r, a), a, 0) ||^2 / D + EDM's.

    G(x, t, a) = a/t x + (1 - a/t) g(x, t, a).
    """
    student, ema, teacher = one(nets.student), one(nets.ema), one(nets.teacher)

    def leap(g, x, t, a):
        return a / t * x + (1 - a / t) * g(x, t, a)

    def carried(x):
        if a == 0:
            return x
        for p in nets.ema.parameters():
            p.requires_grad_(False)
        end = ema(x, a, 0.0)
        for p in nets.ema.parameters():
            p.requires_grad_(True)
        return end

    x_t = x0 + t * z
    x, now = x_t, t
    for stop in grid[grid.index(t) + 1 : grid.index(r) + 1]:
        slope = (x - teacher(x, now)) / now
        ahead = x + (stop - now) * slope
        if stop > 0:
            slope = (slope + (ahead - teacher(ahead, stop)) / stop) / 2
        x, now = x + (stop - now) * slope, stop
    goal = x if r == a else leap(ema, x.detach(), r, a)
    goal = carried(goal.detach()).detach()
    loss = (carried(leap(student, x_t, t, a)) - goal).square().mean()
    weight = (t**2 + SD**2) / (t * SD) ** 2
    return loss + 0.7 * weight * (student(x_t, t, t) - x0).square().mean()


def test_ctm_compares_at_the_data_by_its_frozen_average():
    method = fs.methods.ctm(n=6, diffusion=0.7)
    grid = method.times.grid
    x0, z, u = draw(24)
    times = method.times(u, 0.3)
    assert bool((times.r < times.t).all() and (times.a <= times.r).all())
    assert bool((times.a == 0).any() and (times.a > 0).any() and (times.r > times.a).any())
    ours, theirs = cast(), cast()
    loss = method.loss(ours.models(), x0, z, times)
    rows = zip(x0, z, times.t.tolist(), times.r.tolist(), times.a.tolist(), strict=True)
    truth = torch.stack([ctm_loss(theirs, *row, grid) for row in rows])
    torch.testing.assert_close(loss, truth, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradients(ours, loss), gradients(theirs, truth), rtol=1e-8, atol=0)
    assert ours.ema.numbers.grad is None


def test_ctm_ends_at_the_flow_map_of_a_gaussian():
    """With the exact map as student and average, and the exact moves, the first part is 0."""
    truth = fs.exact.Gaussian(mean=0.0, std=SD)

    def exact(x, t, cond=None, to=None):
        a = torch.zeros_like(t) if to is None else to
        x_a = x * ((SD**2 + a**2) / (SD**2 + t**2)).sqrt()[:, None]
        # On the diagonal the aim is 0 / 0.
        far = (a < t)[:, None]
        aim = (x_a - (a / t)[:, None] * x) / torch.where(far, (1 - a / t)[:, None], 1.0)
        return torch.where(far, aim, truth(x, t))

    exact.ends = 1

    def solve(process, denoiser, x, t, s, cond=None):
        return truth.solve(x, t, s)

    method = replace(fs.methods.ctm(), coupling=fs.couplings.Teacher(solve), terms=())
    x0, z, u = draw(64)
    models = fs.Models(exact, ema=exact, teacher=truth)
    times = method.times(u, 0.5)
    assert method.loss(models, x0, z, times).max() < 1e-18
    assert method.loss(models, x0, 0.9 * z, times).max() < 1e-18


# IMM.


def imm_loss(nets, x0, z, t, r, a):
    """w(t) MMD^2 of the group, by loops over its pairs."""
    student = one(nets.student)

    def leap(x0, z, t):
        x_t = (1 - t) * x0 + t * z
        if t == a:
            return x_t
        g = student(x_t, t, a)
        return (1 - a) * g + a / t * (x_t - (1 - t) * g)

    scale = ((1 - a) - a / t * (1 - t)) * t * SD / math.sqrt(t**2 + (1 - t) ** 2 * SD**2)
    xs = [leap(x, n, t) for x, n in zip(x0, z, strict=True)]
    ys = [leap(x, n, r).detach() for x, n in zip(x0, z, strict=True)]

    def kernel(x, y):
        apart = (x - y).square().sum()
        apart = apart.sqrt() if apart > 0 else apart
        return torch.exp(-(apart / scale).clamp_min(1e-8) / x.numel())

    def mean(xs, ys):
        return sum(kernel(x, y) for x in xs for y in ys) / len(xs) ** 2

    log_snr = 2 * math.log((1 - t) / t)
    fall = 2 / (t * (1 - t))
    w = 0.5 / (1 + math.exp(-(5 - log_snr))) * fall * (1 - t) / ((1 - t) ** 2 + t**2)
    return w * (mean(xs, xs) + mean(ys, ys) - 2 * mean(xs, ys))


def test_imm_compares_the_laws_of_groups():
    method = fs.methods.imm()
    x0, z, u = draw(16)
    times = method.times(u, 0.3)
    groups = [times.at(torch.arange(i, i + 4)) for i in range(0, 16, 4)]
    assert all(bool((part == part[0]).all()) for g in groups for part in (g.t, g.r, g.a))
    gap = 160 / 2**12
    level = times.t / (1 - times.t) - gap
    torch.testing.assert_close(times.r, torch.maximum(level / (1 + level), times.a))
    ours, theirs = cast(), cast()
    loss = method.loss(ours.models(), x0, z, times)
    truth = []
    for i, g in enumerate(groups):
        rows = slice(4 * i, 4 * i + 4)
        ends = (part[0].item() for part in (g.t, g.r, g.a))
        truth += 4 * [imm_loss(theirs, x0[rows], z[rows], *ends)]
    torch.testing.assert_close(loss, torch.stack(truth), rtol=1e-6, atol=1e-12)
    gradient = gradients(ours, loss), gradients(theirs, torch.stack(truth))
    torch.testing.assert_close(*gradient, rtol=1e-6, atol=1e-10)


def test_imm_ends_at_the_law_of_a_gaussian():
    """At the exact map, beside maps whose deviation is 10 % too small and too large; r = a."""
    method = fs.methods.imm(group=256, k=8)
    x0, z, u = draw(256 * 8, size=1)

    def slope(scale: float) -> float:
        factor = torch.tensor(scale, dtype=torch.float64, requires_grad=True)

        def student(x, t, cond=None, to=None):
            spread_t = ((1 - t) ** 2 * SD**2 + t**2).sqrt()
            spread_a = ((1 - to) ** 2 * SD**2 + to**2).sqrt()
            x_a = x * (factor * spread_a / spread_t)[:, None]
            return fs.process.linear().aim(x, x_a, t, to)

        student.ends = 1
        times = method.times(u, 0.5)
        loss = method.loss(fs.Models(student), x0, z, times._replace(r=times.a)).mean()
        (result,) = torch.autograd.grad(loss, factor)
        return result.item()

    bias = abs(slope(1.0))  # of the biased statistic
    assert slope(0.9) < -2 * bias
    assert slope(1.1) > 2 * bias


def test_blocks_hold_whole_groups():
    with pytest.raises(UserError, match="group = 3: expected a divisor of block=4"):
        sharing(tiny_run(), fs.methods.imm(group=3))


# VCT.


def test_vct_with_an_encoder_of_the_noise_itself_is_its_base():
    base, method = fs.methods.ect(), fs.methods.vct()
    x0, z, u = draw(8)
    models = replace(cast().models(), encoder=no_encoder)
    times = base.times(u, 0.3)
    torch.testing.assert_close(
        method.loss(models, x0, z, times), base.loss(models, x0, z, times), rtol=0, atol=0
    )
    assert method.beside.keys() == {"encoder"}
    module = method.beside["encoder"]((3,)).double()
    mean, log_std = module(x0)
    assert not bool(mean.any() or log_std.any())


def test_vct_refuses_a_base_whose_pairs_are_not_of_the_data():
    with pytest.raises(UserError, match="base = 'Teacher': expected pairs of the data"):
        fs.methods.vct(base={"method": "ect", "pairs": "heun"})


def test_the_law_at_the_end_of_vct_is_that_of_the_data():
    """Of encoders with a mean law of N(0, 1) the limit maps the prior to the data's deviation.

    x_t = x0 + t (m x0 + s z) has V = c^2 + 2 t m c^2 + t^2, and the map x c / sqrt(V) follows it:
    the mean of (D(x_t) - D(x_r)) x_t falls like the gap squared, and without m like the gap.
    """
    m = 0.8
    s = math.sqrt(1 - (m * SD) ** 2)
    x0, z, _ = draw(3, size=1)
    nodes = torch.tensor([-(3**0.5), 0.0, 3**0.5], dtype=torch.float64)
    mass = torch.tensor([1 / 6, 2 / 3, 1 / 6], dtype=torch.float64)
    x0, z = (SD * nodes).repeat_interleave(3)[:, None], nodes.repeat(3)[:, None]
    p = (mass[:, None] * mass).flatten()
    noise = m * x0 + s * z

    def moment(m: float, gap: float) -> float:
        def student(x, t):
            return x * SD / math.sqrt(SD**2 + 2 * t * m * SD**2 + t**2)

        x_t, x_r = x0 + 2.0 * noise, x0 + (2.0 - gap) * noise
        return ((student(x_t, 2.0) - student(x_r, 2.0 - gap)) * x_t)[:, 0] @ p

    assert abs(moment(m, 1e-4)) < 1e-3 * abs(moment(0.0, 1e-4))


# TBCM and CMT.


def test_tbcm_walks_along_the_teachers_own_trajectory():
    method = fs.methods.tbcm(points=4, balance="none")
    x0, z, u = draw(8)
    times = method.times(u, 0.5)
    assert bool((times.t.reshape(2, 4).diff(dim=1) < 0).all() and (times.r == times.t).all())
    nets = cast()
    x_t, v = method.coupling(nets.models(), method.process, x0, z, times, None)
    teacher = one(nets.teacher)
    for start in (0, 4):
        x, now = SD * math.sin(method.process.t_max) * z[start], method.process.t_max
        for row in range(start, start + 4):
            t, guess = times.t[row].item(), teacher(x, now)
            noise = (x - math.cos(now) * guess) / math.sin(now)
            x, now = math.cos(t) * guess + math.sin(t) * noise, t
            torch.testing.assert_close(x_t[row], x)
            slope = (math.cos(t) * x - teacher(x, t)) / math.sin(t)
            torch.testing.assert_close(v[row], slope)
    again = method.coupling(nets.models(), method.process, 7 + 0 * x0, z, times, None)
    torch.testing.assert_close(again[0], x_t, rtol=0, atol=0)


def test_cmt_starts_on_trajectories_from_the_prior():
    method = fs.methods.cmt(n=64, reuse=4)
    first = method.before
    x0, z, u = draw(8)
    times = first.times(u, 0.5)
    assert first.group == 4
    assert method.group == 1
    truth = fs.exact.Gaussian(mean=0.0, std=SD)
    x_t, end = first.coupling(fs.Models(None, teacher=truth), first.process, x0, z, times, None)
    for row in (0, 4):
        start = 80.0 * z[row : row + 1]
        path = first.coupling.solver(first.process, truth, start, 80.0, times.t[row])
        torch.testing.assert_close(x_t[row], path[0])
    torch.testing.assert_close(end, truth.solve(x_t, times.t, 0.0), rtol=1e-2, atol=1e-3)
