"""Labels, features and masks together, in every network and on shapes of every kind."""

from __future__ import annotations

import pytest
from torch import nn

import fewstep as fs
from fewstep.base.randomness import fork_rng
from tests.support.network_properties import (
    alive,
    condition,
    features_reach_their_rows,
    has_true_derivatives,
    low_precision_is_near,
    masked_elements_have_no_influence,
    rows_do_not_mix,
)

DIT = {"patch": 2, "width": 24, "depth": 2, "heads": 2}
UNET = {"width": 8, "mult": (1, 2), "blocks": 1, "attention": (4,)}
NETWORKS = {
    "series": ("dit", (2, 7), DIT),
    "field": ("dit", (3, 4, 5), {**DIT, "patch": (2, 3)}),
    "volume": ("dit", (1, 3, 4, 2), DIT),
    "uvit": (
        "uvit",
        (2, 4, 8),
        {
            **{"width": 8, "mult": (1, 2), "blocks": (1, 2)},
            **{"head_channels": 8, "embedding": 16, "dropout_stages": 2},
        },
    ),
    "ddpmpp": ("song_unet", (2, 4, 8), UNET),
    "ncsnpp": (
        "song_unet",
        (2, 4, 8),
        {**UNET, "embedding": "fourier", "encoder": "residual", "taps": (1, 3, 3, 1)},
    ),
    "adm": ("adm_unet", (2, 8, 4), {**UNET, "head_channels": 4}),
    "edm2": ("edm2_unet", (2, 8, 4), {**UNET, "width": 16, "head_channels": 16}),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def small(name: str, dropout: float = 0.0) -> tuple[nn.Module, tuple[int, ...]]:
    factory, shape, options = NETWORKS[name]
    with fork_rng(0, "small"):  # frequencies are random too
        network = getattr(fs.networks, factory)(shape, 3, 2, **{**options, "dropout": dropout})
    return alive(network, std=1.0 if name == "edm2" else 0.3), shape


@pytest.mark.parametrize("name", ["series", "field", "volume", "uvit", "edm2"])
def test_derivatives(name):
    """Those of the others are in test_unets.py."""
    network, shape = small(name, dropout=0.3)
    has_true_derivatives(network, shape, condition(shape, 2))


@every_network
def test_rows_do_not_mix(name):
    network, shape = small(name, dropout=0.3)
    rows_do_not_mix(network, shape, condition(shape))


@every_network
def test_features(name):
    network, shape = small(name)
    features_reach_their_rows(network, shape, condition(shape))


@every_network
def test_masks(name):
    network, shape = small(name)
    masked_elements_have_no_influence(network, shape, condition(shape))


@every_network
def test_low_precision(name):
    network, shape = small(name)
    low_precision_is_near(network, shape, condition(shape))
