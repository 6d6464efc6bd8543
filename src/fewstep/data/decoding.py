"""One picture: from a file's bytes to grey or RGB bytes, by the table of `fewstep.data.images`."""

from __future__ import annotations

import io
import warnings
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from fewstep.base.errors import UserError
from fewstep.data.archives import shown
from fewstep.data.integrity import damage

SUFFIXES = {
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
    ".tga",
    ".jp2",
}
# Pillow goes by the content and would hand a "photo.png" that is PostScript to Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
PIXELS = 64_000_000  # 192 MB in RGB; Pillow warns at 89 million and refuses 179 million
BYTES = 2**29  # of a file: eight for each pixel

_TURNS = Image.Transpose
UPRIGHT = {
    **{
        2: _TURNS.FLIP_LEFT_RIGHT,
        3: _TURNS.ROTATE_180,
        4: _TURNS.FLIP_TOP_BOTTOM,
        5: _TURNS.TRANSPOSE,
    },
    **{6: _TURNS.ROTATE_270, 7: _TURNS.TRANSVERSE, 8: _TURNS.ROTATE_90},
}
ORIENTATION = 274  # the tag in EXIF


def decoded(name: str, file: IO[bytes]) -> Image.Image:
    """The first frame of a file, upright. Raises UserError for what cannot be decoded."""
    try:
        data = file.read(BYTES + 1)  # whole, which makes a zip compare its checksum
        if len(data) > BYTES or (why := damage(data)):
            raise UserError(f"more than {BYTES} bytes" if len(data) > BYTES else str(why))
        return _decoded(data, name.lower().endswith(".tga"))
    except Exception as error:  # decoders raise whatever they like on damaged files
        told = (
            "is no picture"
            if isinstance(error, UnidentifiedImageError)
            else str(error) or type(error).__name__
        )
        raise UserError(f"{shown(name)}: {shown(told)}: remove or repair it") from error


def _decoded(data: bytes, targa: bool) -> Image.Image:
    """targa: whether it may be one, which nothing in the file tells."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # all of Pillow's are of metadata; what they are about is looked at below
        try:
            opened = Image.open(io.BytesIO(data), formats=(*FORMATS, "TGA") if targa else FORMATS)
        except Image.DecompressionBombError:
            raise UserError(f"many more than {PIXELS} pixels") from None
        with opened:
            if opened.width * opened.height > PIXELS:
                raise UserError(f"{opened.width}x{opened.height}: expected at most {PIXELS} pixels")
            opened.load()
            turn = UPRIGHT.get(_orientation(opened))
            return opened.copy() if turn is None else opened.transpose(turn)


def _orientation(picture: Image.Image) -> int:
    """How a camera was held; 1, upright, where the file's metadata cannot be read, which is no harm
    to its pixels.
    """
    try:
        return int(picture.getexif().get(ORIENTATION, 1))
    except Exception:
        return 1


def eight_bit(name: str, picture: Image.Image) -> Image.Image:
    """The picture in mode L or RGB, by the table of `fewstep.data.images`."""
    if picture.mode == "F":
        raise UserError(f"{shown(name)}: floats of no known range: give the pictures as .npy")
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int32)
        if values.min() < 0 or values.max() > 65535:
            raise UserError(
                f"{shown(name)}: values {values.min()}..{values.max()}: expected 16 bits"
            )
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if picture.has_transparency_data:
        grey, full = picture.mode in ("L", "LA", "La", "1"), picture.convert("RGBA")
        laid = Image.alpha_composite(Image.new("RGBA", full.size, "white"), full)
        return laid.convert("L" if grey else "RGB")
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def resized(picture: Image.Image, size: int) -> Image.Image:
    """The middle square, resized to this side."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side)).resize(
        (size, size), Image.Resampling.LANCZOS
    )


def prepared(name: str, picture: Image.Image, size: int | None) -> np.ndarray:
    """The picture's bytes `[H, W]` or `[H, W, 3]`, cropped and resized where a size is given."""
    plain = eight_bit(name, picture)
    return np.asarray(plain if size is None else resized(plain, size))
