"""The U-Net for series: any length, padding that changes nothing, noise that passes as it came."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import pad

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.networks._unet1d import GroupNorm, from_patches, to_patches
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
    return alive(fs.networks.unet1d(shape, classes, features, **{**SMALL, **options}))


def test_a_fresh_network_gives_zero_and_learns_from_there():
    network = fs.networks.unet1d(SHAPE, **SMALL).double()
    x, label = inputs(SHAPE)
    out = network(x, label)
    assert torch.equal(out, torch.zeros_like(x))
    (out - x).square().sum().backward()
    assert network.outlet.weight.grad.abs().max() > 0
    assert network.gain.weight.grad.abs().max() > 0


@given(st.integers(1, 9), st.integers(1, 4))
def test_patches_are_neighbours_and_come_back(length, patch):
    x = torch.arange(1.0, 2 * 3 * length + 1).reshape(2, 3, length)
    h = to_patches(x, patch)
    assert torch.equal(from_patches(h, patch, length), x)
    first = pad(x[1, 2], (0, patch))[:patch]
    assert torch.equal(h[1, 2 * patch :, 0], first)


@pytest.mark.parametrize("length", [1, 2, 5, 16])
def test_any_length(length):
    network = small((2, length), 0, 0, mult=(1, 2, 1), patch=2)
    x, label = inputs((2, length))
    moved = [network(x + step, label) - network(x, label) for step in torch.eye(length).double()]
    assert min(change.abs().amax((1, 2)).min() for change in moved) > 1e-6


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


def test_derivatives():
    has_true_derivatives(small(dropout=0.3), SHAPE, condition(SHAPE, 2))


def test_rows_do_not_mix():
    rows_do_not_mix(small(dropout=0.3), SHAPE, condition(SHAPE))


def test_labels():
    network = small(features=0)
    labels_are_names(network, network.embedding.label, 0, SHAPE)
    conditions_must_fit(network, small(classes=0, features=0), SHAPE)


def test_features_and_masks():
    network = small()
    features_reach_their_rows(network, SHAPE, condition(SHAPE))
    masked_elements_have_no_influence(network, SHAPE, condition(SHAPE))


def test_low_precision():
    low_precision_is_near(small(), SHAPE, condition(SHAPE))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4,), {}, "expected series"),
        ((3, 8, 8), {}, "expected series"),
        (SHAPE, {"patch": 0}, "patch = 0"),
        (SHAPE, {"width": 3}, "width = 3"),
        (SHAPE, {"mult": ()}, "mult = "),
        (SHAPE, {"blocks": 0}, "blocks = 0"),
    ],
)
def test_mistakes_are_told(shape, options, message):
    with pytest.raises(UserError, match=message):
        small(shape, **options)
