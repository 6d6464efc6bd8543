"""Small colour pictures without a download: the emoji of an installed font, drawn on white.

The font is Debian's fonts-noto-color-emoji, or any whose file the environment's FEWSTEP_GLYPHS
names. Only single code points are drawn, so that the set does not depend on a layout library, and
so that no picture of the training split differs from a held-out one in nothing but skin or hair.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFont

from fewstep.base.errors import UserError
from fewstep.data.dataset import Arrays, Dataset, split
from fewstep.data.system_files import system_file
from fewstep.data.units import Units

# The labels: blocks of Unicode with at least twenty emoji, first and last code point
# (Unicode's Blocks.txt) ...
BLOCKS = {
    "Miscellaneous Symbols": (0x2600, 0x26FF),
    "Dingbats": (0x2700, 0x27BF),
    "Enclosed Alphanumeric Supplement": (0x1F100, 0x1F1FF),
    "Miscellaneous Symbols and Pictographs": (0x1F300, 0x1F5FF),
    "Emoticons": (0x1F600, 0x1F64F),
    "Transport and Map Symbols": (0x1F680, 0x1F6FF),
    "Supplemental Symbols and Pictographs": (0x1F900, 0x1F9FF),
    "Symbols and Pictographs Extended-A": (0x1FA70, 0x1FAFF),
}
# ... and one more for the others.
OTHERS = (
    (0x00A0, 0x00FF),  # Latin-1 Supplement
    (0x2000, 0x206F),  # General Punctuation
    (0x2100, 0x214F),  # Letterlike Symbols
    (0x2190, 0x21FF),  # Arrows
    (0x2300, 0x23FF),  # Miscellaneous Technical
    (0x2460, 0x24FF),  # Enclosed Alphanumerics
    (0x25A0, 0x25FF),  # Geometric Shapes
    (0x2900, 0x297F),  # Supplemental Arrows-B
    (0x2B00, 0x2BFF),  # Miscellaneous Symbols and Arrows
    (0x3000, 0x303F),  # CJK Symbols and Punctuation
    (0x3200, 0x32FF),  # Enclosed CJK Letters and Months
    (0x1F000, 0x1F02F),  # Mahjong Tiles
    (0x1F0A0, 0x1F0FF),  # Playing Cards
    (0x1F200, 0x1F2FF),  # Enclosed Ideographic Supplement
    (0x1F780, 0x1F7FF),  # Geometric Shapes Extended
)
_NAME = "NotoColorEmoji.ttf"
_SIZE = 109  # the one size of the font's bitmaps, 136x128


def glyphs() -> Dataset:
    """About 1,400 emoji as 3x32x32 pictures, labelled by Unicode block.

    A tenth each is for validation and test.
    """
    return _draw("glyphs", 32)


def glyphs64() -> Dataset:
    """The emoji of `glyphs`, in the same splits, as 3x64x64 pictures."""
    return _draw("glyphs64", 64)


def _draw(name: str, side: int) -> Dataset:
    pictures, labels = zip(*tiles(font_file()), strict=True)
    pixels = np.stack([np.asarray(shrink(tile, side)) for tile in pictures])
    x0 = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()
    everything = Arrays(x0, torch.tensor(labels))
    tenth = len(labels) // 10
    units = Units(127.5, 127.5, clip=True)
    return split(name, everything, (tenth, tenth), len(BLOCKS) + 1, units, "glyphs")


def font_file() -> Path:
    """The font that FEWSTEP_GLYPHS names, or the first of its name in the system's font folders."""
    if choice := os.environ.get("FEWSTEP_GLYPHS"):
        return Path(choice)
    if file := system_file("fonts", _NAME):
        return file
    raise UserError(
        f"no {_NAME} in the font folders: apt-get install fonts-noto-color-emoji, or name its file"
        " in FEWSTEP_GLYPHS"
    )


def tiles(file: Path) -> list[tuple[Image.Image, int]]:
    """The pictures of a font with their labels, by code point, each picture once."""
    try:
        font = ImageFont.truetype(str(file), _SIZE, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise UserError(f"{file}: {error}: expected a colour font such as {_NAME}") from error
    ranges = [*enumerate(BLOCKS.values()), *((len(BLOCKS), other) for other in OTHERS)]
    result: dict[bytes, tuple[Image.Image, int]] = {}
    for label, (first, last) in ranges:
        for point in range(first, last + 1):
            tile = tile_of(font, chr(point))
            if tile is not None:
                result.setdefault(tile.tobytes(), (tile, label))
    if len(result) < 2:
        raise UserError(f"{file} draws no emoji: expected a colour font such as {_NAME}")
    return list(result.values())


def tile_of(font: ImageFont.FreeTypeFont, text: str) -> Image.Image | None:
    """A glyph on a white square with a margin of a sixteenth; None where nothing is drawn."""
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
    if top == bottom:
        return None
    sheet = Image.new("RGB", (right - left + 2, bottom - top + 2), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((1 - left, 1 - top), text, fill="black", font=font, embedded_color=True)
    ink = ImageChops.invert(sheet).getbbox()
    if ink is None:
        return None
    glyph = sheet.crop(ink)
    side = max(glyph.size) * 9 // 8
    square = Image.new("RGB", (side, side), "white")
    square.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
    return square


def shrink(tile: Image.Image, side: int) -> Image.Image:
    """The tile at this side, each pixel the mean of those it covers."""
    return tile.resize((side, side), Image.Resampling.BOX)
