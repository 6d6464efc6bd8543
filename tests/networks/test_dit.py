"""The diffusion transformer: a fresh one gives 0; positions alone tell tokens apart."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.networks._dit import patchify, unpatchify
from fewstep.networks.attention import attend
from fewstep.networks.transformer_blocks import positions
from tests.support.network_properties import (
    alive,
    conditions_must_fit,
    has_true_derivatives,
    inputs,
    labels_are_names,
    low_precision_is_near,
    rows_do_not_mix,
)

SHAPES = [(2, 8), (3, 4, 6), (1, 2, 4, 6)]
SMALL = {"patch": 2, "width": 24, "depth": 2, "heads": 2}


def small(shape: tuple[int, ...] = SHAPES[1], classes: int = 3, **options: object) -> nn.Module:
    return alive(fs.networks.dit(shape, classes, **{**SMALL, **options}))


def test_a_fresh_network_gives_zero_and_learns_from_there():
    network = fs.networks.dit(SHAPES[1], 3, **SMALL).double()
    x, label = inputs(SHAPES[1])
    out = network(x, label, torch.tensor([0, 1, -1]))
    assert torch.equal(out, torch.zeros_like(x))
    (out - x).square().sum().backward()
    assert network.outlet.weight.grad.abs().max() > 0


def test_a_fresh_block_is_the_identity():
    block = fs.networks.dit(SHAPES[1], **SMALL).blocks[0]
    h, emb = (
        torch.randn(2, 5, 24, generator=generator(0, "h")),
        torch.randn(2, 24, generator=generator(0, "emb")),
    )
    assert torch.equal(block(h, emb, None), h)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 3))
def test_patches_are_blocks_of_the_data_and_come_back(grid, patch, channels):
    shape = (channels, *(n * patch for n in grid))
    x = torch.arange(2 * math.prod(shape), dtype=torch.float64).reshape(2, *shape)
    tokens = patchify(x, patch)
    assert torch.equal(unpatchify(tokens, patch, shape), x)
    last = tuple(slice(-patch, None) for _ in grid)
    assert torch.equal(tokens[1, -1], x[(1, slice(None), *last)].flatten())
    second = tuple(slice(None, patch) for _ in grid[1:])
    if grid[-1] > 1:
        assert torch.equal(
            tokens[0, 1], x[(0, slice(None), *second, slice(patch, 2 * patch))].flatten()
        )


@pytest.mark.parametrize("grid", [(7,), (3, 4), (2, 3, 2)])
def test_positions_tell_tokens_apart_by_their_distance(grid):
    """p(i) . p(j) = sum over axes and frequencies of cos(f (i - j))."""
    width = 8 * len(grid) + 1
    table = positions(grid, width).double()
    index = torch.cartesian_prod(*(torch.arange(n) for n in grid)).reshape(-1, len(grid)).double()
    between = index[:, None] - index[None]
    target = (between[..., None] * 10.0 ** torch.arange(0, -4, -1)).cos().sum((-1, -2))
    torch.testing.assert_close(table @ table.t(), target, rtol=1e-5, atol=1e-5)
    assert torch.cdist(table, table).fill_diagonal_(1).min() > 1e-2


@pytest.mark.parametrize("shape", SHAPES)
def test_without_positions_whole_patches_may_be_moved(shape):
    """Rolling the data by a patch along any axis rolls the output, but for the positions."""
    network, (x, label) = small(shape, 0), inputs(shape)

    def moved_apart() -> float:
        out = network(x, label)
        shifts = [network(x.roll(2, axis), label).roll(-2, axis) - out for axis in range(2, x.ndim)]
        return max(difference.abs().max().item() for difference in shifts)

    assert moved_apart() > 1e-2
    network.positions.zero_()
    assert moved_apart() < 1e-11


@pytest.mark.parametrize("shape", SHAPES)
def test_derivatives(shape):
    has_true_derivatives(small(shape, dropout=0.3), shape, torch.tensor([1, -1]))


def test_rows_do_not_mix():
    rows_do_not_mix(small(dropout=0.3), SHAPES[1], torch.tensor([1, -1, 0]))


def test_labels():
    network = small()
    labels_are_names(network, network.embedding.label, 0, SHAPES[1])
    conditions_must_fit(network, small(classes=0), SHAPES[1])


def test_low_precision():
    low_precision_is_near(small(), SHAPES[1], torch.tensor([1, -1, 0]))


def test_attention_averages_equal_keys_and_picks_the_outstanding_one():
    q, v = (
        torch.randn(2, 3, 5, 4, generator=generator(i, "attend"), dtype=torch.float64)
        for i in range(2)
    )
    mean = v.mean(2, keepdim=True).expand_as(v)
    torch.testing.assert_close(attend(q, torch.ones_like(q), v), mean)
    keys = torch.eye(4, dtype=torch.float64)[None, None].expand(2, 3, 4, 4)
    choice = attend(1e4 * keys, keys, v[:, :, :4])
    torch.testing.assert_close(choice, v[:, :, :4])


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 9, 8), {}, "patch = 2: expected a divisor of every axis of the data, 9, 8"),
        ((4,), {}, "channels, one or more axes"),
        (SHAPES[1], {"patch": 0}, "patch = 0"),
        (SHAPES[1], {"heads": 5}, "heads = 5: expected a divisor of the 24 channels"),
        (SHAPES[1], {"depth": 0}, "depth = 0"),
        (SHAPES[1], {"width": 2, "heads": 1}, "width = 2: expected at least 4"),
    ],
)
def test_mistakes_are_told(shape, options, message):
    with pytest.raises(UserError, match=message):
        small(shape, **options)
