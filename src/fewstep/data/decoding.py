"""One picture: from a file to grey or RGB numbers, by the table of `fewstep.data.images`.

Two kinds of damage that decoders do not report are looked for here: a PNG chunk whose CRC-32 is
wrong (Pillow skips those of the pixels), and a PNG or JPEG without its end mark. A changed bit in
the coded middle of a JPEG decodes to other pixels, and nothing can tell, since the format has no
checksum; nor have BMP, GIF, PPM, TGA, TIFF and WebP. In a zip every file has one, and it is
checked.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from fewstep.base.errors import UserError
from fewstep.data.archives import printable

SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"),
    *(".tga", ".jp2"),
}
# Pillow goes by the content and would hand a "photo.png" that is PostScript to Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
PIXELS = 64_000_000  # 192 MB in RGB; Pillow warns at 89 million and refuses 179 million
DEEP = 65535  # the largest value of 16 bits
BYTES = 2**29  # of a file: eight for each pixel

FRAMES = "has other frames"  # a mark of pictures that are the first of several
CUT = "lower bits are lost"  # a mark of pictures that Pillow has cut from 16 bits to eight

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION = 274  # the tag in EXIF
EXIF = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}  # where a PNG may have it

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_JPEG_APP = {bytes([0xFF, kind]) for kind in range(0xE0, 0xF0)}  # marks of applications' segments
_JPEG_END = b"\xff\xd9"


@contextmanager
def no_warnings() -> Iterator[None]:
    """Pillow warns of metadata alone; what matters of it is looked at."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode(name: str, file: IO[bytes]) -> Image.Image:
    """The first frame of a file, upright. Raises UserError for what cannot be decoded."""
    with no_warnings():
        return read_picture(name, file)


def read_picture(name: str, file: IO[bytes]) -> Image.Image:
    """Likewise, inside of `no_warnings`, which takes a while."""
    try:
        data = file.read(BYTES + 1)  # whole, which makes a zip compare its checksum
        if len(data) > BYTES:
            raise UserError(f"more than {BYTES} bytes")
        if why := damage(data):
            raise UserError(why)
        return _decode(data, name.lower().endswith(".tga"))
    except UnidentifiedImageError as error:
        raise UserError(f"{printable(name)}: is no picture: remove or repair it") from error
    except Exception as error:  # decoders raise whatever they like on damaged files
        message = printable(str(error) or type(error).__name__)
        raise UserError(f"{printable(name)}: {message}: remove or repair it") from error


def _decode(data: bytes, targa: bool) -> Image.Image:
    """targa: whether it may be one, which nothing in the file tells."""
    formats = (*FORMATS, "TGA") if targa else FORMATS
    try:
        source = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError:
        raise UserError(f"many more than {PIXELS} pixels") from None
    with source:
        width, height = source.size
        if width * height > PIXELS:
            raise UserError(f"{width}x{height}: expected at most {PIXELS} pixels")
        is_deep = ";16" in repr(source.tile)
        source.load()
        if is_deep and not source.mode.startswith("I"):
            source.info[CUT] = True
        turn = UPRIGHT.get(_orientation(source))
        picture = source.copy() if turn is None else source.transpose(turn)
        if _has_frames(source):
            picture.info[FRAMES] = True
        return picture


def _has_frames(picture: Image.Image) -> bool:
    """Whether more frames follow the first; not where they cannot be read: the first is sound."""
    try:
        return bool(getattr(picture, "is_animated", False))
    except Exception:
        return False


def _orientation(picture: Image.Image) -> int:
    """How the camera was held; 1, upright, where the metadata is broken: the pixels are sound."""
    if picture.format == "PNG" and not EXIF & picture.info.keys():
        return 1  # without the time that an empty EXIF takes
    try:
        return int(picture.getexif().get(ORIENTATION, 1))
    except Exception:
        return 1


def damage(data: bytes) -> str | None:
    """What is wrong with the bytes of a PNG or JPEG; None where nothing is found."""
    if data.startswith(PNG):
        return _png_damage(data)
    if data.startswith(JPEG) and not _has_jpeg_end(data):
        return "truncated: it has no end"
    return None


def _png_damage(data: bytes) -> str | None:
    start = len(PNG)
    while start + 12 <= len(data):
        kind = data[start + 4 : start + 8]
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        if end + 4 > len(data):
            break
        checksum = int.from_bytes(data[end : end + 4], "big")
        if zlib.crc32(memoryview(data)[start + 4 : end]) != checksum:
            return f"damaged: the checksum of its {kind.decode('latin1')} chunk is wrong"
        if kind == b"IEND":
            return None
        start = end + 4
    return "truncated: it has no end"


def _has_jpeg_end(data: bytes) -> bool:
    """Whether a JPEG has an end mark behind its applications' segments.

    These come first, and a thumbnail in one of them has an end mark of its own.
    """
    start = 2
    while data[start : start + 2] in _JPEG_APP:
        start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    return data.find(_JPEG_END, start) >= 0


def plain(name: str, picture: Image.Image) -> Image.Image:
    """The picture in mode L, RGB or, of 16 bits, F, by the table of `fewstep.data.images`."""
    if picture.mode == "F":
        raise UserError(f"{printable(name)}: floats of no known range: give the pictures as .npy")
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int32)
        low, high = values.min(), values.max()
        if low < 0 or high > DEEP:
            raise UserError(
                f"{printable(name)}: values {low}..{high}: expected 0..{DEEP}: give them as .npy"
            )
        return Image.fromarray(values.astype(np.float32))
    if picture.has_transparency_data:
        full = picture.convert("RGBA")
        white = Image.new("RGBA", full.size, "white")
        is_grey = picture.mode in ("L", "LA", "La", "1")
        return Image.alpha_composite(white, full).convert("L" if is_grey else "RGB")
    mode = "L" if picture.mode in ("1", "L") else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def crop_and_resize(picture: Image.Image, size: int) -> Image.Image:
    """The middle square, resized to this side."""
    side = min(picture.size)
    left = (picture.width - side) // 2
    top = (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.LANCZOS)


def to_array(name: str, picture: Image.Image, size: int | None) -> np.ndarray:
    """The picture as `[H, W]` or `[H, W, 3]`, cropped and resized where a size is given.

    Bytes, or of 16 bits float32 in 0 .. 65535.
    """
    result = plain(name, picture)
    if size is None:
        return np.asarray(result)
    values = np.asarray(crop_and_resize(result, size))
    return values.clip(0, DEEP) if result.mode == "F" else values  # Lanczos may go beyond
