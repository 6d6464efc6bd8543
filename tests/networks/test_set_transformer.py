"""The set transformer: order and padding change nothing; the number of elements does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
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

SHAPE = (7, 2)
SMALL = {"width": 16, "depth": 2, "heads": 2}


def small(
    shape: tuple[int, ...] = SHAPE, classes: int = 3, features: int = 2, **options: object
) -> nn.Module:
    return alive(fs.networks.set_transformer(shape, classes, features, **{**SMALL, **options}))


def sizes(*numbers: int, most: int = 7) -> dict[str, Tensor]:
    """Labels and features, and sets of so many elements."""
    mask = torch.arange(most) < torch.tensor(numbers)[:, None]
    return {**condition(SHAPE, len(numbers)), "mask": mask}


def test_a_fresh_network_gives_zero_and_learns_from_there():
    network = fs.networks.set_transformer(SHAPE, **SMALL).double()
    x, label = inputs(SHAPE)
    out = network(x, label)
    assert torch.equal(out, torch.zeros_like(x))
    (out - x).square().sum().backward()
    assert network.outlet.weight.grad.abs().max() > 0


def test_the_order_has_no_meaning():
    """Each set in an order of its own, gaps among its elements."""
    network, (x, label), cond = small(), inputs(SHAPE), sizes(3, 7, 5)
    order = torch.rand(3, 7, generator=generator(0, "order")).argsort(1)
    rows = torch.arange(3)[:, None]
    out = network(x[rows, order], label, {**cond, "mask": cond["mask"][rows, order]})
    torch.testing.assert_close(out, network(x, label, cond)[rows, order], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("number", [1, 4])
def test_padding_changes_nothing(number):
    wide, narrow = small(), small((number, 2))
    x, label = inputs(SHAPE)
    cond = {**sizes(number, number, number), "mask": None}
    alone = narrow(x[:, :number], label, cond)
    padded = wide(x, label, sizes(number, number, number))
    torch.testing.assert_close(padded[:, :number], alone, rtol=1e-10, atol=1e-10)
    assert alone.std() > 1e-3


def test_elements_see_each_other_and_their_number():
    """Attention to equal elements is the same for any number of them; the law of a set is not."""
    network, (x, label), cond = small(), inputs(SHAPE), sizes(4, 4, 4)
    other = x.clone()
    other[:, 1] += 1
    assert (network(other, label, cond) - network(x, label, cond))[:, 0].abs().min() > 1e-4
    same = x[:, :1].expand(-1, 7, -1)
    few, many = (network(same, label, sizes(n, n, n))[:, 0] for n in (4, 5))
    assert (few - many).abs().max() > 1e-3
    network.counts.zero_()
    few, many = (network(same, label, sizes(n, n, n))[:, 0] for n in (4, 5))
    torch.testing.assert_close(few, many, rtol=1e-10, atol=1e-10)


def test_derivatives():
    has_true_derivatives(small(dropout=0.3), SHAPE, sizes(3, 7))


def test_rows_do_not_mix():
    rows_do_not_mix(small(dropout=0.3), SHAPE, sizes(3, 7, 5))


def test_labels():
    network = small(features=0)
    labels_are_names(network, network.embedding.label, 0, SHAPE)
    conditions_must_fit(network, small(classes=0, features=0), SHAPE)


def test_features_and_masks():
    network = small()
    features_reach_their_rows(network, SHAPE, sizes(3, 7, 5))
    masked_elements_have_no_influence(network, SHAPE, sizes(3, 0, 5))


def test_low_precision():
    low_precision_is_near(small(), SHAPE, sizes(3, 7, 5))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4,), {}, "expected sets"),
        (SHAPE, {"depth": 0}, "depth = 0"),
        (SHAPE, {"heads": 3}, "heads = 3: expected a divisor of the 16 channels"),
        (SHAPE, {"mlp_ratio": 0.5}, "mlp_ratio = 0.5"),
    ],
)
def test_mistakes_are_told(shape, options, message):
    with pytest.raises(UserError, match=message):
        small(shape, **options)
