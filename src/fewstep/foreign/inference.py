"""The networks of EDM and EDM2 by the names and shapes of their weights alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from fewstep.base.errors import UserError
from fewstep.foreign.edm import Shaped

Weights = Mapping[str, Tensor]

FIRST = re.compile(r"enc\.(\d+)x(\d+)_conv\.weight")
BLOCK = re.compile(r"enc\.(\d+)x(\d+)_block(\d+)\.(.+)")


def sides_of(weights: Weights) -> tuple[int, int]:
    """(height, width) of the images: they stand in the name of the first layer."""
    for name in weights:
        match = FIRST.fullmatch(name)
        if match:
            return int(match[1]), int(match[2])
    raise UserError("its weights have the names of EDM's networks, but no first layer")


def blocks_of(weights: Weights) -> dict[int, dict[int, dict[str, Tensor]]]:
    """The encoder's blocks: height -> number -> weights, from the highest resolution down."""
    result: dict[int, dict[int, dict[str, Tensor]]] = {}
    for name, tensor in weights.items():
        match = BLOCK.fullmatch(name)
        if match:
            level = result.setdefault(int(match[1]), {})
            level.setdefault(int(match[3]), {})[match[4]] = tensor
    return dict(sorted(result.items(), reverse=True))


def infer(family: str, weights: Weights) -> Shaped:
    """The network whose weights these are. Raises UserError where they make no sense together."""
    try:
        return infer_edm2(weights) if family == "edm2" else infer_edm(weights)
    except (KeyError, IndexError, ZeroDivisionError, ValueError) as error:
        raise UserError(
            f"its weights have the names of {family} networks and other shapes ({error!r}): say the"
            " network by --network"
        ) from error


def infer_edm(weights: Weights) -> Shaped:
    """SongUNet, or DhariwalUNet, which ends in one convolution."""
    height, across = sides_of(weights)
    levels = blocks_of(weights)
    stem = weights[f"enc.{height}x{across}_conv.weight"]
    noise = weights["map_layer0.weight"].shape[1]
    is_adm = "out_conv.weight" in weights
    width = noise if is_adm else stem.shape[0]
    widths = [level[0]["conv1.weight"].shape[0] for level in levels.values()]
    counts = [len(level) for level in levels.values()]
    label = weights.get("map_label.weight")
    augment = weights.get("map_augment.weight")
    options: dict[str, Any] = {
        "width": width,
        "mult": [quotient(one, width) for one in widths],
        "blocks": counts[0],
        "attention": [side for side, level in levels.items() if "qkv.weight" in level[0]],
        "dropout": 0.0,
        "emb_mult": quotient(weights["map_layer0.weight"].shape[0], width),
        "augment": 0 if augment is None else augment.shape[1],
    }
    if not is_adm:
        options |= infer_song(weights)
        options |= {"noise_mult": quotient(noise, width), "level_blocks": counts}
        if len(set(counts)) == 1:
            del options["level_blocks"]
    shape = (stem.shape[1], height, across)
    classes = 0 if label is None else label.shape[1]
    return Shaped("adm_unet" if is_adm else "song_unet", shape, classes, options)


def infer_song(weights: Weights) -> dict[str, Any]:
    """What only SongUNet has: kinds of embedding, encoder and decoder, and the filter's taps."""
    encoder = "standard"
    for kind in ("skip", "residual"):
        if any(f"_aux_{kind}." in name for name in weights):
            encoder = kind
    ends = sum(name.endswith("_aux_conv.weight") for name in weights)
    filters = (tensor for name, tensor in weights.items() if name.endswith("resample_filter"))
    size = next((tensor.shape[-1] for tensor in filters), 2)
    taps = {2: [1, 1], 4: [1, 3, 3, 1]}
    if size not in taps:
        raise UserError(
            f"its filter has {size} taps: say them, --network-options '{{\"taps\": [1, 3, 3, 1]}}'"
        )
    return {
        "embedding": "fourier" if "map_noise.freqs" in weights else "positional",
        "encoder": encoder,
        "decoder": "skip" if ends > 1 else "standard",
        "taps": taps[size],
    }


def infer_edm2(weights: Weights) -> Shaped:
    """EDM2's network. Only the ratios of widths are in the weights, and so is all that matters."""
    height, across = sides_of(weights)
    levels = blocks_of(weights)
    stem = weights[f"enc.{height}x{across}_conv.weight"]
    widths = [level[0]["conv_res1.weight"].shape[0] for level in levels.values()]
    embedding, noise = weights["emb_noise.weight"].shape
    width = divisor([*widths, embedding, noise])
    label = weights.get("emb_label.weight")
    options = {
        "width": width,
        "mult": [one // width for one in widths],
        "mult_noise": noise // width,
        "mult_emb": embedding // width,
        "blocks": len(next(iter(levels.values()))),
        "attention": [side for side, level in levels.items() if "attn_qkv.weight" in level[0]],
    }
    classes = 0 if label is None else label.shape[1]
    return Shaped("edm2_unet", (stem.shape[1] - 1, height, across), classes, options)


def quotient(value: int, width: int) -> int:
    """value / width. Raises ValueError where it is not whole."""
    whole, rest = divmod(value, width)
    if rest or not whole:
        raise ValueError(f"{value} channels are no multiple of {width}")
    return whole


def divisor(values: Iterable[int]) -> int:
    result = 0
    for value in values:
        result = math.gcd(result, value)
    return result
