"""Each optimizer against torch's own or its equations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewstep.base.randomness import generator
from fewstep.training.optimizers import build, rectify, set_rate
from tests.support.toys import tiny_run

THEIRS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "radam": torch.optim.RAdam}


def weights(dtype: torch.dtype) -> list[nn.Parameter]:
    source = generator(0, "weights")
    return [
        nn.Parameter(torch.randn(shape, generator=source, dtype=dtype))
        for shape in ((3, 4), (5,), ())
    ]


def run_steps(optimizer, parameters, dtype, before_step):
    source = generator(0, "gradients")
    for k in range(50):
        for p in parameters:
            noise = torch.randn(p.shape, generator=source, dtype=dtype)
            p.grad = noise * 10.0 ** (k % 5 - 3) + p.detach()
        before_step(k)
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.9, 0.999), (0.5, 0.6)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", THEIRS)
def test_fifty_steps_are_those_of_torch(name, weight_decay, betas, dtype):
    run = tiny_run(optimizer=name, betas=betas, weight_decay=weight_decay)
    ours = weights(dtype)
    theirs = weights(dtype)
    optimizer = build(run, ours)
    other = THEIRS[name](theirs, lr=1.0, betas=betas, weight_decay=weight_decay)

    def rate(k: int) -> float:
        return 1e-2 * (k + 1) / 50

    run_steps(optimizer, ours, dtype, lambda k: set_rate(optimizer, run, rate(k), k))
    run_steps(other, theirs, dtype, lambda k: other.param_groups[0].update(lr=rate(k)))
    start = weights(dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for mine, their, first in zip(ours, theirs, start, strict=True):
        change = (their - first).abs().max().item()
        torch.testing.assert_close(mine, their, rtol=tolerance, atol=tolerance * change)


def test_rectification_starts_late_and_ends_as_adam():
    assert rectify(1, 0.999)[0] == rectify(5, 0.999)[0] > 1e10
    assert 0 < rectify(6, 0.999)[0] < 0.1
    assert rectify(10**6, 0.999) == pytest.approx((1.0, 1e-8))


def test_lion_moves_by_signs_and_decays_apart():
    """One weight by hand: from 1 with gradients 2, -1, -9 and betas (1/2, 1/4)."""
    run = tiny_run(optimizer="lion", betas=(0.5, 0.25), weight_decay=0.1, lr=0.01)
    w = nn.Parameter(torch.ones(1, dtype=torch.float64))
    idle = nn.Parameter(torch.ones(2))
    optimizer = build(run, [w, idle])
    truth = 1.0
    moment = 0.0
    for k, grad in enumerate((2.0, -1.0, -9.0)):
        sign = 1 if 0.5 * moment + 0.5 * grad > 0 else -1
        truth -= 0.01 * (sign + 0.1 * truth)
        moment = 0.25 * moment + 0.75 * grad
        w.grad = torch.tensor([grad], dtype=torch.float64)
        set_rate(optimizer, run, 0.01, k)
        optimizer.step()
        assert w.item() == pytest.approx(truth, rel=1e-14)
    assert optimizer.state[w]["exp_avg"].item() == pytest.approx(moment)
    assert torch.equal(idle, torch.ones(2))
