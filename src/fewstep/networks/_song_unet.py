"""The U-Nets of Song et al. as EDM has them: DDPM++ and NCSN++.

Sources: arXiv 2011.13456; 2206.00364, appendix C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from fewstep.base.conditions import apply_mask
from fewstep.base.errors import require
from fewstep.networks.dropout import Masks, masks_for
from fewstep.networks.embedding import Fourier, Positional, rows_of
from fewstep.networks.ends import EndEmbedding
from fewstep.networks.unet_blocks import (
    Block,
    Conv,
    ConvDown,
    GroupNorm,
    Layer,
    Levels,
    Resample,
    Style,
    check_sizes,
    down,
    up,
)

# Of all blocks, where the embedding, dropout and taps are still to be given.
STYLE = Style(
    emb=0,
    dropout=0.0,
    heads=1,
    skip_scale=math.sqrt(0.5),
    eps=1e-6,
    project=True,
    scale_shift=False,
)


def blocks_of_levels(
    blocks: int, level_blocks: Sequence[int] | None, mult: Sequence[int]
) -> tuple[int, ...]:
    """The blocks of each level. Raises UserError for another number of levels."""
    if level_blocks is None:
        return (blocks,) * len(mult)
    fits = len(level_blocks) == len(mult)
    require(fits, "level_blocks", level_blocks, f"{len(mult)} numbers, as in mult")
    return tuple(level_blocks)


def check(fourier_scale: float, noise_mult: int, taps: Sequence[int]) -> None:
    """Raises UserError for options that no network of this kind has."""
    require(0 < fourier_scale < math.inf, "fourier_scale", fourier_scale, "above 0")
    require(noise_mult > 0, "noise_mult", noise_mult, "at least 1")
    even = len(taps) % 2 == 0 and sum(taps) != 0
    require(even, "taps", taps, "an even number of filter taps, such as 1 3 3 1")


def noise_features(kind: str, channels: int, scale: float) -> nn.Module:
    """What the noise label enters as: cosines of fixed or of random frequencies."""
    if kind == "positional":
        return Positional(channels, endpoint=True)
    return Fourier(channels, scale)


class SongUNet(nn.Module):
    """DDPM++ and NCSN++: embedding, encoder and decoder are of several kinds.

    forward(x `[B, C, H, W]`, noise_label `[B]`, cond, masks, end) -> like x. DDPM++ is (positional,
    standard, standard), NCSN++ (fourier, residual, standard). An encoder `skip` or `residual` adds
    the shrunk images to each level, a decoder `skip` sums an image of each level.

    cond: labels `[B]` int64 with -1 for none, features `[B, ...]`, or a dict of "label",
    "features", "augment" and "mask", where x counts as 0 if False. Features are embedded as augment
    labels are: linearly, beside the noise label.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        features: int = 0,
        ends: int = 0,
        *,
        width: int,
        mult: Sequence[int],
        blocks: int,
        level_blocks: Sequence[int] | None,
        attention: Sequence[int],
        dropout: float,
        dropout_resolutions: Sequence[int] | None,
        embedding: str,
        fourier_scale: float,
        encoder: str,
        decoder: str,
        taps: tuple[int, ...],
        noise_mult: int,
        emb_mult: int,
        augment: int,
    ) -> None:
        super().__init__()
        per_level = blocks_of_levels(blocks, level_blocks, mult)
        fewest = min(per_level, default=0)
        check_sizes(shape, width, mult, fewest, dropout, emb_mult, augment)
        check(fourier_scale, noise_mult, taps)
        self.classes = classes
        self.features = features
        self.ends = ends
        self.augment = augment
        self.dropout = dropout
        self.dropout_resolutions = dropout_resolutions

        # Embedding.
        noise = width * noise_mult
        emb = width * emb_mult
        self.map_noise = noise_features(embedding, noise, fourier_scale)
        self.map_label = nn.Linear(classes, noise) if classes else None
        self.map_augment = nn.Linear(augment, noise, bias=False) if augment else None
        self.map_features = nn.Linear(features, noise) if features else None
        self.map_layer0 = nn.Linear(noise, emb)
        self.map_layer1 = nn.Linear(emb, emb)

        # Encoder and decoder.
        self.style = replace(STYLE, emb=emb, dropout=dropout, taps=taps)
        levels = Levels(
            sizes=(shape[1], shape[2]),
            stem=width,
            widths=tuple(width * m for m in mult),
            blocks=per_level,
            attention=tuple(attention),
            everywhere=False,
        )
        self.enc = self.build_encoder(shape[0], levels, encoder)
        self.dec = self.build_decoder(shape[0], levels, decoder)
        initialise(self)
        self.end = EndEmbedding(ends, emb)

    def block(self, layer: Layer, number: int) -> Block:
        """The layer's block, without dropout where its resolution has none."""
        style = self.style.at(layer.side, self.dropout_resolutions)
        return Block(layer.cin, layer.cout, style, number, layer.move, layer.attention)

    def build_encoder(self, images: int, levels: Levels, kind: str) -> nn.ModuleDict:
        stem = Conv(images, levels.stem, 3)
        parts: dict[str, nn.Module] = {levels.name(0, "conv"): stem}
        aux = images
        taps = self.style.taps
        for number, layer in enumerate(levels.encoder()):
            parts[layer.name] = self.block(layer, number)
            side = layer.name.removesuffix("_down")
            if layer.move and kind == "skip":
                parts[f"{side}_aux_down"] = Resample(down, taps)
                parts[f"{side}_aux_skip"] = Conv(aux, layer.cout, 1)
            elif layer.move and kind == "residual":
                parts[f"{side}_aux_residual"] = ConvDown(aux, layer.cout, taps)
                aux = layer.cout
        return nn.ModuleDict(parts)

    def build_decoder(self, images: int, levels: Levels, kind: str) -> nn.ModuleDict:
        parts: dict[str, nn.Module] = {}
        for number, layer in enumerate(levels.decoder(), len(self.enc)):
            parts[layer.name] = self.block(layer, number)
            side, _, block = layer.name.partition("_")
            is_last = block == f"block{levels.blocks[levels.level(layer)]}"
            if is_last and (kind == "skip" or layer.side == levels.sizes[0]):
                if any(name.endswith("aux_conv") for name in parts):
                    parts[f"{side}_aux_up"] = Resample(up, self.style.taps)
                parts[f"{side}_aux_norm"] = GroupNorm(layer.cout, self.style.eps, self.style.least)
                parts[f"{side}_aux_conv"] = Conv(layer.cout, images, 3)
        return nn.ModuleDict(parts)

    def masks(self, rows: int, seeds: Sequence[int]) -> Masks | None:
        """The masks of a batch, one layer per block; None without dropout."""
        return masks_for(rows, seeds, self.dropout)

    def embed(self, noise_label: Tensor, cond: Any, end: Tensor | None) -> Tensor:
        dtype = self.map_layer0.weight.dtype
        rows = rows_of(cond, self.classes, self.features, self.augment, dtype)
        cos, sin = self.map_noise(noise_label).chunk(2, 1)
        emb = torch.cat([sin, cos], 1).to(dtype)
        if self.map_label is not None and rows.label is not None:
            emb = emb + self.map_label(rows.label * math.sqrt(self.classes))
        if self.map_augment is not None and rows.augment is not None:
            emb = emb + self.map_augment(rows.augment)
        if self.map_features is not None:
            emb = emb + self.map_features(rows.features)
        emb = self.map_layer1(silu(self.map_layer0(emb)))
        return silu(self.end(emb, end))

    def forward(
        self,
        x: Tensor,
        noise_label: Tensor,
        cond: Any = None,
        masks: Masks | None = None,
        end: Tensor | None = None,
    ) -> Tensor:
        emb = self.embed(noise_label, cond, end)

        # Encoder.
        h = aux = apply_mask(x, cond)
        skips: list[Tensor] = []
        for name, part in self.enc.items():
            if isinstance(part, Block):
                h = part(h, emb, masks)
                skips.append(h)
            elif name.endswith("aux_down"):
                aux = part(aux)
            elif name.endswith("aux_skip"):
                h = skips[-1] = h + part(aux)
            elif name.endswith("aux_residual"):
                h = skips[-1] = aux = (h + part(aux)) * math.sqrt(0.5)
            else:
                h = part(h)
                skips.append(h)
        return self.decode(h, skips, emb, masks)

    def decode(self, h: Tensor, skips: list[Tensor], emb: Tensor, masks: Masks | None) -> Tensor:
        """The decoder: the image from the lowest level's h and the encoder's outputs."""
        image: Tensor | None = None
        inside = h
        for name, part in self.dec.items():
            if "_block" in name:
                h = torch.cat([h, skips.pop()], 1)
            if isinstance(part, Block):
                h = part(h, emb, masks)
            elif name.endswith("aux_up"):
                image = part(image)
            elif name.endswith("aux_norm"):
                inside = silu(part(h))
            elif image is None:
                image = part(inside)
            else:
                image = part(inside) + image
        assert image is not None  # the last level always ends in one
        return image


def initialise(network: SongUNet) -> None:
    """Xavier's uniform weights, biases of 0; residual branches end near 0, q, k and v are small."""
    gains = {"conv1": 1e-5, "proj": 1e-5, "aux_conv": 1e-5, "qkv": math.sqrt(0.2)}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            gain = next((g for end, g in gains.items() if name.endswith(end)), 1.0)
            nn.init.xavier_uniform_(module.weight, gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
