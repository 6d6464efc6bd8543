"""Pictures of a folder or zip as `[N, C, H, W]`, and their labels: a rule for each file.

| file | becomes |
|---|---|
| 1-bit, grey (1, L) | grey |
| 16-bit grey (I;16, I) | grey, 0 .. 65535 as float32; values beyond are refused |
| 8 bits beside 16-bit grey | times 257, so that white is 65535 |
| 16-bit colour, or grey beside transparency | the upper eight bits, which is said |
| RGB, CMYK, YCbCr, LAB, HSV, palette (P) | RGB |
| transparency (LA, RGBA, PA, La, RGBa, or declared beside P, L, RGB) | laid on white: grey or RGB |
| 32-bit float (F) | bad: give .npy |
| EXIF orientation | turned upright; taken as it lies where the EXIF cannot be read |
| several frames (GIF, APNG, TIFF, WebP) | the first |
| more than 64 million pixels by its header, or 512 MiB | bad, before anything is decoded |
| another format than its suffix says | read as what it is; TGA by its suffix alone |
| other sizes than most have | bad, unless `size` is given: middle square, resized (Lanczos) |
| empty, truncated, corrupt, no picture | bad, where that can be seen (`fewstep.data.decoding`) |
| hidden files and folders (.name, __MACOSX) | skipped |
| other suffixes | skipped, and counted in a warning |

A bad file is refused by name, or with `bad_files="skip"` left out together with its label, counted
and listed: at most a thousandth of the pictures, but one in any set. What archives may hold:
`fewstep.data.archives`. A set of grey files has one channel; one with any colour has three. Files
come in the order of their names. Labels: `dataset.json` with {"labels": [[name, label], ...]} as
EDM writes it (floats or lists of numbers are features, null is none); without it the sub-folder, in
the natural order of names ("2" before "10"), where there are at least two and no picture lies
beside them. Both are looked for at the top, and below folders that hold all pictures. Sub-folders
that are splits (train, val, test) are refused: they are no classes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from itertools import takewhile
from os.path import splitext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fewstep.base.errors import UserError
from fewstep.data.archives import printable
from fewstep.data.columns import number_texts
from fewstep.data.decoding import SUFFIXES, decode, to_array
from fewstep.data.entries import Files
from fewstep.data.gathering import Kind

__all__ = ["Listing", "decode", "listing", "stack"]


class Listing(NamedTuple):
    """A folder or zip: how to open its files, its pictures' names, its other files, its labels."""

    path: Path
    files: Files
    names: list[str]
    others: list[str]
    cond: Any = None
    classes: tuple[str, ...] = ()  # the sub-folders that labels number; none with a `dataset.json`

    def sound(self, bad: Mapping[str, str]) -> Any:
        """The labels without those of bad pictures."""
        if self.cond is None:
            return None
        return np.asarray(self.cond)[[name not in bad for name in self.names]]


SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def listing(path: Path, files: Files, suffixes: Collection[str] = SUFFIXES) -> Listing:
    """The pictures, or files of other suffixes, and their labels.

    Raises UserError where they do not fit.
    """
    names = names_of(path, files, suffixes)
    tops = tops_of(names)
    table = next((f"{one}dataset.json" for one in tops if f"{one}dataset.json" in files), None)
    inside = {*names, table}
    others = [name for name in files if name not in inside]
    if table is not None:
        return Listing(path, files, names, others, _labels(path, files, names, table), ())
    return Listing(path, files, names, others, *_sub_folders(path, names, len(tops) - 1))


def names_of(path: Path, files: Files, suffixes: Collection[str] = SUFFIXES) -> list[str]:
    """The files that are pictures, or have other suffixes. Raises UserError where there is none."""
    names = [name for name in files if splitext(name)[1].lower() in suffixes]
    if not names:
        what = "pictures" if suffixes == SUFFIXES else "arrays"
        has_arrays = any(name.endswith(".npy") for name in files)
        hint = "; --latents reads .npy files of latents" if has_arrays else ""
        ends = ", ".join(sorted(suffixes))
        raise UserError(f"{path} holds no {what}: expected files that end in {ends}{hint}")
    return names


