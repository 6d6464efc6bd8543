"""The U-Net of Dhariwal & Nichol, ADM, as EDM and consistency models have it.

Sources: arXiv 2105.05233; 2206.00364.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from fewstep.base.conditions import apply_mask
from fewstep.base.errors import require
from fewstep.networks.dropout import Masks, masks_for
from fewstep.networks.embedding import Positional, rows_of
from fewstep.networks.ends import EndEmbedding
from fewstep.networks.unet_blocks import (
    Block,
    Conv,
    GroupNorm,
    Layer,
    Levels,
    Style,
    check_sizes,
    up,
)


def check(head_channels: int, heads: int | None, group: int) -> None:
    """Raises UserError for options that no network of this kind has."""
    require(head_channels > 0, "head_channels", head_channels, "at least 1 channel")
    need = "at least 1 head, or None to go by head_channels"
    require(heads is None or heads > 0, "heads", heads, need)
    require(group > 0, "group", group, "at least 1 channel")


class AdmUNet(nn.Module):
    """ADM. forward(x `[B, C, H, W]`, noise_label `[B]`, cond, masks, end) -> like x.

    cond: labels `[B]` int64 with -1 for none, features `[B, ...]`, or a dict of "label",
    "features", "augment" and "mask", where x counts as 0 if False. Features are embedded as augment
    labels are: linearly, beside the noise label. Weights are named as in EDM's files;
    `fewstep.networks.openai_weights` translates from and to openai's.
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
        attention: Sequence[int],
        dropout: float,
        dropout_resolutions: Sequence[int] | None,
        head_channels: int,
        heads: int | None,
        scale_shift: bool,
        resample: str,
        group: int,
        emb_mult: int,
        augment: int,
    ) -> None:
        super().__init__()
        check_sizes(shape, width, mult, blocks, dropout, emb_mult, augment)
        check(head_channels, heads, group)
        self.classes = classes
        self.features = features
        self.ends = ends
        self.augment = augment
        self.dropout = dropout
        self.dropout_resolutions = dropout_resolutions
        self.plain = resample == "conv"

        # Embedding.
        emb = width * emb_mult
        self.map_noise = Positional(width)
        self.map_augment = nn.Linear(augment, width, bias=False) if augment else None
        self.map_features = nn.Linear(features, width) if features else None
        self.map_layer0 = nn.Linear(width, emb)
        self.map_layer1 = nn.Linear(emb, emb)
        self.map_label = nn.Linear(classes, emb, bias=False) if classes else None

        # Encoder and decoder.
        self.style = Style(
            emb=emb,
            dropout=dropout,
            heads=heads,
            head_channels=head_channels,
            scale_shift=scale_shift,
            least=group,
        )
        widths = tuple(width * m for m in mult)
        levels = Levels(
            sizes=(shape[1], shape[2]),
            stem=widths[0],
            widths=widths,
            blocks=(blocks,) * len(widths),
            attention=tuple(attention),
            everywhere=True,
        )
        self.enc = nn.ModuleDict({levels.name(0, "conv"): Conv(shape[0], widths[0], 3)})
        self.enc.update(self.build(levels.encoder(), 0))
        self.dec = nn.ModuleDict(self.build(levels.decoder(), len(self.enc)))
        self.out_norm = GroupNorm(widths[0], self.style.eps, group)
        self.out_conv = Conv(widths[0], shape[0], 3)
        initialise(self)
        self.end = EndEmbedding(ends, emb)

    def build(self, layers: list[Layer], first: int) -> dict[str, nn.Module]:
        """The blocks by name; where `plain`, those that resample are single convolutions."""

        def part(number: int, layer: Layer) -> nn.Module:
            if layer.move is None or not self.plain:
                style = self.style.at(layer.side, self.dropout_resolutions)
                return Block(layer.cin, layer.cout, style, number, layer.move, layer.attention)
            if layer.move is up:
                return Conv(layer.cin, layer.cout, 3, up)
            return nn.Conv2d(layer.cin, layer.cout, 3, stride=2, padding=1)

        return {layer.name: part(number, layer) for number, layer in enumerate(layers, first)}

    def masks(self, rows: int, seeds: Sequence[int]) -> Masks | None:
        """The masks of a batch, one layer per block; None without dropout."""
        return masks_for(rows, seeds, self.dropout)

    def embed(self, noise_label: Tensor, cond: Any, end: Tensor | None) -> Tensor:
        dtype = self.map_layer0.weight.dtype
        rows = rows_of(cond, self.classes, self.features, self.augment, dtype)
        emb = self.map_noise(noise_label).to(dtype)
        if self.map_augment is not None and rows.augment is not None:
            emb = emb + self.map_augment(rows.augment)
        if self.map_features is not None:
            emb = emb + self.map_features(rows.features)
        emb = self.map_layer1(silu(self.map_layer0(emb)))
        if self.map_label is not None:
            emb = emb + self.map_label(rows.label)
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
        h = apply_mask(x, cond)
        skips: list[Tensor] = []
        for part in self.enc.values():
            h = part(h, emb, masks) if isinstance(part, Block) else part(h)
            skips.append(h)

        # Decoder.
        for name, part in self.dec.items():
            if "_block" in name:
                h = torch.cat([h, skips.pop()], 1)
            h = part(h, emb, masks) if isinstance(part, Block) else part(h)
        return self.out_conv(silu(self.out_norm(h)))


def initialise(network: AdmUNet) -> None:
    """Zeros where a residual branch and the network end, N(0, 1) for labels, else torch's own."""
    for name, module in network.named_modules():
        if name.endswith(("conv1", "proj", "out_conv", "map_augment")):
            for weight in module.parameters():
                nn.init.zeros_(weight)
    if network.map_label is not None:
        nn.init.normal_(network.map_label.weight)
