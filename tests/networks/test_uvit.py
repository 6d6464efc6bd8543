"""UViT: the paper's sizes, and the wiring of a fresh network in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, silu

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import fork_rng
from fewstep.networks._uvit import ResBlock
from tests.support.network_properties import (
    alive,
    conditions_must_fit,
    inputs,
    labels_are_names,
)

SHAPE = (1, 8, 8)
SMALL = {"width": 8, "mult": (1, 2, 2), "blocks": (1, 2, 2), "head_channels": 8, "embedding": 16}
PAPER = [
    ("small 64", 64, {}, 394e6, 0.002),
    (
        "small 128",
        128,
        {"width": 128, "mult": (1, 2, 4, 8), "blocks": (3, 3, 3, 16), "residual_stages": 2},
        397e6,
        0.002,
    ),
    ("large 64", 64, {"width": 512}, 1.23e9, 0.015),
    (
        "large 128",
        128,
        {"width": 256, "mult": (1, 2, 4, 8), "blocks": (3, 3, 3, 16), "residual_stages": 2},
        1.25e9,
        0.005,
    ),
]


def small(classes: int = 3, shape: tuple[int, ...] = SHAPE, **options: object) -> nn.Module:
    return alive(fs.networks.uvit(shape, classes, **{**SMALL, **options}))


@pytest.mark.parametrize(
    ("size", "options", "parameters", "near"), [row[1:] for row in PAPER], ids=[r[0] for r in PAPER]
)
def test_the_sizes_of_the_paper(size, options, parameters, near):
    with torch.device("meta"):
        network = fs.networks.uvit((3, size, size), 1000, **options)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(parameters, rel=near)


def test_a_fresh_network_is_pooling_positions_and_skips():
    """Its blocks are identities: the convolutions between them and sums over sqrt(2) are left."""
    with fork_rng(0, "parameters"):
        network = fs.networks.uvit(SHAPE, 0, **SMALL).double()
    x, label = inputs(SHAPE)
    assert torch.equal(network(x, label), torch.zeros_like(x))
    nn.init.constant_(network.outlet.weight, 0.1)

    def place(stage: nn.Module, h: torch.Tensor) -> torch.Tensor:
        return h + stage.positions.t().reshape(h.shape[1:])

    def twice(h: torch.Tensor) -> torch.Tensor:
        return h.repeat_interleave(2, 2).repeat_interleave(2, 3)

    with torch.no_grad():
        top = network.inlet(x)
        half = place(network.down[1], network.widen[0](avg_pool2d(top, 2)))
        deep = place(network.middle, network.widen[1](avg_pool2d(half, 2)))
        back = place(network.up[0], twice(network.narrow[0](deep)))
        for _ in range(2):
            back = (back + half) / 2**0.5
        # A residual block's skip is in its branch, which is 0 here.
        top = twice(network.narrow[1](back))
        target = network.outlet(silu(network.norm(top)))
        torch.testing.assert_close(network(x, label), target, rtol=1e-12, atol=1e-12)


def test_every_block_of_the_way_up_takes_the_skip_of_its_mirror():
    network, outputs, skips = small(blocks=(3, 2, 1)), [], []
    for stage in network.down:
        for block in stage.blocks:
            block.register_forward_hook(lambda _m, _i, out: outputs.append(out))
    for stage in network.up:
        for block in stage.blocks:
            block.register_forward_pre_hook(lambda _m, arguments: skips.append(arguments[1]))
    x, label = inputs(SHAPE)
    out = network(x, label, torch.tensor([0, 1, 2]))
    assert len(outputs) == 5
    assert all(skip is output for skip, output in zip(skips, reversed(outputs), strict=True))
    gradients = torch.autograd.grad(out.sum(), [network.up[1].blocks[0].norm_skip.weight])
    assert gradients[0].abs().max() > 0


def test_a_skip_like_the_input_is_an_input_of_twice_the_variance():
    h, emb = inputs((8, 4, 4))[0], inputs((16,))[0]
    with_skip, plain = alive(ResBlock(8, 16, True, 0.0, 0)), alive(ResBlock(8, 16, False, 0.0, 0))
    plain.load_state_dict({k: v for k, v in with_skip.state_dict().items() if "skip" not in k})
    with torch.no_grad():
        with_skip.norm_skip.load_state_dict(with_skip.norm.state_dict())
        for p in plain.norm.parameters():
            p *= 2**0.5
    torch.testing.assert_close(
        with_skip(h, h, emb, None), plain(h, None, emb, None), rtol=1e-12, atol=1e-12
    )


def test_labels():
    network = small()
    labels_are_names(network, network.embedding.label, 0, SHAPE)
    conditions_must_fit(network, small(0), SHAPE)


def test_dropout_reaches_as_many_stages_as_asked():
    (x, label), cond = inputs(SHAPE), torch.tensor([0, 1, 2])
    outputs = []
    for stages in range(4):
        network = small(dropout=0.4, dropout_stages=stages)
        outputs.append(network(x, label, cond, network.masks(3, [1])))
        chances = {part.dropout for part in network.middle.modules() if hasattr(part, "site")}
        assert chances == ({0.4} if stages else {0.0})
    assert torch.equal(outputs[0], network(x, label, cond))
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(outputs) for b in outputs[:i])


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2,), {}, r"shape = \(2,\): expected \(channels, height, width\)"),
        ((1, 10, 8), {}, "divisible by 4"),
        (SHAPE, {"blocks": (1, 2)}, r"blocks = \(1, 2\): expected 3 numbers"),
        (SHAPE, {"head_channels": 5}, "head_channels = 5: expected a divisor of the 16 channels"),
        (SHAPE, {"dropout": -0.1}, "dropout = -0.1"),
        (SHAPE, {"dropout_stages": 4}, "dropout_stages = 4"),
    ],
)
def test_mistakes_are_told(shape, options, message):
    with pytest.raises(UserError, match=message):
        small(shape=shape, **options)
