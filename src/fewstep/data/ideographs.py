"""Grey pictures without a download: the Chinese characters of installed fonts, black on white.

They are the unified ideographs U+4E00 .. U+9FFF that all the fonts draw and that Unihan's table
knows. The fonts are Debian's fonts-noto-cjk, sans and serif, regular and bold, or those whose files
the environment's FEWSTEP_HANZI names; the table is Debian's unicode-data, or the file that
FEWSTEP_UNIHAN names. Of a collection the face for simplified Chinese (SC) is taken: its standard,
GB 18030, has the whole block.
"""

from __future__ import annotations

import bz2
import hashlib
import os
import re
import unicodedata
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, features
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from fewstep.base.cache import cache_file, keep
from fewstep.base.errors import UserError
from fewstep.base.progress import Progress
from fewstep.data.columns import Names
from fewstep.data.dataset import Arrays, Dataset, shuffle
from fewstep.data.emoji import shrink
from fewstep.data.system_files import system_file
from fewstep.data.tensors import names_of
from fewstep.data.units import Units

POINTS = range(0x4E00, 0xA000)  # the block CJK Unified Ideographs
RADICALS = 214  # of the Kangxi dictionary
# The radicals as characters of their own.
_CLASSES = tuple(unicodedata.normalize("NFKC", chr(0x2F00 + i)) for i in range(RADICALS))
HELD_OUT = 2000  # characters for validation, and as many for test
SIDE = 32
_FONTS = (
    *("NotoSansCJK-Regular.ttc", "NotoSansCJK-Bold.ttc"),
    *("NotoSerifCJK-Regular.ttc", "NotoSerifCJK-Bold.ttc"),
)
_TABLES = ("Unihan_IRGSources.txt.bz2", "Unihan_IRGSources.txt")
_SUFFIX = ".drawings"
_MOST = 2**30  # bytes of what a file of drawings holds
_BROKEN = (OSError, zlib.error, SafetensorError, KeyError, ValueError)  # of such a file
_EM = 4 * SIDE  # pixels, of which 4 x 4 become one
_BASELINE = 0.88  # of the em, from its top: the ideographic em-box of OpenType
_GREYS = 16  # 4 bits, so that a file of all pictures has 20 MB
_RADICAL = re.compile(r"U\+([0-9A-F]{4,6})\tkRSUnicode\t(\d{1,3})'*\.")


class Drawings(NamedTuple):
    """Pictures `[N, faces, 32, 32]` of 0 (black) .. 15 in bytes, their code points and radicals."""

    pictures: np.ndarray
    points: np.ndarray  # [N]
    radicals: np.ndarray  # [N], 0 .. 213


def hanzi() -> Dataset:
    """About 21,000 characters in four faces as 1x32x32 pictures, labelled by Kangxi radical.

    No face of a held-out character is in training. 2,000 characters each are for validation and
    test, each of them in one face, so that held-out rows are independent.
    """
    return _dataset("hanzi", 1)


def hanzi16() -> Dataset:
    """The characters of `hanzi`, in the same splits, as 1x16x16 pictures."""
    return _dataset("hanzi16", 2)


def _dataset(name: str, cell: int) -> Dataset:
    """cell: side of the square of pixels that become their mean."""
    drawings = load_drawings()
    count, faces = drawings.pictures.shape[:2]
    grey = torch.from_numpy(drawings.pictures).flatten(0, 1)[:, None]
    x0 = _means(grey, cell).mul_(2 / (_GREYS - 1)).sub_(1)
    everything = Arrays(x0, torch.from_numpy(drawings.radicals).long().repeat_interleave(faces))
    held_out = min(HELD_OUT, count // 10)
    # Rows of a character are together, a face each: all, or one in turn.
    first = shuffle("ideographs", count) * faces
    every, one = torch.arange(faces), torch.arange(held_out) % faces
    train = everything.rows((first[2 * held_out :, None] + every).flatten())
    validation = everything.rows(first[:held_out] + one)
    test = everything.rows(first[held_out : 2 * held_out] + one)
    units = Units(127.5, 127.5, clip=True)
    names = names_of(Names(classes=_CLASSES, label="radical"), train.cond, RADICALS)
    return Dataset(name, train, validation, test, RADICALS, units, names=names)


def _means(grey: Tensor, cell: int) -> Tensor:
    """`[N, 1, H, W]` in float32: the mean of each square of cell x cell pixels."""
    whole = sum(grey[..., i::cell, j::cell].float() for i in range(cell) for j in range(cell))
    assert isinstance(whole, Tensor)
    return whole.div_(cell**2)


def load_drawings() -> Drawings:
    """The pictures of the fonts, from the cache or drawn anew; or of the file of FEWSTEP_HANZI.

    Raises UserError where fonts, table or file are missing or of another kind.
    """
    choice = os.environ.get("FEWSTEP_HANZI", "")
    if choice.endswith(_SUFFIX):
        try:
            return read_drawings(Path(choice))
        except _BROKEN as error:
            raise UserError(
                f"FEWSTEP_HANZI: {choice}: {error}: expected font files, or pictures that"
                " fewstep.data.ideographs.write_drawings wrote"
            ) from None
    fonts = [Path(part) for part in choice.split(os.pathsep)] if choice else _system_fonts()
    table = _table()
    file = cache_file(f"hanzi-{_digest([*fonts, table])}{_SUFFIX}")
    try:
        return read_drawings(file)
    except _BROKEN:
        drawings = draw(fonts, read_radicals(table))
        keep(file, lambda part: write_drawings(drawings, part))
        return drawings


def _system_fonts() -> list[Path]:
    files = []
    for name in _FONTS:
        file = system_file("fonts", name)
        if file is None:
            raise UserError(
                f"no {name} in the font folders: apt-get install fonts-noto-cjk, or name font files"
                f" in FEWSTEP_HANZI, with {os.pathsep!r} between them"
            )
        files.append(file)
    return files


def _table() -> Path:
    if choice := os.environ.get("FEWSTEP_UNIHAN"):
        return Path(choice)
    for name in _TABLES:
        if file := system_file("unicode", name):
            return file
    raise UserError(
        f"no {_TABLES[0]} in /usr/share/unicode: apt-get install unicode-data, or name the file in"
        " FEWSTEP_UNIHAN"
    )


def _digest(files: list[Path]) -> str:
    """Of all that the pictures depend on."""
    digest = hashlib.sha256(f"{_EM}|{_BASELINE}|{_GREYS}|{features.version('freetype2')}".encode())
    for file in files:
        try:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror}") from None
    return digest.hexdigest()[:16]


