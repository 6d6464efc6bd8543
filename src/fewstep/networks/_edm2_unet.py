"""The U-Net of EDM2 (arXiv 2312.02696, figure 21), of the layers in `edm2_layers`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pad

from fewstep.base.conditions import apply_mask
from fewstep.base.errors import require
from fewstep.networks import blocks
from fewstep.networks.attention import attend
from fewstep.networks.dropout import Masks, drop, masks_for, probability
from fewstep.networks.edm2_layers import (
    Fourier,
    MPConv,
    MPMlp,
    mp_cat,
    mp_silu,
    mp_sum,
    normalise_weights,
    unit,
)
from fewstep.networks.embedding import rows_of
from fewstep.networks.ends import EndEmbedding
from fewstep.networks.transformer_blocks import levels_fit


@dataclass(frozen=True)
class Common:
    """What all blocks of a network share."""

    embedding: int  # channels of the embedding
    head_channels: int
    residual_balance: float
    attention_balance: float
    clip: float


class Part(NamedTuple):
    """One member of the encoder or the decoder."""

    level: int
    name: str
    inputs: int
    outputs: int


def encoder(channels: int, widths: Sequence[int], blocks: int) -> Iterator[Part]:
    """The encoder in order; the output of each member is a skip connection."""
    yield Part(0, "conv", channels + 1, widths[0])  # one channel of ones stands in for a bias
    now = widths[0]
    for level, width in enumerate(widths):
        if level:
            yield Part(level, "down", now, now)
        for i in range(blocks):
            yield Part(level, f"block{i}", now, width)
            now = width


def decoder(widths: Sequence[int], blocks: int, skips: list[int]) -> Iterator[Part]:
    """The decoder in order; its blocks consume the skips, last first."""
    now = widths[-1]
    for level in reversed(range(len(widths))):
        for name in ("up",) if level < len(widths) - 1 else ("in0", "in1"):
            yield Part(level, name, now, now)
        for i in range(blocks + 1):
            yield Part(level, f"block{i}", now + skips.pop(), widths[level])
            now = widths[level]


class Block(blocks.Block):
    """A residual branch that the embedding scales, then attention if it has heads.

    The encoder's blocks normalise each pixel first; the part "down" halves the resolution first,
    "up" doubles it. `site` is the layer number of its dropout.
    """

    def __init__(
        self,
        part: Part,
        common: Common,
        *,
        encoder: bool,
        attention: bool,
        dropout: float,
        site: int,
    ) -> None:
        super().__init__()
        inputs, outputs = part.inputs, part.outputs
        self.common = common
        self.encoder = encoder
        self.down = part.name == "down"
        self.up = part.name == "up"
        self.dropout = dropout
        self.site = site
        self.heads = outputs // common.head_channels if attention else 0
        fits = not self.heads or outputs % self.heads == 0
        need = f"one that makes equal heads of {outputs} channels"
        require(fits, "head_channels", common.head_channels, need)

        self.emb_gain = nn.Parameter(torch.zeros(()))
        self.conv_res0 = MPConv(outputs if encoder else inputs, outputs, 3)
        self.emb_linear = MPConv(common.embedding, outputs)
        self.conv_res1 = MPConv(outputs, outputs, 3)
        self.conv_skip = MPConv(inputs, outputs, 1) if inputs != outputs else None
        if self.heads:
            self.attn_qkv = MPConv(outputs, 3 * outputs, 1)
            self.attn_proj = MPConv(outputs, outputs, 1)

    def residual(self, x: Tensor, emb: Tensor, masks: Masks | None) -> Tensor:
        """conv(drop(silu(conv(silu(x)) (1 + gain linear(emb)))))."""
        scale = self.emb_linear(emb, self.emb_gain) + 1
        inside = mp_silu(self.conv_res0(mp_silu(x)) * scale[:, :, None, None])
        return self.conv_res1(drop(inside, self.dropout, self.site, masks))

    def attention(self, x: Tensor) -> Tensor:
        """Attention over pixels, q, k, v of unit magnitude; channels are (head, dimension, qkv)."""
        split = self.attn_qkv(x).reshape(x.shape[0], self.heads, -1, 3, x.shape[2] * x.shape[3])
        q, k, v = (part.transpose(2, 3).contiguous() for part in unit(split, [2]).unbind(3))
        return self.attn_proj(attend(q, k, v).transpose(2, 3).reshape(x.shape))

    def forward(self, x: Tensor, emb: Tensor, masks: Masks | None) -> Tensor:
        # Resolution.
        if self.down:
            x = avg_pool2d(x, 2)
        if self.up:
            x = interpolate(x, scale_factor=2.0, mode="nearest")

        # Residual branch.
        skip = x if self.conv_skip is None else self.conv_skip(x)
        if self.encoder:
            skip = x = unit(skip, [1])
        x = mp_sum(skip, self.residual(x, emb, masks), self.common.residual_balance)

        # Attention.
        if self.heads:
            x = mp_sum(x, self.attention(x), self.common.attention_balance)
        return x.clamp(-self.common.clip, self.common.clip)


def check(
    blocks: int, noise_channels: int, embedding: int, head_channels: int, clip: float
) -> None:
    """Raises UserError for options that no network of this kind has."""
    require(blocks > 0, "blocks", blocks, "at least 1 block")
    require(noise_channels > 0, "mult_noise", noise_channels, "channels above 0")
    require(embedding > 0, "mult_emb", embedding, "channels above 0")
    require(head_channels > 0, "head_channels", head_channels, "at least 1 channel")
    require(clip > 0, "clip", clip, "above 0")


class EDM2UNet(nn.Module):
    """The U-Net. forward(x `[B, C, H, W]`, noise_label `[B]`, cond, masks, end) -> like x.

    cond: labels `[B]` int64 (-1 is the zero row that EDM2 drops labels to), features `[B, ...]`, or
    a dict of "label", "features" and "mask". Where the mask is False, x and its channel of ones
    count as 0, as they do beyond the border. Features, with a 1 beside them, are embedded in unit
    magnitude as the image is. Parameters have the names of EDM2's `unet.`. A pass changes no
    weight; the training step calls `normalise_` once instead.
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
        mult_noise: int | None,
        mult_emb: int | None,
        blocks: int,
        attention: Sequence[int],
        head_channels: int,
        label_balance: float,
        concat_balance: float,
        residual_balance: float,
        attention_balance: float,
        clip: float,
        dropout: float,
        dropout_resolutions: Sequence[int] | None,
    ) -> None:
        super().__init__()
        widths = [width * m for m in mult]
        levels_fit(shape, widths)
        noise_channels = width * (mult_noise or mult[0])
        embedding = width * (mult_emb or max(mult))
        check(blocks, noise_channels, embedding, head_channels, clip)
        self.classes = classes
        self.features = features
        self.ends = ends
        self.sizes = shape[1:]
        self.attention = attention
        self.dropout = probability(dropout)
        self.dropout_resolutions = dropout_resolutions
        self.label_balance = label_balance
        self.concat_balance = concat_balance

        # Embedding.
        self.out_gain = nn.Parameter(torch.zeros(()))
        self.emb_fourier = Fourier(noise_channels)
        self.emb_noise = MPConv(noise_channels, embedding)
        self.emb_label = MPConv(classes, embedding) if classes else None
        self.emb_features = MPConv(features + 1, embedding) if features else None

        # Encoder and decoder.
        common = Common(embedding, head_channels, residual_balance, attention_balance, clip)
        down = list(encoder(shape[0], widths, blocks))
        up = list(decoder(widths, blocks, [part.outputs for part in down]))
        self.enc = self.build(down, 0, common, encoder=True)
        self.dec = self.build(up, len(down), common, encoder=False)
        self.out_conv = MPConv(widths[0], shape[0], 3)
        self.end = EndEmbedding(ends, embedding, MPMlp)

    def build(
        self, parts: Sequence[Part], first: int, common: Common, *, encoder: bool
    ) -> nn.ModuleDict:
        """The members by name, numbered from `first` on."""
        members: dict[str, nn.Module] = {}
        for site, part in enumerate(parts, first):
            height, across = (size >> part.level for size in self.sizes)
            name = f"{height}x{across}_{part.name}"
            if part.name == "conv":
                members[name] = MPConv(part.inputs, part.outputs, 3)
                continue
            attends = part.name.startswith("block") and height in self.attention
            drops = self.dropout_resolutions is None or height in self.dropout_resolutions
            members[name] = Block(
                part,
                common,
                encoder=encoder,
                attention=attends or part.name == "in0",
                dropout=self.dropout if drops else 0.0,
                site=site,
            )
        return nn.ModuleDict(members)

    def masks(self, rows: int, seeds: Sequence[int]) -> Masks | None:
        """The masks of a batch, a layer per block; None without dropout."""
        return masks_for(rows, seeds, self.dropout)

    def normalise_(self) -> None:
        """Overwrites the weights by their normalised values: once per step; outputs stay."""
        normalise_weights(self)

    def embed(
        self, noise_label: Tensor, cond: Any, end: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """The embedding `[B, embedding]` of noise label, class, features and end."""
        rows = rows_of(cond, self.classes, self.features, 0, dtype)
        emb = self.emb_noise(self.emb_fourier(noise_label).to(dtype))
        if self.emb_label is not None and rows.label is not None:
            label = rows.label * self.classes**0.5
            emb = mp_sum(emb, self.emb_label(label), self.label_balance)
        if self.emb_features is not None and rows.features is not None:
            given = unit(pad(rows.features, (0, 1), value=1.0), [1])
            emb = mp_sum(emb, self.emb_features(given), self.label_balance)
        return mp_silu(self.end(emb, end))

    def forward(
        self,
        x: Tensor,
        noise_label: Tensor,
        cond: Any = None,
        masks: Masks | None = None,
        end: Tensor | None = None,
    ) -> Tensor:
        emb = self.embed(noise_label, cond, end, x.dtype)

        # Encoder.
        ones = apply_mask(torch.ones_like(x), cond).amax(1, keepdim=True)
        h = torch.cat([apply_mask(x, cond), ones], 1)
        skips: list[Tensor] = []
        for part in self.enc.values():
            h = part(h, emb, masks) if isinstance(part, Block) else part(h)
            skips.append(h)

        # Decoder.
        for name, part in self.dec.items():
            if "block" in name:
                h = mp_cat(h, skips.pop(), self.concat_balance)
            h = part(h, emb, masks)
        return self.out_conv(h, self.out_gain)
