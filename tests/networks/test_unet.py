"""The U-Net along axes: any lengths, padding that changes nothing, noise that passes as it came."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.networks._unet import GroupNorm, double, halve
from tests.support.network_properties import (
    alive,
    condition,
    conditions_must_fit,
    features_reach_their_rows,
    has_true_derivatives,
    inputs,
    labels_are_names,
    low_precision_is_near,
    masked_elements_have_no_influence,
    rows_do_not_mix,
)

SHAPE = (2, 11)
SMALL = {"width": 8, "mult": (1, 2), "patch": 2}


def small(
    shape: tuple[int, ...] = SHAPE, classes: int = 3, features: int = 2, **options: object
) -> nn.Module:
    return alive(fs.networks.unet(shape, classes, features, **{**SMALL, **options}))


def test_a_fresh_network_gives_zero_and_learns_from_there():
    network = fs.networks.unet(SHAPE, **SMALL).double()
    x, label = inputs(SHAPE)
    out = network(x, label)
    assert torch.equal(out, torch.zeros_like(x))
    (out - x).square().sum().backward()
    assert network.outlet.weight.grad.abs().max() > 0
    assert network.gain.weight.grad.abs().max() > 0


@given(st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_places_are_halved_and_doubled_along_every_axis(axes):
    keep = torch.zeros(1, 1, *axes, dtype=torch.bool)
    keep[(0, 0, *(size - 1 for size in axes))] = True
    half = halve(keep)
    assert half.shape[2:] == tuple(-(-size // 2) for size in axes)
    assert half.sum() == 1
    assert half[(0, 0, *(-(-size // 2) - 1 for size in axes))]
    numbers = torch.arange(1.0, half.numel() + 1).reshape(half.shape)
    twice = double(numbers, axes)
    assert twice.shape[2:] == tuple(axes)
    for index in torch.ones(axes).nonzero():
        assert twice[(0, 0, *index)] == numbers[(0, 0, *(index // 2))]


@pytest.mark.parametrize("axes", [(1,), (2,), (5,), (16,), (3, 5), (1, 4), (2, 3, 5)])
def test_axes_of_any_length(axes):
    shape = (2, *axes)
    network = small(shape, 0, 0, mult=(1, 2, 1), patch=2)
    x, label = inputs(shape)
    steps = torch.eye(math.prod(axes)).double().unflatten(1, axes)
    moved = [network(x + step, label) - network(x, label) for step in steps]
    assert min(change.abs().flatten(1).amax(1).min() for change in moved) > 1e-6


@pytest.mark.parametrize("patch", [2, (2, 3)])
def test_a_field_is_seen_along_both_axes(patch):
    """Its transpose by the network whose convolutions are transposed is the transpose."""
    one = small((2, 6, 6), 0, 0, patch=patch)
    turned = patch if isinstance(patch, int) else patch[::-1]
    other = small((2, 6, 6), 0, 0, patch=turned)
    one.places.zero_()
    other.places.zero_()
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        its.data.copy_(mine.data.transpose(-1, -2) if mine.ndim == 4 else mine.data)
    swap_pixels(one, other, patch)
    x, label = inputs((2, 6, 6))
    expected = one(x, label).transpose(-1, -2)
    torch.testing.assert_close(other(x.transpose(-1, -2), label), expected)


def swap_pixels(one: nn.Module, other: nn.Module, patch: int | tuple[int, int]) -> None:
    """The other's inlet and outlet with the pixels of a patch in the order of its transpose."""
    sides = (patch, patch) if isinstance(patch, int) else patch
    inlet, outlet = one.inlet.weight.transpose(-1, -2), one.outlet.weight.transpose(-1, -2)
    pixels = 4 * sides[0] * sides[1]
    mixed = inlet[:, :pixels].unflatten(1, (4, *sides)).transpose(2, 3).flatten(1, 3)
    other.inlet.weight.data[:, :pixels] = mixed
    other.outlet.weight.data = outlet.unflatten(0, (2, *sides)).transpose(1, 2).flatten(0, 2).data
    bias = one.outlet.bias.unflatten(0, (2, *sides)).transpose(1, 2).flatten()
    other.outlet.bias.data = bias.data


def cut(cond: dict[str, Tensor], length: int) -> dict[str, Tensor]:
    """A condition whose series all end at that length."""
    mask = cond["mask"].expand(-1, -1, 11) & (torch.arange(11) < length)
    return {**cond, "mask": mask}


@pytest.mark.parametrize("length", [3, 8])
def test_padding_changes_nothing(length):
    """Series of that length alone, and behind them places that their mask leaves out."""
    long, short = small(), small((2, length))
    x, label = inputs(SHAPE)
    cond = cut(condition(SHAPE), length)
    cond["mask"][:, :, 0] = True
    here = {**cond, "mask": cond["mask"][..., :length]}
    near = short(x[..., :length], label, here)
    torch.testing.assert_close(long(x, label, cond)[..., :length], near, rtol=1e-10, atol=1e-10)


def test_a_missing_value_is_no_zero():
    network, (x, label) = small(classes=0, features=0), inputs(SHAPE)
    mask = torch.ones(3, *SHAPE, dtype=torch.bool)
    mask[:, 1, 4] = False
    x[:, 1, 4] = 0
    assert (network(x, label, {"mask": mask}) - network(x, label)).abs().max() > 1e-3


def test_norms_are_over_the_places_kept():
    norm = alive(GroupNorm(24))
    assert norm.num_groups == 3
    x = torch.randn(3, 24, 7, generator=generator(0, "norm"), dtype=torch.float64)
    keep = torch.arange(7)[None, None] < torch.tensor([7, 4, 1])[:, None, None]
    out = norm(x, keep)
    for row, length in enumerate((7, 4, 1)):
        alone = norm(x[row : row + 1, :, :length])
        torch.testing.assert_close(out[row : row + 1, :, :length], alone, rtol=1e-11, atol=1e-11)


@pytest.fixture(params=[SHAPE, (2, 3, 4)], ids=["series", "field"])
def shape(request):
    return request.param


def test_derivatives(shape):
    has_true_derivatives(small(shape, dropout=0.3), shape, condition(shape, 2))


def test_rows_do_not_mix(shape):
    rows_do_not_mix(small(shape, dropout=0.3), shape, condition(shape))


def test_labels():
    network = small(features=0)
    labels_are_names(network, network.embedding.label, 0, SHAPE)
    conditions_must_fit(network, small(classes=0, features=0), SHAPE)


def test_features_and_masks(shape):
    network = small(shape)
    features_reach_their_rows(network, shape, condition(shape))
    masked_elements_have_no_influence(network, shape, condition(shape))


def test_low_precision():
    low_precision_is_near(small(), SHAPE, condition(SHAPE))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4,), {}, "expected channels first"),
        ((3, 2, 2, 2, 2), {}, "expected channels first"),
        (SHAPE, {"patch": 0}, "patch = 0"),
        (SHAPE, {"width": 3}, "width = 3"),
        (SHAPE, {"mult": ()}, "mult = "),
        (SHAPE, {"blocks": 0}, "blocks = 0"),
    ],
)
def test_mistakes_are_told(shape, options, message):
    with pytest.raises(UserError, match=message):
        small(shape, **options)
