"""Small generators whose weights are all alive, without training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import fewstep as fs
from fewstep.base.randomness import generator
from fewstep.core.denoiser import Truncated
from fewstep.data import Units
from fewstep.run.build import build_method, build_student
from fewstep.run.facts import Facts

DIT = {"patch": 2, "width": 24, "depth": 2, "heads": 2}
UNET = {"width": 8, "mult": (1, 2), "blocks": 1, "attention": (4,)}
UVIT = {"width": 8, "mult": (1, 2), "blocks": (1, 2), "head_channels": 8, "embedding": 16}

# Network, shape of a sample, options, and whether samples have masks and features.
NETWORKS: dict[str, tuple[str, tuple[int, ...], dict[str, Any], bool]] = {
    "mlp": ("mlp", (3,), {"width": 16, "depth": 1}, False),
    "ddpmpp": ("song_unet", (2, 4, 8), UNET, False),
    "ncsnpp": (
        "song_unet",
        (2, 8, 8),
        {**UNET, "embedding": "fourier", "encoder": "residual", "taps": (1, 3, 3, 1)},
        False,
    ),
    "adm": ("adm_unet", (2, 8, 4), {**UNET, "head_channels": 4}, True),
    "edm2": ("edm2_unet", (2, 8, 4), {**UNET, "width": 16, "head_channels": 16}, True),
    "dit": ("dit", (3, 4, 5), {**DIT, "patch": (2, 3)}, True),
    "uvit": ("uvit", (2, 4, 8), {**UVIT, "dropout_stages": 2}, True),
    "unet": ("unet", (2, 11), {"width": 8, "patch": 2}, True),
    "set_transformer": ("set_transformer", (5, 2), {"width": 16, "depth": 1, "heads": 2}, True),
}


def alive(module: nn.Module, std: float = 0.2, seed: int = 0) -> nn.Module:
    """The module with new random weights: zero initialisation hides mistakes."""
    source = generator(seed, "parameters")
    for p in module.parameters():
        p.data = std * torch.randn(p.shape, generator=source)
    return module.requires_grad_(False).eval()


def small(
    network: str = "mlp",
    shape: tuple[int, ...] = (3,),
    options: dict[str, Any] | None = None,
    *,
    method: str = "ect",
    method_options: dict[str, Any] | None = None,
    own: Any = None,
    composite: bool = False,
    std: float = 0.2,
    **facts: Any,
) -> fs.Generator:
    """A generator of that network on samples of that shape; facts: as of a run's `Facts`."""
    options = {"width": 16, "depth": 1} if options is None else options
    run = fs.Run(
        recipe="tests",
        method=method,
        method_options=method_options or {},
        network="own" if own is not None else network,
        network_options={} if own is not None else options,
        batch=32,
        lr=1e-3,
        iterations=10,
        data="/home/somebody/secret/rows.npy",
        label_drop=0.1,
    )
    values = {"classes": 0, "sigma_data": 0.5, "units": Units(), "data": "0" * 64, **facts}
    whole = Facts(shape=shape, **values)
    parts = build_method(run, whole)
    denoiser: nn.Module = alive(build_student(run, whole, parts, own), std)
    if composite:
        low = alive(build_student(run, whole, parts, own), std, seed=1)
        denoiser = Truncated(low, denoiser, parts.trained_from).eval()
    return fs.Generator(run, whole, parts, denoiser, 10, "f" * 64)


def of_name(name: str, method: str = "ect") -> fs.Generator:
    """The generator of an entry of `NETWORKS`: with labels, and units of its own."""
    network, shape, options, has_parts = NETWORKS[name]
    cond: Any = "labels"
    cond_units = {}
    if has_parts:
        mask = [shape[0], 1] if network == "set_transformer" else [1, *shape[1:]]
        cond = {"label": "labels", "features": ["float32", [2]], "mask": ["bool", mask]}
        cond_units = {"features": Units((3.0, -1.0), (2.0, 0.5), axis=0)}
    units = Units(tuple(range(shape[0])), tuple(1.0 + n for n in range(shape[0])), axis=0)
    if network == "set_transformer":
        units = Units(2.0, 3.0)
    # Weights that do not blow up what is rounded.
    std = {"edm2": 1.0, "uvit": 0.1}.get(name, 0.2)
    return small(
        network,
        shape,
        options,
        method=method,
        std=std,
        classes=3,
        units=units,
        cond=cond,
        cond_units=cond_units,
    )
