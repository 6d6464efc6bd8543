"""How a network of each kind is asked: (network, x, time, rows of embeddings, micro) -> output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from fewstep.base.errors import UserError, require
from fewstep.networks.attention import written_out

Rows = Mapping[str, Tensor]  # embeddings of prompts, a row for each
GUIDANCE = 3.5  # of FLUX.1-dev, whose network takes it as an input


def ask_unet(
    network: nn.Module, x: Tensor, time: Tensor, rows: Rows, micro: Tensor | None = None
) -> Tensor:
    """Of Stable Diffusion, and with "pooled" in the rows of SDXL."""
    options: dict[str, Any] = {}
    if "pooled" in rows:
        if micro is None:
            raise UserError("micro = None: expected [B, 6]: sizes and crop of pictures, for SDXL")
        summary = {"text_embeds": rows["pooled"].to(x.dtype), "time_ids": micro}
        options["added_cond_kwargs"] = summary
    tokens = rows["tokens"].to(x.dtype)
    with written_out(x, time):
        out: Tensor = network(x, time, encoder_hidden_states=tokens, return_dict=False, **options)[
            0
        ]
    return out


def ask_sd3(
    network: nn.Module, x: Tensor, time: Tensor, rows: Rows, micro: Tensor | None = None
) -> Tensor:
    with written_out(x, time):
        out: Tensor = network(
            hidden_states=x,
            timestep=time,
            encoder_hidden_states=rows["tokens"].to(x.dtype),
            pooled_projections=rows["pooled"].to(x.dtype),
            return_dict=False,
        )[0]
    return out


def ask_flux(
    network: nn.Module, x: Tensor, time: Tensor, rows: Rows, micro: Tensor | None = None
) -> Tensor:
    """Its tokens are patches of 2 x 2 latents, whose places it gets as numbers."""
    height, width = x.shape[-2] // 2, x.shape[-1] // 2
    require(x.shape[-2:] == (2 * height, 2 * width), "latents", tuple(x.shape), "even sides")
    tokens = rows["tokens"].to(x.dtype)
    sides = [torch.arange(side, device=x.device, dtype=x.dtype) for side in (1, height, width)]
    guidance = rows.get("guidance")
    config = getattr(network, "config", None)
    if guidance is None and getattr(config, "guidance_embeds", False):
        guidance = x.new_full((len(x),), GUIDANCE)
    with written_out(x, time), _exact_time(network, time):
        out: Tensor = network(
            hidden_states=pixel_unshuffle(x, 2).flatten(2).transpose(1, 2),
            timestep=time / 1000,  # the network multiplies it by 1000
            guidance=guidance,
            encoder_hidden_states=tokens,
            pooled_projections=rows["pooled"].to(x.dtype),
            txt_ids=x.new_zeros(tokens.shape[1], 3),
            img_ids=torch.cartesian_prod(*sides),
            return_dict=False,
        )[0]
    return pixel_shuffle(out.transpose(1, 2).unflatten(2, (height, width)), 2)


@contextmanager
def _exact_time(network: nn.Module, time: Tensor) -> Iterator[None]:
    """Inside, FLUX's network sees the time as it is: it would round it to its own type first.

    In bfloat16 a grid of 250 steps has 160 times, and neighbours become one.
    """
    embed = getattr(network, "time_text_embed", None)
    if not isinstance(embed, nn.Module):
        yield
        return
    handle = embed.register_forward_pre_hook(lambda _, args: (time, *args[1:]))
    try:
        yield
    finally:
        handle.remove()
