"""openai's U-Nets (consistency models, guided and improved diffusion) by their weights.

The image size and the heads of the attention are not in the weights: those of published models are
guessed, and reported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from fewstep.base.errors import UserError
from fewstep.foreign.edm import Shaped
from fewstep.foreign.inference import quotient
from fewstep.foreign.recognised import Said

Weights = Mapping[str, Tensor]

UP = re.compile(r"output_blocks\.(\d+)\.[12]\.(in_layers\.0|conv)\.weight")
BLOCK = re.compile(r"(input|output)_blocks\.(\d+)\.0\.")
# The image size by the multipliers of the channels, as in openai's create_model.
SIZES = {
    (1, 2, 3, 4): 64,
    (1, 2, 2, 2): 32,
    (1, 1, 2, 3, 4): 128,
    (1, 1, 2, 2, 4, 4): 256,
}


class Body(NamedTuple):
    """What the weights say."""

    width: int
    mult: tuple[int, ...]
    blocks: int
    attention_levels: tuple[int, ...]
    scale_shift: bool
    resample: str  # block or conv
    classes: int
    channels: int
    outputs: int  # twice the channels with a learned variance


def body_of(weights: Weights) -> Body:
    """Raises UserError for weights that make no network together."""
    try:
        return _body(weights)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"its weights have the names of openai's U-Nets and other shapes ({error!r}): say the"
            " network by --network"
        ) from error


def _body(weights: Weights) -> Body:
    width = weights["time_embed.0.weight"].shape[1]
    ups = {int(m[1]): m[2] for m in map(UP.fullmatch, weights) if m}
    ends = {m[1]: set[int]() for m in map(BLOCK.match, weights) if m}
    for match in filter(None, map(BLOCK.match, weights)):
        ends[match[1]].add(int(match[2]))
    count = len(ends["output"])
    # An upsampling ends each level but the last: so the first one tells the blocks of a level.
    blocks = min(ups, default=count - 1)
    levels = quotient(count, blocks + 1)
    if len(ups) != levels - 1 or len(ends["input"]) != count:
        raise ValueError(f"{len(ups)} upsamplings of {levels} levels")
    firsts = [f"input_blocks.{1 + level * (blocks + 1)}" for level in range(levels)]
    widths = [weights[f"{first}.0.out_layers.3.weight"].shape[0] for first in firsts]
    embedding = weights["input_blocks.1.0.emb_layers.1.weight"].shape[0]
    label = weights.get("label_emb.weight")
    return Body(
        width=width,
        mult=tuple(quotient(one, width) for one in widths),
        blocks=blocks,
        attention_levels=tuple(
            level for level, first in enumerate(firsts) if f"{first}.1.qkv.weight" in weights
        ),
        scale_shift=embedding == 2 * widths[0],
        resample="conv" if "conv" in ups.values() else "block",
        classes=0 if label is None else label.shape[0],
        channels=weights["input_blocks.0.0.weight"].shape[1],
        outputs=weights["out.2.weight"].shape[0],
    )


def infer_openai(body: Body, words: Said) -> tuple[Shaped, list[str]]:
    """(the network, what was guessed). Raises UserError for an image size that nobody knows."""
    notes: list[str] = []
    if words.shape is None:
        if body.mult not in SIZES:
            raise UserError(
                "the size of its images is not in the weights: say it,"
                f" --shape {body.channels},64,64"
            )
        side = SIZES[body.mult]
        shape: tuple[int, ...] = (body.channels, side, side)
        notes.append(f"images of {side}x{side}, by the {len(body.mult)} widths of its channels")
    else:
        shape = words.shape
    options: dict[str, Any] = {
        "width": body.width,
        "mult": list(body.mult),
        "blocks": body.blocks,
        "attention": [shape[1] >> level for level in body.attention_levels],
        "dropout": 0.0,
        "scale_shift": body.scale_shift,
        "resample": body.resample,
        "group": 1,
    }
    if not words.network_options.keys() & {"heads", "head_channels"}:
        heads, note = guess_heads(body)
        options |= heads
        notes.append(note)
    return Shaped("adm_unet", shape, body.classes, options), notes


def guess_heads(body: Body) -> tuple[dict[str, Any], str]:
    """The heads of published models: 64 channels each, or 4 heads."""
    is_imagenet_128 = body.mult == (1, 1, 2, 3, 4) and body.outputs == 2 * body.channels
    if body.resample == "block" and not is_imagenet_128:
        return {"head_channels": 64}, "attention heads of 64 channels, as published models have"
    return {"heads": 4}, "4 attention heads, as published models of this kind have"


def reorder(weights: Weights, network: Any) -> dict[str, Tensor]:
    """Weights whose attention has (head, q|k|v, dim) in the newer order (q|k|v, head, dim)."""
    channels, heads = network.style.head_channels, network.style.heads
    result = dict(weights)
    for name, value in weights.items():
        if ".qkv." in name:
            number = heads or value.shape[0] // 3 // channels
            result[name] = value.unflatten(0, (number, 3, -1)).movedim(0, 1).flatten(0, 2)
    return result


def first_channels(weights: Weights, channels: int) -> dict[str, Tensor]:
    """Weights without the output channels of a learned variance, which follow the image's."""
    result = dict(weights)
    for name in ("out.2.weight", "out.2.bias"):
        result[name] = weights[name][:channels]
    return result