def tops_of(names: list[str]) -> list[str]:
    """The top, "", and each folder below it that all pictures lie in."""
    top = _common_folder(names)
    return ["".join(f"{part}/" for part in top[:depth]) for depth in range(len(top) + 1)]


def _common_folder(names: list[str]) -> tuple[str, ...]:
    """The folders that all pictures lie in, from the top."""
    first, last = (_folders(name) for name in (min(names), max(names)))
    common = list(takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    depth = len(common)
    while any(_folders(name)[:depth] != first[:depth] for name in names):
        depth -= 1
    return first[:depth]


def _folders(name: str) -> tuple[str, ...]:
    """The folders of a file from the top; by hand, since there may be millions."""
    return tuple(part for part in name.split("/")[:-1] if part not in ("", "."))


def _labels(path: Path, files: Files, names: list[str], place: str) -> Any:
    """Labels or features of the `dataset.json` at that place, in the order of the names."""
    names = [name.removeprefix(place.removesuffix("dataset.json")) for name in names]
    try:
        with files[place]() as file:
            labels = json.load(file)["labels"]
        if labels is None:
            return None
        table = dict(labels)
        missing = [name for name in names if name not in table]
        rows = np.array([table[name] for name in names if name in table])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise UserError(f'{path}/{place}: expected {{"labels": [[name, label], ...]}}') from error
    if missing:
        raise UserError(f"{path}/{place} has no label for {printable(missing[0])}")
    if len(table) < len(labels):
        raise UserError(
            f"{path}/{place} names {len(labels) - len(table)} files twice: give each one label"
        )
    return rows


def _sub_folders(path: Path, names: list[str], depth: int) -> tuple[Any, tuple[str, ...]]:
    """The number of each file's folder at that depth, and these folders; None with fewer than two.

    Raises UserError for pictures beside the folders, and for folders that are splits.
    """
    tops = ["".join(_folders(name)[depth : depth + 1]) for name in names]
    labels, classes = number_texts(tops)
    if "" in classes and len(classes) > 1:
        stray = printable(names[tops.index("")])
        raise UserError(f"{stray} lies beside sub-folders: put every picture in one, or none")
    if len(classes) < 2:
        return None, ()
    if all(name.lower() in SPLITS for name in classes):
        raise UserError(
            f"{printable(path)} holds the folders {', '.join(classes)}: expected classes, not"
            f" splits: name one of them (--data {printable(path)}/{classes[0]}, or a zip of it)"
        )
    return labels, classes


def _check_size(first: tuple[str, np.ndarray], other: tuple[str, np.ndarray]) -> None:
    """Refuses a named picture of another size than the first's."""
    if first[1].shape[:2] != other[1].shape[:2]:
        here, there = (f"{printable(n)} is {x.shape[1]}x{x.shape[0]}" for n, x in (other, first))
        raise UserError(f"{here}, {there}: --data-size N crops and resizes all to N x N")


def stack(pictures: Iterable[tuple[str, Image.Image]], size: int | None) -> np.ndarray:
    """Named pictures as `[N, C, H, W]`, all of one size."""
    rows: list[np.ndarray] = []
    first: tuple[str, np.ndarray] | None = None
    for name, picture in pictures:
        rows.append(to_array(name, picture, size))
        first = first or (name, rows[0])
        _check_size(first, (name, rows[-1]))
    return join(rows)


def join(rows: list[np.ndarray]) -> np.ndarray:
    """Pictures of one size as `[N, C, H, W]`, one channel where all are grey.

    Bytes beside floats of 16 bits become such floats.
    """
    kind = Kind()
    for row in rows:
        kind = kind.with_(row)
    records = [kind.record(row) for row in rows]
    return np.stack(records) if rows else np.empty((0, 1, 1, 1), np.uint8)