def read_radicals(file: Path) -> dict[int, int]:
    """Code point -> number of its first radical, from 0, by Unihan's lines of kRSUnicode.

    Raises UserError for a file without such lines.
    """
    try:
        content = file.read_bytes()
        text = (bz2.decompress(content) if file.suffix == ".bz2" else content).decode()
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: {error}: expected {_TABLES[1]}, or the same as .bz2") from None
    numbers = {int(point, 16): int(radical) - 1 for point, radical in _RADICAL.findall(text)}
    radicals = {point: radical for point, radical in numbers.items() if point in POINTS}
    if not radicals or not all(0 <= radical < RADICALS for radical in radicals.values()):
        raise UserError(f"{file} has no radicals (kRSUnicode) 1 .. 214: expected {_TABLES[1]}")
    return radicals


def draw(files: list[Path], radicals: dict[int, int]) -> Drawings:
    """The characters with a radical that all the fonts draw, each picture once.

    Raises UserError for fewer than 10 characters.
    """
    fonts = [face(file) for file in files]
    # What a font draws for no character, and white; then also what it drew for another one.
    others = [{_tile(font, chr(0x10FFFF)), bytes([_GREYS - 1]) * SIDE**2} for font in fonts]
    points, pictures = [], []
    with Progress(len(radicals), "character") as progress:
        for point in sorted(radicals):
            tiles = [_tile(font, chr(point)) for font in fonts]
            if not any(tile in other for tile, other in zip(tiles, others, strict=True)):
                points.append(point)
                pictures.append(b"".join(tiles))
                for tile, other in zip(tiles, others, strict=True):
                    other.add(tile)
            progress.update()
    if len(points) < 10:
        raise UserError(
            f"{', '.join(map(str, files))}: {len(points)} characters of U+4E00 .. U+9FFF are in all"
            " of them: expected fonts for Chinese"
        )
    shape = len(points), len(fonts), SIDE, SIDE
    numbers = np.array([radicals[point] for point in points], np.uint8)
    grey = np.frombuffer(bytearray(b"".join(pictures)), np.uint8).reshape(shape)
    return Drawings(grey, np.array(points, np.uint16), numbers)


def face(file: Path) -> ImageFont.FreeTypeFont:
    """The face for simplified Chinese (SC), or the first one."""
    faces: list[ImageFont.FreeTypeFont] = []
    basic = ImageFont.Layout.BASIC
    try:
        while not faces or not (faces[-1].getname()[0] or "").endswith(" SC"):
            faces.append(ImageFont.truetype(str(file), _EM, len(faces), layout_engine=basic))
        return faces[-1]
    except OSError as error:
        if not faces:
            raise UserError(f"{file}: {error}: expected a font for Chinese") from None
        return faces[0]


def _tile(font: ImageFont.FreeTypeFont, text: str) -> bytes:
    """The em-box as 32 x 32 bytes of 0 (black) .. 15, the nearest grey of each pixel's mean."""
    sheet = Image.new("L", (_EM, _EM), 255)
    ImageDraw.Draw(sheet).text((0, _BASELINE * _EM), text, fill=0, font=font, anchor="ls")
    step = 255 // (_GREYS - 1)
    return shrink(sheet, SIDE).point(lambda value: (value + step // 2) // step).tobytes()


def write_drawings(drawings: Drawings, file: Path) -> None:
    """Writes two pixels to a byte, as safetensors, compressed by zlib with its checksum."""
    pixels = drawings.pictures
    arrays = {"pictures": pixels[..., ::2] << 4 | pixels[..., 1::2]}
    arrays |= {"points": drawings.points, "radicals": drawings.radicals}
    file.write_bytes(zlib.compress(save(arrays)))


def read_drawings(file: Path) -> Drawings:
    """What `write_drawings` wrote. Raises the errors of `_BROKEN`."""
    unpacking = zlib.decompressobj()
    content = unpacking.decompress(file.read_bytes(), _MOST)
    if not unpacking.eof:  # so that its checksum is right, too
        raise ValueError("the file ends early")
    arrays = load(content)
    pairs, points, radicals = (arrays[name] for name in ("pictures", "points", "radicals"))
    count = len(points)
    if pairs.dtype != np.uint8 or pairs.ndim != 4 or pairs.shape[2:] != (SIDE, SIDE // 2):
        raise ValueError(f"pictures of shape {pairs.shape}")
    if len(pairs) != count or radicals.shape != (count,) or not (radicals < RADICALS).all():
        raise ValueError("no radical for each picture")
    pictures = np.stack([pairs >> 4, pairs & 15], -1).reshape(*pairs.shape[:3], SIDE)
    return Drawings(pictures, points, radicals)
