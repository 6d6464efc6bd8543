"""Each process is the one its name means: its ends, its shifts, its table."""

from __future__ import annotations

import pytest
import torch

import fewstep as fs
from fewstep.base.errors import UserError

ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)


def logsnr(process, t):
    return -2 * process.level(t).log()


def test_the_cosine_is_clipped_where_it_says_and_its_angle_is_even():
    process = fs.process.cosine(logsnr=(-9, 13))
    torch.testing.assert_close(
        logsnr(process, ENDS), torch.tensor([13.0, -9.0], dtype=torch.float64)
    )
    angle = process.level(torch.linspace(0, 1, 11, dtype=torch.float64)).atan()
    torch.testing.assert_close(angle.diff(), angle.diff()[:1].expand(10))
    torch.testing.assert_close(
        process.alpha(ENDS) ** 2 + process.sigma(ENDS) ** 2, torch.ones(2, dtype=torch.float64)
    )


def test_a_table_holds_its_betas():
    betas = torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64)
    process = fs.process.discrete(betas=betas)
    t = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    power = torch.tensor([1.0, 0.9, 0.72, 0.36], dtype=torch.float64)
    torch.testing.assert_close(process.alpha(t) ** 2, power)
    assert process.sigma(0.0) == 0
    assert process.t_max == 3
    torch.testing.assert_close(process.alpha(1.5) ** 2, torch.tensor(0.81, dtype=torch.float64))
    by_list = fs.process.discrete(alphas_cumprod=power[1:].tolist())
    assert fs.process.discrete(alphas_cumprod=power[1:]) == by_list
    x = torch.ones(1, 2, dtype=torch.float64)
    x0 = torch.full((1, 2), 0.3, dtype=torch.float64)
    eps = (x - process.alpha(2.0) * x0) / process.sigma(2.0)
    # The field's dx/dt = -beta x / 2 + beta eps / (2 sigma).
    velocity = -0.1 * x + 0.1 / process.sigma(2.0) * eps
    torch.testing.assert_close(process.velocity(x, x0, 2.0), velocity)


def test_a_table_may_end_in_pure_noise():
    process = fs.process.discrete(alphas_cumprod=[0.9, 0.3, 0.0])
    x, x0 = torch.ones(1, 2), torch.zeros(1, 2)
    for out in (
        process.mix(x, x0, 3.0),
        process.jump(x, x0, 3.0, 1.0),
        process.aim(x, x0, 3.0, 1.0),
    ):
        assert torch.isfinite(out).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fs.process.discrete(), "betas = None: expected either betas or alphas_cumprod"),
        (
            lambda: fs.process.discrete(betas=[0.1], alphas_cumprod=[0.9]),
            "betas = .given.: expected either",
        ),
        (
            lambda: fs.process.discrete(alphas_cumprod=[0.5, 0.6]),
            "alphas_cumprod = .*expected a table",
        ),
        (lambda: fs.process.cosine(logsnr=(3, -3)), "logsnr = .*the lower one first"),
        (lambda: fs.process.trig(sigma_data=0), "sigma_data = 0: expected above 0"),
    ],
)
def test_bad_processes_are_one_line(make, message):
    with pytest.raises(UserError, match=message):
        make()
