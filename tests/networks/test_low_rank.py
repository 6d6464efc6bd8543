"""Low-rank adapters: equal at first, then of their rank, and nothing else learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fewstep as fs
from fewstep import networks
from fewstep.base.errors import UserError
from fewstep.networks.low_rank import low_rank

RANK = 2


def network():
    torch.manual_seed(0)
    one = networks.mlp((2,), 0, width=16, depth=2)
    for weight in one.parameters():
        nn.init.normal_(weight, std=0.3)
    return one


def test_a_training_changes_every_weight_by_a_matrix_of_that_rank():
    old = network()
    new = low_rank(old, RANK)
    x, noise = torch.randn(5, 2), torch.randn(5)
    torch.testing.assert_close(new(x, noise), old(x, noise), rtol=0, atol=0)
    run = fs.recipes.toy(iterations=20, batch=32, lr=1e-2)
    trained = fs.train(run, network=new, progress=False, device="cpu").denoiser.network
    layers = [name for name, layer in old.named_modules() if isinstance(layer, nn.Linear)]
    assert len(layers) == 2 * 3 + 3
    for name in layers:
        before, after = old.get_submodule(name), trained.get_submodule(name)
        change = after.weight - before.weight
        limit = min(RANK, *change.shape)
        assert torch.linalg.matrix_rank(change, rtol=1e-4) == limit, name
        assert torch.equal(after.bias, before.bias)
    assert torch.equal(trained.norm.weight, old.norm.weight)


def test_the_seed_decides_the_adapters():
    def a(seed):
        return low_rank(network(), RANK, seed).inlet.parametrizations.weight[0].a

    assert torch.equal(a(1), a(1))
    assert not torch.equal(a(1), a(2))


@pytest.mark.parametrize(
    ("one", "rank", "message"),
    [
        (nn.Linear(2, 2), 0, "rank = 0: expected at least 1"),
        (nn.Conv2d(1, 1, 3), 1, "network = .*Conv2d.*: expected one with linear layers"),
    ],
)
def test_mistakes_are_one_line(one, rank, message):
    with pytest.raises(UserError, match=message):
        low_rank(one, rank)
