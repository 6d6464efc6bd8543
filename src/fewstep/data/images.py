"""Pictures of a folder or zip as bytes `[N, C, H, W]`, and their labels; every kind of file has one rule.

| file | becomes |
|---|---|
| 1-bit, grey (1, L) | grey |
| 16-bit grey (I;16, I) | grey, divided by 257; values beyond 65535 are refused |
| RGB, CMYK, YCbCr, LAB, HSV, palette (P) | RGB |
| transparency (LA, RGBA, PA, La, RGBa, or declared beside P, L, RGB) | laid on white: grey or RGB |
| 32-bit float (F) | refused: give .npy |
| EXIF orientation | turned upright |
| several frames (GIF, APNG, TIFF, WebP) | the first |
| other sizes than the first file's | refused by name, unless `size` is given: middle square, resized (Lanczos) |
| truncated, corrupt, or not what the suffix says | refused by name |
| hidden files and folders (.name, __MACOSX) | skipped |
| other suffixes | skipped, and counted in a warning |

A set of grey files has one channel; one with any colour has three. Files come in the order of their names.
Labels: `dataset.json` at the top with {"labels": [[name, label], ...]} as EDM writes it (floats or lists of numbers are
features, null is none); without it the sub-folder at the top, in the order of names, where there are at least two
and no picture lies beside them.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fewstep.errors import UserError

log = logging.getLogger("fewstep")

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".tga", ".jp2"}
Files = dict[str, Callable[[], IO[bytes]]]  # how to open each file, by its name below the top


def read(path: Path, size: int | None = None) -> dict[str, Any]:
    """{"x0": bytes `[N, C, H, W]`, "cond": labels, features or None} of a folder or zip."""
    try:
        with zipfile.ZipFile(path) if path.is_file() else _Folder(path) as source:
            return _read(path, _files(source), size)
    except UserError:
        raise
    except (OSError, zipfile.BadZipFile, RuntimeError) as error:  # the last: encrypted, or of unknown compression
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


class _Folder:
    """A folder with the two methods of an open zip that are used here."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def namelist(self) -> list[str]:
        return [p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file()]

    def open(self, name: str) -> IO[bytes]:
        return (self.path / name).open("rb")


def _files(source: zipfile.ZipFile | _Folder) -> Files:
    names = [name for name in source.namelist() if not name.endswith("/")]
    seen = [n for n in names if not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(n).parts)]
    return {name: partial(source.open, name) for name in sorted(seen)}


def _read(path: Path, files: Files, size: int | None) -> dict[str, Any]:
    names = [name for name in files if PurePosixPath(name).suffix.lower() in SUFFIXES]
    others = [name for name in files if name not in set(names) | {"dataset.json"}]
    if not names:
        raise UserError(f"{path} holds no pictures: expected files that end in {', '.join(sorted(SUFFIXES))}")
    if others:
        log.warning("fewstep: %s: skipped %s files that are no pictures, the first is %s", path, len(others), others[0])
    cond = _listed(path, files, names) if "dataset.json" in files else _sub_folders(names)

    def pictures() -> Iterable[tuple[str, Image.Image]]:
        for name in names:
            with files[name]() as file:
                yield f"{path}/{name}", decoded(f"{path}/{name}", file)

    return {"x0": stack(pictures(), size), "cond": cond}


def _listed(path: Path, files: Files, names: list[str]) -> Any:
    """Labels or features of `dataset.json`, in the order of the names."""
    try:
        with files["dataset.json"]() as file:
            labels = json.load(file)["labels"]
        found = dict.fromkeys(names) if labels is None else dict(labels)
        lost = next((name for name in names if name not in found), None)
        rows = np.array([found[name] for name in names if name in found])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path}/dataset.json: expected {{"labels": [[name, label], ...]}}') from error
    if lost is not None:
        raise UserError(f"{path}/dataset.json has no label for {lost}")
    return None if labels is None else rows


def _sub_folders(names: list[str]) -> Any:
    """The number of each file's folder at the top; None with fewer than two."""
    tops = [PurePosixPath(name).parts[0] if "/" in name else "" for name in names]
    classes, labels = np.unique(tops, return_inverse=True)
    if "" in tops and len(classes) > 1:
        raise UserError(f"{names[tops.index('')]} lies beside sub-folders: put every picture in one, or none")
    return labels if len(classes) > 1 else None


def decoded(name: str, file: IO[bytes]) -> Image.Image:
    """The first frame of a file, upright. Raises UserError for what cannot be decoded."""
    try:
        with Image.open(file) as opened:
            opened.load()
            return ImageOps.exif_transpose(opened)
    except Exception as error:  # decoders raise whatever they like on damaged files
        told = "is no picture" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
        raise UserError(f"{name}: {told}: remove or repair it") from error


def eight_bit(name: str, picture: Image.Image) -> Image.Image:
    """The picture in mode L or RGB, by the table above."""
    if picture.mode == "F":
        raise UserError(f"{name}: floats of no known range: give the pictures as .npy")
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UserError(f"{name}: values {values.min()}..{values.max()}: expected 16 bits")
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
    return picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)


def stack(pictures: Iterable[tuple[str, Image.Image]], size: int | None) -> np.ndarray:
    """Named pictures as bytes `[N, C, H, W]`, one channel where all are grey."""
    kept: list[np.ndarray] = []
    wanted: tuple[str, tuple[int, int]] | None = None
    for name, picture in pictures:
        plain = eight_bit(name, picture)
        plain = plain if size is None else resized(plain, size)
        wanted = wanted or (name, plain.size)
        if plain.size != wanted[1]:
            told = [f"{w}x{h}" for w, h in (plain.size, wanted[1])]
            raise UserError(
                f"{name} is {told[0]}, {wanted[0]} is {told[1]}: --data-size N crops and resizes all to N x N"
            )
        kept.append(np.asarray(plain))
    if all(x.ndim == 2 for x in kept):
        return np.stack(kept)[:, None]
    colour = [x if x.ndim == 3 else np.repeat(x[:, :, None], 3, 2) for x in kept]
    return np.ascontiguousarray(np.stack(colour).transpose(0, 3, 1, 2))
