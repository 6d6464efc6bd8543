"""Agreement with EDM2's U-Net: a state dict under its own names, both ways, and its outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import fewstep as fs
from fewstep.core.denoiser import Preconditioned
from fewstep.core.scalings import Edm
from fewstep.foreign.edm import network_for
from fewstep.networks.edm2_layers import Uncertainty
from tests.support.cases import Case


def network_of(config: dict[str, Any]) -> torch.nn.Module:
    """Our network with EDM2's constructor arguments."""
    own = network_for(config, "UNet")
    return fs.networks.edm2_unet(own.shape, own.classes, **own.options)


def labels(case: Case) -> Tensor | None:
    """The case's one-hot rows as labels, a row of zeros as -1."""
    if "class_labels" not in case.tensors:
        return None
    rows = case["class_labels"]
    assert ((rows == 0) | (rows == 1)).all()
    assert (rows.sum(1) <= 1).all()
    return torch.where(rows.any(1), rows.argmax(1), -1)


def edm2_unet(case: Case) -> None:
    config = case.about["config"]
    network, head = network_of(config), Uncertainty(config.get("logvar_channels", 128))
    theirs = {name: case.weights[name] for name in case.about["state_dict"]}
    inner = {
        name.removeprefix("unet."): w for name, w in theirs.items() if name.startswith("unet.")
    }
    outer = {name: w for name, w in theirs.items() if not name.startswith("unet.")}
    for module, weights in ((network, inner), (head, outer)):
        module.load_state_dict(weights)
        ours = module.state_dict()
        assert ours.keys() == weights.keys()
        assert all(torch.equal(ours[name], weights[name]) for name in ours)
    count = sum(p.numel() for module in (network, head) for p in module.parameters())
    assert count == case.about["parameters"]

    denoiser = Preconditioned(network, Edm(sigma_data=config.get("sigma_data", 0.5)))
    cond = labels(case)
    with torch.no_grad():
        case.agree("D", denoiser.eval()(case["x"], case["sigma"].double(), cond))
        case.agree("raw_out", network(case["raw_in"], case["c_noise"], cond))
        case.agree("logvar", head(case["sigma"].log() / 4))
        network.normalise_()
        case.agree("train_D", denoiser.train()(case["x"], case["sigma"].double(), cond))
    if "train_weight_after" in case.tensors:
        name = case.settings["train_weight"].removeprefix("unet.")
        case.agree("train_weight_after", network.get_parameter(name))


TESTED: dict[str, Callable[[Case], None]] = {"edm2_unet": edm2_unet}
