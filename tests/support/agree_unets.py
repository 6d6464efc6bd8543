"""The U-Nets of EDM and openai against their reference numbers: outputs, and weights both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fewstep as fs
from fewstep.core.denoiser import Preconditioned
from fewstep.core.scalings import Edm
from fewstep.foreign.edm import network_for
from fewstep.networks.openai_weights import adm_options, from_openai, to_openai
from tests.support.cases import Case


def network_of(config: dict[str, Any]) -> nn.Module:
    """Our network for EDM's constructor arguments."""
    own = network_for(config)
    factory = getattr(fs.networks, own.network)
    return factory(own.shape, own.classes, **own.options)


def labels_of(case: Case, **more: Tensor) -> Any:
    """The case's one-hot rows as labels, without one -1; with augment labels a dict."""
    classes = case.about["config"].get("label_dim", 0)
    rows = case.tensors.get("class_labels", torch.zeros(len(case["x"]), classes))
    label = torch.where(rows.any(1), rows.argmax(1), -1) if classes else None
    return {"label": label, **more} if more else label


def edm_unet(case: Case) -> None:
    config, network = case.about["config"], network_of(case.about["config"])
    weights = {name.removeprefix("model."): value for name, value in case.weights.items()}
    network.load_state_dict(weights)
    shapes = {f"model.{name}": list(value.shape) for name, value in network.state_dict().items()}
    assert shapes == {name: entry["shape"] for name, entry in case.about["state_dict"].items()}
    denoiser = Preconditioned(network, Edm(sigma_data=config.get("sigma_data", 0.5)))
    with torch.no_grad():
        case.agree("raw_out", network(case["raw_in"], case["c_noise"], labels_of(case)))
        case.agree("D", denoiser(case["x"], case["sigma"].double(), labels_of(case)))
        if "D_augmented" in case.tensors:
            cond = labels_of(case, augment=case["augment_labels"])
            case.agree("D_augmented", denoiser(case["x"], case["sigma"].double(), cond))


def openai_unet(case: Case) -> None:
    shape, classes, options = adm_options(case.about["config"])
    network = fs.networks.adm_unet(shape, classes, **options)
    network.load_state_dict(from_openai(network, case.weights))
    weights = to_openai(network, network.state_dict())
    assert weights.keys() == case.about["state_dict"].keys()
    for name, value in weights.items():
        torch.testing.assert_close(
            value, case.weights[name], rtol=0, atol=0, msg=lambda m, n=name: f"{n}: {m}"
        )
    labels = next(
        (case[name] for name in ("y", "labels", "class_labels") if name in case.tensors), None
    )
    with torch.no_grad():
        ours = network(case["x"], case["timesteps"], labels)
    case.agree("out", ours)
    if "out_half_attention" in case.tensors:  # the same in half precision
        torch.testing.assert_close(ours, case["out_half_attention"], rtol=0, atol=5e-3)


TESTED: dict[str, Callable[[Case], None]] = {"edm_unet": edm_unet, "openai_unet": openai_unet}
