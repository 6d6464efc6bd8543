"""What the convolutional U-Nets are made of; weights have the names that EDM's files give them
(arXiv 2206.00364).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, silu

from fewstep.base.errors import UserError, require
from fewstep.networks import attention
from fewstep.networks.attention import attend_pixels
from fewstep.networks.dropout import Masks, drop, probability

Taps = tuple[int, ...]
Move = Callable[[Tensor, Tensor], Tensor]


def outer(taps: Taps) -> Tensor:
    """The separable filter of these taps, `[1, 1, n, n]`, with sum 1."""
    row = torch.tensor(taps, dtype=torch.float32)
    return (row[:, None] * row / row.sum().square())[None, None]


# On a CPU the depthwise convolution is several times faster than avg_pool2d and nearest
# interpolation,
# which are its values for the taps (1, 1).
def down(x: Tensor, kernel: Tensor) -> Tensor:
    """Filters and keeps every second pixel."""
    n, channels = kernel.shape[-1], x.shape[1]
    return conv2d(
        x, kernel.tile(channels, 1, 1, 1), stride=2, padding=(n - 1) // 2, groups=channels
    )


def up(x: Tensor, kernel: Tensor) -> Tensor:
    """Puts zeros between the pixels and filters, times 4."""
    n, channels = kernel.shape[-1], x.shape[1]
    return conv_transpose2d(
        x, 4 * kernel.tile(channels, 1, 1, 1), stride=2, padding=(n - 1) // 2, groups=channels
    )


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
        return super().forward(self.move(x, self.resample_filter) if self.move else x)


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
    """Normalisation over at most 32 groups of at least `least` channels; statistics are in float32
    at least.
    """

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
    scale_shift: bool = (
        True  # the embedding scales and shifts after the norm; else it is added before
    )
    least: int = 4  # channels of a normalisation group


class Block(nn.Module):
    """s (x + conv1(mask * silu(norm1(conv0(silu(norm0(x)))), given emb))), and s (x +
    attention(norm2(x))) where asked.

    `number` is the layer of its dropout mask.
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
        self.style, self.number = style, number
        self.heads = (style.heads or cout // style.head_channels) if attention else 0
        require(
            not self.heads or cout % self.heads == 0,
            "heads",
            self.heads,
            f"a divisor of {cout} channels",
        )
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
        given = self.affine(emb)[:, :, None, None]
        h = self.conv0(silu(self.norm0(x)))
        if self.style.scale_shift:
            scale, shift = given.chunk(2, 1)
            h = torch.addcmul(shift, self.norm1(h), scale + 1)
        else:
            h = self.norm1(h + given)
        h = self.conv1(drop(silu(h), self.style.dropout, self.number, masks))
        x = self.sum(h, x if self.skip is None else self.skip(x))
        return (
            self.sum(self.proj(attend_pixels(self.qkv(self.norm2(x)), self.heads)), x)
            if self.heads
            else x
        )

    def sum(self, h: Tensor, x: Tensor) -> Tensor:
        return h + x if self.style.skip_scale == 1 else (h + x).mul_(self.style.skip_scale)


class Layer(NamedTuple):
    """A block's place in the network: it is called `SIDExSIDE_down`, `_up`, `_in` or `_block` and a
    number.
    """

    name: str
    cin: int
    cout: int
    move: Move | None = None
    attention: bool = False

    @property
    def side(self) -> int:
        """Of the images that it makes."""
        return int(self.name.partition("x")[0])


@dataclass(frozen=True, kw_only=True)
class Levels:
    """The resolutions of a U-Net and its blocks at each, from the images' side down, halved from
    one to the next.
    """

    size: int  # side of the images
    stem: int  # channels of the first convolution
    widths: tuple[int, ...]  # channels of each level
    blocks: tuple[int, ...]  # of each level, in the encoder; the decoder has one more
    attention: tuple[int, ...]  # sides that have it
    everywhere: bool  # attention in each block of such a level in the decoder, or in the last only

    def level(self, layer: Layer) -> int:
        """How often its images were halved."""
        return (self.size // layer.side).bit_length() - 1

    def encoder(self) -> list[Layer]:
        """Each level's blocks, after a `down` from the one above."""
        layers: list[Layer] = []
        channels = self.stem
        for level, width in enumerate(self.widths):
            side = self.size >> level
            if level:
                layers.append(Layer(f"{side}x{side}_down", channels, channels, down))
            for number in range(self.blocks[level]):
                layers.append(
                    Layer(
                        f"{side}x{side}_block{number}",
                        channels,
                        width,
                        None,
                        side in self.attention,
                    )
                )
                channels = width
        return layers

    def decoder(self) -> list[Layer]:
        """Two `in` blocks at the lowest level, then each level's blocks, after an `up` from the one
        below.

        A `_block` sees, beside its input, one output of the encoder, from the last to the first.
        """
        skips = [self.stem, *(layer.cout for layer in self.encoder())]
        layers: list[Layer] = []
        channels = skips[-1]
        for level, width in reversed(list(enumerate(self.widths))):
            side = self.size >> level
            if level == len(self.widths) - 1:
                layers.append(Layer(f"{side}x{side}_in0", channels, channels, None, True))
                layers.append(Layer(f"{side}x{side}_in1", channels, channels))
            else:
                layers.append(Layer(f"{side}x{side}_up", channels, channels, up))
            for number in range(self.blocks[level] + 1):
                sees = side in self.attention and (self.everywhere or number == self.blocks[level])
                layers.append(
                    Layer(f"{side}x{side}_block{number}", channels + skips.pop(), width, None, sees)
                )
                channels = width
        return layers


def image_size(
    shape: tuple[int, ...],
    width: int,
    mult: Sequence[int],
    blocks: int,
    dropout: float,
    emb_mult: int,
    augment: int,
) -> tuple[int, int]:
    """Channels and side of the images, once all sizes are known to fit."""
    require(
        len(shape) == 3 and shape[1] == shape[2],
        "shape",
        shape,
        "square images (channels, side, side); --data-size crops pictures of files",
    )
    require(width >= 4 and width % 4 == 0, "width", width, "a multiple of 4, at least 4")
    require(bool(mult) and min(mult) > 0, "mult", mult, "a positive factor for each resolution")
    require(blocks > 0, "blocks", blocks, "at least 1 block")
    probability(dropout)
    require(emb_mult > 0, "emb_mult", emb_mult, "at least 1")
    require(augment >= 0, "augment", augment, "a number of augmentation labels, or 0 for none")
    factor = 2 ** (len(mult) - 1)
    fits = shape[1] % factor == 0
    require(
        fits,
        "shape",
        shape,
        f"a side that is a multiple of {factor} for the {len(mult)} levels of mult = {mult}",
    )
    return shape[0], shape[1]
