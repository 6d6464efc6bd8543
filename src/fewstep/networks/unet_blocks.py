"""The layers of the convolutional U-Nets; weights have their names in EDM's files.

Source: arXiv 2206.00364.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, silu

from fewstep.base.errors import UserError, require
from fewstep.networks import attention, blocks
from fewstep.networks.attention import attend_pixels
from fewstep.networks.dropout import Masks, drop, probability
from fewstep.networks.transformer_blocks import levels_fit

Taps = tuple[int, ...]
Move = Callable[[Tensor, Tensor], Tensor]


def outer(taps: Taps) -> Tensor:
    """The separable filter of these taps, `[1, 1, n, n]`, with sum 1."""
    row = torch.tensor(taps, dtype=torch.float32)
    return (row[:, None] * row / row.sum().square())[None, None]


# For the taps (1, 1) these two are avg_pool2d and nearest interpolation. On a CPU the depthwise
# convolution is several times faster.
def down(x: Tensor, kernel: Tensor) -> Tensor:
    """Filters and keeps every second pixel."""
    channels = x.shape[1]
    padding = (kernel.shape[-1] - 1) // 2
    kernels = kernel.tile(channels, 1, 1, 1)
    return conv2d(x, kernels, stride=2, padding=padding, groups=channels)


def up(x: Tensor, kernel: Tensor) -> Tensor:
    """Puts zeros between the pixels and filters, times 4."""
    channels = x.shape[1]
    padding = (kernel.shape[-1] - 1) // 2
    kernels = 4 * kernel.tile(channels, 1, 1, 1)
    return conv_transpose2d(x, kernels, stride=2, padding=padding, groups=channels)


class Resample(nn.Module):
    """Halves or doubles both sides, with no weights."""

    resample_filter: Tensor

    def __init__(self, move: Move, taps: Taps) -> None:
        super().__init__()
        self.move = move
        self.register_buffer("resample_filter", outer(taps))

    def forward(self, x: Tensor) -> Tensor:
        return self.move(x, self.resample_filter)


class Conv(nn.Conv2d):
    """A convolution that keeps the sides, after a move if there is one."""

    resample_filter: Tensor

    def __init__(
        self, cin: int, cout: int, kernel: int, move: Move | None = None, taps: Taps = (1, 1)
    ) -> None:
        super().__init__(cin, cout, kernel, padding=kernel // 2)
        self.move = move
        if move:
            self.register_buffer("resample_filter", outer(taps))

    def forward(self, x: Tensor) -> Tensor:
        if self.move:
            x = self.move(x, self.resample_filter)
        return super().forward(x)


class ConvDown(nn.Conv2d):
    """A 3x3 convolution, then the filter and every second pixel: padded once, before both."""

    resample_filter: Tensor

    def __init__(self, cin: int, cout: int, taps: Taps) -> None:
        super().__init__(cin, cout, 3, padding=1 + (len(taps) - 1) // 2)
        self.register_buffer("resample_filter", outer(taps))

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.resample_filter.tile(self.out_channels, 1, 1, 1)
        return conv2d(super().forward(x), kernel, stride=2, groups=self.out_channels)


class GroupNorm(attention.GroupNorm):
    """Normalisation over at most 32 groups of at least `least` channels, in float32 at least."""

    def __init__(self, channels: int, eps: float, least: int) -> None:
        groups = min(32, channels // least)
        if not groups or channels % groups:
            raise UserError(
                f"width and mult give a layer of {channels} channels, which do not split into"
                f" {groups} groups: expected a multiple of 32 as width, or a smaller one of 4"
            )
        super().__init__(groups, channels, eps)


@dataclass(frozen=True, kw_only=True)
class Style:
    """What the blocks of a network have in common."""

    emb: int  # length of the embedding
    dropout: float
    heads: int | None = None  # of an attention; None goes by head_channels
    head_channels: int = 64  # of an attention head
    skip_scale: float = 1.0  # factor of each sum of a branch and its input
    eps: float = 1e-5
    taps: Taps = (1, 1)  # of the filter that resamples
    project: bool = False  # a 1x1 convolution in the skip of each resampling block
    # The embedding scales and shifts after the norm; else it is added before.
    scale_shift: bool = True
    least: int = 4  # channels of a normalisation group

    def at(self, side: int, dropping: Sequence[int] | None) -> Style:
        """Without dropout where `dropping` names sides and this is none of them."""
        return self if dropping is None or side in dropping else replace(self, dropout=0.0)


class Block(blocks.Block):
    """s (x + conv1(mask * silu(norm1(conv0(silu(norm0(x)))) by emb))), then attention if asked.

    Attention is s (x + attention(norm2(x))). `number` is the layer of the dropout mask.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        style: Style,
        number: int,
        move: Move | None = None,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.style = style
        self.number = number
        self.heads = (style.heads or cout // style.head_channels) if attention else 0
        fits = not self.heads or cout % self.heads == 0
        require(fits, "heads", self.heads, f"a divisor of {cout} channels")

        self.norm0 = GroupNorm(cin, style.eps, style.least)
        self.conv0 = Conv(cin, cout, 3, move, style.taps)
        self.affine = nn.Linear(style.emb, cout * (2 if style.scale_shift else 1))
        self.norm1 = GroupNorm(cout, style.eps, style.least)
        self.conv1 = Conv(cout, cout, 3)
        self.skip: nn.Module | None = None
        if cin != cout or (move and style.project):
            self.skip = Conv(cin, cout, 1, move, style.taps)
        elif move:
            self.skip = Resample(move, style.taps)
        if self.heads:
            self.norm2 = GroupNorm(cout, style.eps, style.least)
            self.qkv = Conv(cout, 3 * cout, 1)
            self.proj = Conv(cout, cout, 1)

    def forward(self, x: Tensor, emb: Tensor, masks: Masks | None) -> Tensor:
        # Residual branch.
        modulation = self.affine(emb)[:, :, None, None]
        h = self.conv0(silu(self.norm0(x)))
        if self.style.scale_shift:
            scale, shift = modulation.chunk(2, 1)
            h = torch.addcmul(shift, self.norm1(h), scale + 1)
        else:
            h = self.norm1(h + modulation)
        h = self.conv1(drop(silu(h), self.style.dropout, self.number, masks))
        x = self.sum(h, x if self.skip is None else self.skip(x))

        # Attention.
        if self.heads:
            h = attend_pixels(self.qkv(self.norm2(x)), self.heads)
            x = self.sum(self.proj(h), x)
        return x

    def sum(self, h: Tensor, x: Tensor) -> Tensor:
        return h + x if self.style.skip_scale == 1 else (h + x).mul_(self.style.skip_scale)


class Layer(NamedTuple):
    """A block's place: its name is `HEIGHTxWIDTH_down`, `_up`, `_in` or `_block` and a number."""

    name: str
    cin: int
    cout: int
    move: Move | None = None
    attention: bool = False

    @property
    def side(self) -> int:
        """The first side, the height, of the images that it makes."""
        return int(self.name.partition("x")[0])


@dataclass(frozen=True, kw_only=True)
class Levels:
    """The resolutions of a U-Net and its blocks at each: the images' sides, halved each time."""

    sizes: tuple[int, int]  # height and width of the images
    stem: int  # channels of the first convolution
    widths: tuple[int, ...]  # channels of each level
    blocks: tuple[int, ...]  # of each level, in the encoder; the decoder has one more
    attention: tuple[int, ...]  # heights that have it
    everywhere: bool  # attention in each block of such a level in the decoder, or in the last only

    def level(self, layer: Layer) -> int:
        """How often its images were halved."""
        return (self.sizes[0] // layer.side).bit_length() - 1

    def name(self, level: int, part: str) -> str:
        """The name of a layer of that level."""
        height, width = (size >> level for size in self.sizes)
        return f"{height}x{width}_{part}"

    def attends(self, level: int) -> bool:
        return self.sizes[0] >> level in self.attention

    def encoder(self) -> list[Layer]:
        """Each level's blocks, after a `down` from the one above."""
        layers: list[Layer] = []
        channels = self.stem
        for level, width in enumerate(self.widths):
            if level:
                layers.append(Layer(self.name(level, "down"), channels, channels, down))
            for number in range(self.blocks[level]):
                name = self.name(level, f"block{number}")
                layers.append(Layer(name, channels, width, attention=self.attends(level)))
                channels = width
        return layers

    def decoder(self) -> list[Layer]:
        """Two `in` blocks at the lowest level, then each level's blocks, after an `up` from below.

        Beside its input, a `_block` takes one output of the encoder, from the last to the first.
        """
        skips = [self.stem, *(layer.cout for layer in self.encoder())]
        layers: list[Layer] = []
        channels = skips[-1]
        for level, width in reversed(list(enumerate(self.widths))):
            if level == len(self.widths) - 1:
                layers.append(Layer(self.name(level, "in0"), channels, channels, attention=True))
                layers.append(Layer(self.name(level, "in1"), channels, channels))
            else:
                layers.append(Layer(self.name(level, "up"), channels, channels, up))
            for number in range(self.blocks[level] + 1):
                name = self.name(level, f"block{number}")
                is_last = number == self.blocks[level]
                attends = self.attends(level) and (self.everywhere or is_last)
                layers.append(Layer(name, channels + skips.pop(), width, attention=attends))
                channels = width
        return layers


def check_sizes(
    shape: tuple[int, ...],
    width: int,
    mult: Sequence[int],
    blocks: int,
    dropout: float,
    emb_mult: int,
    augment: int,
) -> None:
    """Raises UserError where a size does not fit."""
    require(width >= 4 and width % 4 == 0, "width", width, "a multiple of 4, at least 4")
    levels_fit(shape, [width * m for m in mult])
    require(blocks > 0, "blocks", blocks, "at least 1 block")
    probability(dropout)
    require(emb_mult > 0, "emb_mult", emb_mult, "at least 1")
    require(augment >= 0, "augment", augment, "a number of augmentation labels, or 0 for none")
