"""Weights with the channels last in memory: the same function, and every tensor beside them."""

from __future__ import annotations

import pytest
import torch

import fewstep as fs
from fewstep.base.errors import UserError
from tests.support.toys import Killed, kill_at, tiny_run

FIELDS = {
    "network": "unet",
    "network_options": {"width": 8, "mult": (1, 2), "dropout": 0.1},
    "labels": False,
    "averages": ("decay:0.9",),
}
PICTURES = torch.linspace(-1, 1, 40 * 2 * 8 * 8).sin().reshape(40, 2, 8, 8)
VOLUMES = PICTURES.reshape(40, 2, 4, 4, 4)


def train(data, layout, **options):
    run = tiny_run(**FIELDS, layout=layout)
    return fs.train(run, data=data, progress=False, device="cpu", **options)


def order(x: torch.Tensor) -> list[int]:
    """The steps in memory along axes of more than one place."""
    return [step for step, size in zip(x.stride(), x.shape, strict=True) if size > 1]


@pytest.mark.parametrize("data", [PICTURES, VOLUMES], ids=["pictures", "volumes"])
def test_it_changes_roundings_alone(data):
    first, last = (train(data, layout) for layout in ("channels-first", "channels-last"))
    weights = dict(last.denoiser.named_parameters())
    for name, weight in first.denoiser.named_parameters():
        torch.testing.assert_close(weights[name], weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(last.sample(3), first.sample(3), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("data", [PICTURES, VOLUMES], ids=["pictures", "volumes"])
def test_gradients_moments_and_averages_lie_as_the_weights(tmp_path, data):
    """Fused kernels go through memory and not through places: else they would mix weights up."""

    def look(state):
        moved = 0
        pairs = dict(state.averages["ema"].named_parameters())
        for name, weight in state.student.named_parameters():
            moments = state.optimizer.state[weight]
            beside = (pairs[name], moments["exp_avg"], moments["exp_avg_sq"])
            beside += () if weight.grad is None else (weight.grad,)
            assert all(order(one) == order(weight) for one in beside), name
            moved += not weight.is_contiguous()
        assert moved > 5

    whole = train(data, "channels-last", watch=look, out=tmp_path / "whole")
    with pytest.raises(Killed):
        train(data, "channels-last", watch=kill_at(3), out=tmp_path / "cut")
    cut = train(data, "channels-last", watch=look, out=tmp_path / "cut", resume=True)
    assert cut.fingerprint == whole.fingerprint
    again = fs.load(tmp_path / "cut")
    assert torch.equal(again.sample(2), whole.sample(2))
    assert any(not weight.is_contiguous() for weight in again.denoiser.parameters())


@pytest.mark.parametrize("beside", [{"elastic_exact": 2}, {"optimizer": "adamw8bit"}])
def test_where_gradients_would_lie_otherwise_it_is_refused(beside):
    (name,) = beside
    by = beside.get("optimizer", name)
    with pytest.raises(UserError, match=f"layout = 'channels-last'.*{by}"):
        fs.train(tiny_run(**{**FIELDS, "layout": "channels-last", **beside}), data=PICTURES)
