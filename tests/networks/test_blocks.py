"""Blocks: every network names its own; computed again, they give the same bits in less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import fewstep as fs
from fewstep.networks.blocks import blocks_of, recompute, watch_calls
from tests.networks.test_conditions import NETWORKS, small
from tests.support.network_properties import alive, condition, inputs

every_network = pytest.mark.parametrize("name", NETWORKS)


def weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def gradient(network: nn.Module, shape, cond=None) -> tuple[list[Tensor], int]:
    """The loss, the gradient under dropout, and the bytes that autograd keeps between passes."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    masks = network.masks(3, [7]) if hasattr(network, "masks") else ()
    masks = (masks,) if masks else ()
    network.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = network(*inputs(shape), cond, *masks).square().sum()
    loss.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return [loss.detach(), *gradients], sum(size for at, size in kept.items() if at not in own)


@every_network
def test_most_weights_are_in_blocks_and_a_pass_calls_each(name):
    network, shape = small(name)
    blocks = blocks_of(network)
    assert len(blocks) > 1
    assert 2 * sum(map(weights, blocks.values())) > weights(network)
    assert all(network.get_submodule(path) is block for path, block in blocks.items())
    with watch_calls(blocks) as names:
        network(*inputs(shape), condition(shape))
    assert names == blocks.keys()


@every_network
def test_a_gradient_that_is_computed_again_has_the_same_bits_and_keeps_less(name):
    network, shape = small(name, dropout=0.3)
    plain, kept = gradient(network, shape, condition(shape))
    with recompute(blocks_of(network).values()):
        again, less = gradient(network, shape, condition(shape))
        copied = gradient(copy.deepcopy(network), shape, condition(shape))
    assert all(map(torch.equal, again, plain))
    assert all(map(torch.equal, copied[0], plain))
    assert less < 0.6 * kept
    assert gradient(network, shape, condition(shape))[1] == kept


class Chain(nn.Module):
    """A network of a user's, with torch's own dropout and a list inside of a list."""

    def __init__(self) -> None:
        super().__init__()
        self.inlet = nn.Linear(2, 8)
        pair = (nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.SiLU()) for _ in range(2))
        self.middle = nn.ModuleList([nn.ModuleList(pair), nn.Identity()])
        self.idle = nn.ModuleDict({"a": nn.Linear(8, 8)})
        self.outlet = nn.Linear(8, 2)

    def forward(self, x: Tensor, label: Tensor, cond: object = None) -> Tensor:
        torch.manual_seed(0)
        h = self.inlet(x)
        for layer in self.middle[0]:
            h = layer(h)
        return self.outlet(nn.functional.linear(h, self.idle["a"].weight))


def test_a_network_of_ones_own_has_the_members_of_its_lists():
    with torch.random.fork_rng():
        network = alive(Chain())
        blocks = blocks_of(network)
        assert list(blocks) == ["middle.0.0", "middle.0.1", "idle.a"]
        with watch_calls(blocks) as names:
            plain, kept = gradient(network, (2,))
        assert names == {"middle.0.0", "middle.0.1"}
        with recompute(blocks.values()):
            again, less = gradient(network, (2,))
        assert all(map(torch.equal, again, plain))
        assert less < kept


def test_a_network_that_uses_a_weight_twice_is_one_piece():
    network = Chain()
    network.middle[0][0] = network.middle[0][1]
    assert blocks_of(network) == {}
    assert blocks_of(nn.Linear(2, 2)) == {}


def test_a_block_of_ours_goes_before_lists():
    network = nn.Sequential(nn.Linear(2, 2), fs.networks.mlp((2,), width=8, depth=2))
    assert list(blocks_of(network)) == ["1.blocks.0", "1.blocks.1"]
