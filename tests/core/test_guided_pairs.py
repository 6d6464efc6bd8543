"""Pairs under the student's own guidance: SoFlow's, and how far in time guidance reaches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.core.couplings import Data, OwnGuidance, of_data
from fewstep.core.denoiser import Models
from fewstep.core.process import expand

PROCESSES = {
    "linear": fs.process.linear(),
    "edm": fs.process.edm(),
    "trig": fs.process.trig(sigma_data=0.5, level_max=80.0),
}
OMEGA, KAPPA = 0.75, 0.75  # SoFlow's: a weight of 3, of which a quarter is mixed in


class Labelled(torch.nn.Module):
    """x0_hat = (0.3 + label / 10) x / (1 + t + to): another guess for each label and end."""

    ends = 1

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, to: Tensor) -> Tensor:
        rate = (0.3 + cond.double() / 10) / (1 + t + torch.as_tensor(to))
        return expand(rate, x) * x


def rows(process: fs.Process):
    """x0, z, times of six rows, of which the last two are on the diagonal; labels."""
    x0, z = (torch.randn(6, 3, generator=generator(i, "x"), dtype=torch.float64) for i in range(2))
    high = min(process.t_max, 1.5)
    t = torch.tensor([0.9, 0.8, 0.5, 0.3, 0.7, 0.95], dtype=torch.float64) * high
    far = torch.tensor([1, 1, 1, 1, 0, 0]) > 0
    a = torch.where(far, t / 3, 0)
    r = torch.where(far, t - (t - a) / 4, 0)
    times = fs.Times(t, r, a, torch.ones_like(t), None, 0.5, torch.where(far, a, t))
    return x0, z, times, torch.tensor([0, 1, -1, 2, 3, 1])


def velocities(process: fs.Process, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
    return process.velocity(x_t, Labelled()(x_t, t, cond, t), t)


@pytest.mark.parametrize("name", PROCESSES)
def test_pairs_go_from_the_datas_by_the_guidance(name):
    """x_r = mix(x0, z, r) + (r - t)(v_g - v) where there is a label; v_g on the diagonal."""
    process = PROCESSES[name]
    x0, z, times, labels = rows(process)
    models = Models(student=Labelled())
    x_t, got = OwnGuidance(OMEGA, KAPPA, pairs=True)(models, process, x0, z, times, labels)
    v = process.rate(x0, z, times.t)
    u_c = velocities(process, x_t, times.t, labels)
    u_u = velocities(process, x_t, times.t, torch.full_like(labels, -1))
    v_g = OMEGA * v + KAPPA * u_c + (1 - OMEGA - KAPPA) * u_u
    v_g[labels < 0] = v[labels < 0]
    far = times.to < times.t
    x_r = process.mix(x0, z, times.r) + expand(times.r - times.t, v) * (v_g - v)
    torch.testing.assert_close(got[far], x_r[far])
    torch.testing.assert_close(got[~far], v_g[~far])
    if name == "linear":  # the paper's own words: x_l = x_t + (l - t) v_g
        torch.testing.assert_close(got[far], (x_t + expand(times.r - times.t, v) * v_g)[far])
    rated = OwnGuidance(OMEGA, KAPPA)(models, process, x0, z, times, labels)[1]
    torch.testing.assert_close(rated, v_g)


@pytest.mark.parametrize("pairs", [False, True])
def test_beyond_its_times_there_is_no_guidance(pairs):
    process = PROCESSES["linear"]
    x0, z, times, labels = rows(process)
    models = Models(student=Labelled())
    got, plain, all_guided = (
        OwnGuidance(*weights, until=until, pairs=pairs)(models, process, x0, z, times, labels)[1]
        for weights, until in (((OMEGA, KAPPA), 0.75), ((1.0, 0.0), 1.0), ((OMEGA, KAPPA), 1.0))
    )
    early = times.t > 0.75
    assert early.any()
    assert (~early & (labels >= 0)).any()
    torch.testing.assert_close(got[early], plain[early])
    torch.testing.assert_close(got[~early], all_guided[~early])
    changed = (plain != all_guided).any(1)
    assert changed[labels >= 0].all()


def test_all_noise_levels_are_guided_unless_it_is_said_how_far():
    """Laws on edm reach beyond t_max, and these rows are guided too."""
    process = fs.process.edm()
    x0, z, times, labels = rows(process)
    times = times._replace(t=times.t * 100)
    models = Models(student=Labelled())
    plain = process.rate(x0, z, times.t)
    guided = OwnGuidance(2.0)(models, process, x0, z, times, labels)[1]
    assert (guided != plain).any(1)[labels >= 0].all()


def test_without_guidance_soflow_has_the_datas_own_pairs():
    assert isinstance(fs.methods.soflow().coupling, Data)
    assert of_data(1.0, 0.0, pairs=True) == Data()
    guided = fs.methods.soflow(omega=OMEGA, kappa=KAPPA, until=0.8)
    assert guided.coupling == OwnGuidance(OMEGA, KAPPA, until=0.8, pairs=True)


def test_the_loss_of_guided_soflow_is_the_papers():
    """Algorithm 1 on linear, with f(x, t, a) = x - (t - a) u.

    Off the diagonal mse(f_t - sg f_l) / ((t - l)(t - a)) / (mse / (t - l)^2 + c)^p, on it
    mse(u - v_g) / (mse + c)^p.
    """
    process, p, c = PROCESSES["linear"], 1.0, 0.01
    x0, z, times, labels = rows(process)
    method = fs.methods.soflow(omega=OMEGA, kappa=KAPPA, until=0.85, p=p, c=c)
    student = Labelled()
    loss = method.loss(Models(student=student), x0, z, times, labels)
    for i in range(len(x0)):
        t, a, r = (float(part[i]) for part in (times.t, times.a, times.r))
        is_far = float(times.to[i]) < t
        x_t, v = (1 - t) * x0[i] + t * z[i], z[i] - x0[i]

        def u(x, t, a, label):
            guess = (0.3 + label / 10) / (1 + t + a) * x
            return (x - guess) / t

        label = int(labels[i])
        if label >= 0 and t <= 0.85:
            v = OMEGA * v + KAPPA * u(x_t, t, t, label) + (1 - OMEGA - KAPPA) * u(x_t, t, t, -1)
        if is_far:
            f_t = x_t - (t - a) * u(x_t, t, a, label)
            x_l = x_t + (r - t) * v
            f_l = x_l - (r - a) * u(x_l, r, a, label)
            mse = (f_t - f_l).square().mean()
            expected = mse / ((t - r) * (t - a)) / (mse / (t - r) ** 2 + c) ** p
        else:
            mse = (u(x_t, t, t, label) - v).square().mean()
            expected = mse / (mse + c) ** p
        torch.testing.assert_close(loss[i], expected, msg=lambda text, i=i: f"row {i}: {text}")


@pytest.mark.parametrize("until", [0.0, 1.5])
def test_a_share_of_times_beyond_0_and_1_is_refused(until):
    with pytest.raises(UserError, match=f"until = {until}: expected a share above 0"):
        fs.methods.meanflow(omega=2.0, until=until)
