"""Preconditioning: the boundary holds whatever the network says; the coefficients do their job."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.core.denoiser import Preconditioned
from fewstep.core.scalings import Edm
from fewstep.networks.dropout import Masks
from fewstep.run import averages
from fewstep.run.profiles import ema_rate
from tests.support.network_properties import has_true_derivatives
from tests.support.toys import small_student


class Loud(nn.Module):
    """A network that shouts."""

    def forward(self, x, noise_label, cond=None):
        return torch.full_like(x, 1e6) * (1 + noise_label.abs().reshape(-1, 1))


@pytest.mark.parametrize("shift", [0.0, 0.002])
def test_at_the_boundary_the_denoiser_is_the_identity(shift):
    """D(x, shift) = x: the consistency function's boundary condition holds by construction."""
    x = torch.randn(4, 3, generator=generator(0, "x"), dtype=torch.float64)
    student = Preconditioned(Loud(), Edm(shift=shift))
    torch.testing.assert_close(student(x, shift), x, rtol=0, atol=0)


def test_low_precision_networks_leave_full_precision_outputs():
    """Only F runs in bfloat16: skip and out are applied in float32, close times stay different."""
    student, inputs = small_student((3,)).bfloat16(), []
    inner = student.network.forward
    student.network.forward = lambda x, label, *rest: (
        inputs.append((x, label)) or inner(x, label, *rest)
    )
    x = 3 * torch.randn(4, 3, generator=generator(0, "x"))
    out = student(x, 1.0)
    c = student.scaling(student.process, torch.ones(4, dtype=torch.float64))
    raw = inner(*inputs[0]).float()
    assert inputs[0][0].dtype == torch.bfloat16
    assert out.dtype == inputs[0][1].dtype == torch.float32
    torch.testing.assert_close(out, c.skip.float()[:, None] * x + c.out.float()[:, None] * raw)


@pytest.mark.parametrize("shape", [(5,), (1, 8, 8), (2, 3, 4, 5)])
def test_the_network_takes_any_shape_and_is_differentiable_forward(shape):
    """A forward-mode derivative agrees with a difference, as continuous-time methods need."""
    student = small_student(shape, classes=3)
    x, v = (
        torch.randn(2, *shape, generator=generator(i, "x"), dtype=torch.float64) for i in range(2)
    )
    cond, t, h = torch.tensor([0, 2]), torch.full((2,), 0.7, dtype=torch.float64), 1e-6

    def f(x, t):
        return student(x, t, cond)

    _, rate = torch.func.jvp(f, (x, t), (v, torch.ones_like(t)))
    slope = (f(x + h * v, t + h) - f(x - h * v, t - h)) / (2 * h)
    torch.testing.assert_close(rate, slope, rtol=1e-6, atol=1e-8)


def test_masks_belong_to_their_rows_and_keep_the_mean():
    student = small_student((4,), dropout=0.25)
    masks = student.masks(4000, [0, 1])
    first, second = (masks.draw(layer, (16,), 0.75, torch.device("cpu")) for layer in (0, 1))
    for mask in (first, second):
        assert mask.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
        assert torch.corrcoef(mask.reshape(-1, 4).T).triu(1).abs().max() < 5 / 16_000**0.5
        assert mask.mean().item() == pytest.approx(1.0, abs=4 * (0.25 / 0.75 / mask.numel()) ** 0.5)
    x = torch.randn(6, 4, generator=generator(0, "x"), dtype=torch.float64)
    together = student(x, 1.0, None, student.masks(6, [3, 4, 5]))
    alone = student(x[2:4], 1.0, None, student.masks(2, [4]))
    torch.testing.assert_close(together[2:4], alone)
    assert not torch.equal(together, student(x, 1.0))
    assert not torch.equal(first, second)  # layers
    assert not torch.equal(first[:2000], first[2000:])  # seeds


@pytest.mark.parametrize("keep", [1e-7, 0.1, 1 / 3, 0.9, 1 - 1e-7])
def test_a_mask_keeps_its_share_and_the_mean(keep):
    """Its scale is the inverse of the share that it keeps, a multiple of 2^-16."""
    mask = Masks(2**12, (5,)).draw(0, (2**8,), keep, torch.device("cpu"))
    share = round(2**16 / mask.max().item()) / 2**16 if mask.any() else 2**-16
    assert abs(share - keep) <= 2**-16
    deviation = ((1 - share) * share / 2**20) ** 0.5
    assert abs((mask > 0).double().mean().item() - share) <= 5 * deviation


@pytest.mark.parametrize(("classes", "cond"), [(3, None), (0, torch.tensor([1]))])
def test_labels_are_neither_forgotten_nor_ignored(classes, cond):
    with pytest.raises(UserError, match="labels"):
        small_student((4,), classes)(torch.zeros(1, 4), 1.0, cond)


def test_a_deep_copy_is_an_average_that_follows():
    """average <- rate average + (1 - rate) weights; early averages forget the start."""
    student = small_student((4,))
    average, other = (averages.average_of(student) for _ in range(2))
    before = [p.clone() for p in average.parameters()]
    with torch.no_grad():
        for p in student.parameters():
            p.add_(1.0)
    averages.update([averages.pair(one, student) for one in (average, other)], [0.9, 0.5])
    for p, q, old in zip(average.parameters(), other.parameters(), before, strict=True):
        torch.testing.assert_close(p, old + 0.1)
        torch.testing.assert_close(q, old + 0.5)
    assert ema_rate(0, 0.999) == pytest.approx(0.1)
    assert ema_rate(10**6, 0.999) == 0.999


def test_buffers_follow_at_once():
    """Running statistics and tables are copied: they are state of the student, not weights."""
    model = nn.BatchNorm1d(3)
    average = averages.average_of(model)
    assert not average.training
    model(torch.randn(16, 3, generator=generator(0, "x")))
    averages.update([averages.pair(average, model)], [0.999])
    assert torch.equal(average.running_mean, model.running_mean)
    assert average.num_batches_tracked == 1


def test_the_mlp_has_true_derivatives():
    """Its jvp and the gradient through it agree with differences; torch's LayerNorm is wrong."""
    network = small_student((3,), classes=3, dropout=0.3).network
    has_true_derivatives(network, (3,), torch.tensor([2, -1]))
