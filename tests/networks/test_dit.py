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
from fewstep.networks.attention import attend
from fewstep.networks.patches import patchify, unpatchify
from fewstep.networks.transformer_blocks import positions
from tests.support.network_properties import (
    alive,
    conditions_must_fit,
    inputs,
    labels_are_names,
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


PATCHES = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2)), min_size=1, max_size=4
)


@given(PATCHES, st.integers(1, 3))
def test_patches_are_blocks_of_the_data_and_come_back(axes, channels):
    """Of axes that end inside their last patch too: zeros stand beyond the end."""
    grid, patch, short = zip(*axes, strict=True)
    short = [min(less, length - 1) for less, length in zip(short, patch, strict=True)]
    whole = (channels, *(n * length for n, length in zip(grid, patch, strict=True)))
    x = torch.arange(2 * math.prod(whole), dtype=torch.float64).reshape(2, *whole)
    shape = (channels, *(n - less for n, less in zip(whole[1:], short, strict=True)))
    inside = (..., *map(slice, shape[1:]))
    filled = torch.zeros_like(x)
    filled[inside] = x[inside]
    tokens = patchify(x[inside], patch)
    assert torch.equal(tokens, patchify(filled, patch))
    assert torch.equal(unpatchify(tokens, patch, shape), x[inside])
    last = tuple(slice(-length, None) for length in patch)
    assert torch.equal(tokens[1, -1], filled[(1, slice(None), *last)].flatten())
    second = tuple(slice(None, length) for length in patch[:-1])
    if grid[-1] > 1:
        block = filled[(0, slice(None), *second, slice(patch[-1], 2 * patch[-1]))]
        assert torch.equal(tokens[0, 1], block.flatten())


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


@pytest.mark.parametrize(
    ("shape", "part", "patch"),
    [((2, 9), (5,), 2), ((2, 6, 5), (3, 5), (2, 3)), ((1, 4, 2, 5), (3, 2, 2), 2)],
)
def test_a_padded_sample_is_the_sample_without_its_padding(shape, part, patch):
    """Tokens of padding alone are not attended to, and the last patch's rest counts as 0."""
    padded, alone = small(shape, patch=patch), small((shape[0], *part), patch=patch)
    (x, label), cond = inputs(shape), torch.tensor([1, -1, 0])
    mask = torch.zeros(3, 1, *shape[1:], dtype=torch.bool)
    inside = (..., *map(slice, part))
    mask[inside] = True
    target = alone(x[inside], label, cond)
    out = padded(x, label, {"label": cond, "mask": mask})[inside]
    torch.testing.assert_close(out, target, rtol=1e-11, atol=1e-11)
    assert (padded(x, label, cond)[inside] - target).abs().max() > 1e-3


def test_a_sample_without_any_element_is_finite_and_leaves_the_others_alone():
    network, (x, label) = small(classes=0), inputs(SHAPES[1])
    mask = torch.tensor([True, False, True])[:, None]
    x.requires_grad_()
    out = network(x, label, {"mask": mask})
    torch.testing.assert_close(out[[0, 2]], network(x, label)[[0, 2]], rtol=1e-11, atol=1e-11)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    slope = torch.func.jvp(lambda x: network(x, label, {"mask": mask}), (x,), (x,))[1]
    assert torch.isfinite(out).all()
    assert torch.isfinite(slope).all()
    assert not gradient[1].any()
    assert gradient[0].any()


def test_a_patch_is_one_number_or_one_for_each_axis_and_no_longer_than_it():
    (x, label), cond = inputs((3, 4, 1)), torch.tensor([1, -1, 0])
    outputs = [small((3, 4, 1), patch=patch)(x, label, cond) for patch in (4, (4, 1), [9, 4])]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_labels():
    network = small()
    labels_are_names(network, network.embedding.label, 0, SHAPES[1])
    conditions_must_fit(network, small(classes=0), SHAPES[1])


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


def test_attention_to_some_keys_is_attention_over_these_alone():
    q, k, v = (
        torch.randn(2, 3, 5, 4, generator=generator(i, "attend"), dtype=torch.float64)
        for i in range(3)
    )
    some = torch.tensor([True, False, True, True, False])
    keep = some.expand(2, 1, 1, 5)
    target = attend(q, k[:, :, some], v[:, :, some])
    for out in (
        attend(q, k, v, keep),
        torch.func.jvp(lambda q: attend(q, k, v, keep), (q,), (q,))[0],
    ):
        torch.testing.assert_close(out, target, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 9, 8), {"patch": (2,)}, r"patch = \(2,\): .* or one for each of the axes of 9, 8"),
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
