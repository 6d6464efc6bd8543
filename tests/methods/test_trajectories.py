"""Groups of rows, points of trajectories and trained couplings: fixed points and refusals."""

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


# CTM.


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


# CMT.


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
