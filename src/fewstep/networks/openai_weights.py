"""ADM's weights under openai's names (guided diffusion, consistency models).

Their network is `adm_unet(shape, classes, **options)` of `adm_options(config)`; its noise label is
250 ln sigma (`Edm(noise_scale=250)`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fewstep.base.errors import UserError, require
from fewstep.networks._adm_unet import AdmUNet

CLASSES = 1000  # what class_cond means: ImageNet's
# The default of channel_mult by image_size.
LEVELS = {
    512: "0.5,1,1,2,2,4,4",
    256: "1,1,2,2,4,4",
    128: "1,1,2,3,4",
    64: "1,2,3,4",
}
INSIDE = {
    "norm0": "in_layers.0",
    "conv0": "in_layers.2",
    "affine": "emb_layers.1",
    "norm1": "out_layers.0",
    "conv1": "out_layers.3",
    "skip": "skip_connection",
}
ATTENTION = {"norm2": "norm", "qkv": "qkv", "proj": "proj_out"}
OUTSIDE = {
    "map_layer0": "time_embed.0",
    "map_layer1": "time_embed.2",
    "map_label": "label_emb",
    "out_norm": "out.0",
    "out_conv": "out.2",
}


def adm_options(config: Mapping[str, Any]) -> tuple[tuple[int, ...], int, dict[str, Any]]:
    """Shape, classes and options of `adm_unet` for the arguments of openai's `create_model`."""
    size = config["image_size"]
    head = config.get("num_head_channels", -1)
    heads = config.get("num_heads", 1)
    text = config.get("channel_mult") or LEVELS.get(size, "")
    mult = [float(m) for m in text.split(",") if m]
    if not mult or any(m != int(m) for m in mult):
        text = config.get("channel_mult", "")
        raise UserError(f"channel_mult = {text!r} at image_size = {size}: expected whole numbers")
    require(not config.get("learn_sigma"), "learn_sigma", True, "off: the result is one image")
    heads_up = config.get("num_heads_upsample", -1)
    need = "-1, as many as num_heads"
    require(heads_up in (-1, heads), "num_heads_upsample", heads_up, need)
    sides = config.get("attention_resolutions", "16").split(",")
    options = {
        "width": config["num_channels"],
        "mult": tuple(int(m) for m in mult),
        "blocks": config["num_res_blocks"],
        "attention": tuple(int(side) for side in sides),
        "dropout": float(config.get("dropout", 0)),
        "heads": heads if head == -1 else None,
        "head_channels": 64 if head == -1 else head,
        "scale_shift": config.get("use_scale_shift_norm", False),
        "resample": "block" if config.get("resblock_updown", False) else "conv",
        "group": 1,  # always 32 groups
    }
    return (3, size, size), CLASSES if config.get("class_cond") else 0, options


def names(network: AdmUNet) -> dict[str, str]:
    """Their name for each of the network's weights."""
    places = _places(network)

    def theirs(module: str) -> str:
        if module in OUTSIDE:
            return OUTSIDE[module]
        side, layer, *inside = module.split(".")
        if side not in ("enc", "dec"):
            raise UserError(
                f"{module} has no name in openai's files: expected a network without augment labels"
                " and features"
            )
        place, index = places[layer, side]
        if not inside and "_down" in layer:
            return f"{place}.{index}.op"
        if not inside and "_up" in layer:
            return f"{place}.{index}.conv"
        if not inside:  # the first convolution
            return f"{place}.{index}"
        if inside[0] in INSIDE:
            return f"{place}.{index}.{INSIDE[inside[0]]}"
        return f"{place}.{index + 1}.{ATTENTION[inside[0]]}"

    result: dict[str, str] = {}
    for name, _ in network.named_parameters():
        module, _, leaf = name.rpartition(".")
        result[name] = f"{theirs(module)}.{leaf}"
    return result


def _places(network: AdmUNet) -> dict[tuple[str, str], tuple[str, int]]:
    """Where their residual block stands for each of our layers; its attention is the next one."""
    places: dict[tuple[str, str], tuple[str, int]] = {}
    for number, name in enumerate(network.enc):
        places[name, "enc"] = (f"input_blocks.{number}", 0)
    number = -1
    behind = 0
    for name, part in network.dec.items():
        if "_in" in name:
            places[name, "dec"] = ("middle_block", 2 if name.endswith("in1") else 0)
        elif "_up" in name:
            places[name, "dec"] = (f"output_blocks.{number}", behind)
        else:
            number += 1
            behind = 2 if part.heads else 1
            places[name, "dec"] = (f"output_blocks.{number}", 0)
    return places


def from_openai(network: AdmUNet, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their weights as a state dict of the network."""
    table = names(network)
    if odd := sorted(weights.keys() ^ set(table.values())):
        raise UserError(
            f"these weights are not of this network: {len(odd)} names differ, the first is {odd[0]}"
        )
    result = network.state_dict()
    for ours, theirs in table.items():
        result[ours] = _swap_layout(network, ours, weights[theirs], True)
    return result


def to_openai(network: AdmUNet, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the network under their names."""
    return {
        theirs: _swap_layout(network, ours, weights[ours], False)
        for ours, theirs in names(network).items()
    }


def _swap_layout(network: AdmUNet, name: str, value: Tensor, inward: bool) -> Tensor:
    """A weight in the other layout: theirs is (q|k|v, head, dim), ours (head, dim, q|k|v)."""
    if name == "map_label.weight":
        return value.T.contiguous()
    if ".qkv." not in name:
        return value
    heads = network.get_submodule(name.partition(".qkv.")[0]).heads
    if inward:
        return value.unflatten(0, (3, heads, -1)).movedim(0, 2).flatten(0, 2)
    return value.unflatten(0, (heads, -1, 3)).movedim(2, 0).flatten(0, 2)
