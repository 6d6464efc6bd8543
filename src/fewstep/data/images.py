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
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from os.path import splitext
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fewstep.base.errors import UserError
from fewstep.data.archives import Files, open_files, printable
from fewstep.data.columns import Names, number_texts
from fewstep.data.decoding import CUT, FRAMES, SUFFIXES, decode, to_array
from fewstep.data.reading import BadFiles, Content

__all__ = [
    "Listing",
    "decode",
    "listing",
    "misfits",
    "pictures",
    "read",
    "skippable",
    "stack",
]

log = logging.getLogger("fewstep")

Size = tuple[int, int]  # width and height


class Listing(NamedTuple):
    """A folder or zip: how to open its files, its pictures' names, its other files, its labels."""

    path: Path
    files: Files
    names: list[str]
    others: list[str]
    cond: Any
    classes: tuple[str, ...]  # the sub-folders that labels number; none with a `dataset.json`
    cut: list[str]  # pictures that were opened, and have lost their lower bits
    stacks: list[str]  # likewise, and have more than one frame


SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def read(path: Path, size: int | None = None, bad_files: BadFiles = "fail") -> Content:
    """{"x0": `[N, C, H, W]`, "cond": labels, features or None}, names of classes, and bad files.

    Raises UserError where bad files are not to be left out, or are too many.
    """
    with open_files(path) as files:
        folder = listing(path, files)
        left: tuple[str, ...] = ()
        if folder.others:
            first = printable(folder.others[0])
            left = (f"{len(folder.others)} files that are no pictures, the first is {first}",)
            message = "fewstep: %s: skipped %s files that are no pictures, the first is %s"
            log.warning(message, path, len(folder.others), first)
        bad: dict[str, str] = {}
        if bad_files == "fail":
            rows = _read_all(folder, size)
        else:
            rows, bad = _read_sound(folder, size)
    cond = folder.cond
    if cond is not None:  # the labels of bad pictures are left out too
        cond = np.asarray(cond)[[i for i, name in enumerate(folder.names) if name in rows]]
    if bad:
        message = "fewstep: %s: left out %s of %s pictures that are bad: %s"
        log.warning(message, path, len(bad), len(folder.names), "; ".join(bad.values()))
    if folder.cut:
        count = len(folder.cut)
        left += (f"the lower eight bits of {count} pictures of 16-bit colour: give them as .npy",)
    if folder.stacks:
        left += (f"all frames but the first of {len(folder.stacks)} pictures: give them as .npy",)
    data = {"x0": join(list(rows.values())), "cond": cond}
    return Content(data, Names(classes=folder.classes), left, tuple(bad.values()))


def skippable(pictures: int) -> int:
    """How many of so many pictures may be left out."""
    return max(1, pictures // 1000)


def listing(path: Path, files: Files) -> Listing:
    """The pictures and labels among the files. Raises UserError where they do not fit."""
    names = [name for name in files if splitext(name)[1].lower() in SUFFIXES]
    if not names:
        raise UserError(
            f"{path} holds no pictures: expected files that end in {', '.join(sorted(SUFFIXES))}"
        )
    top = _common_folder(names)
    tops = ["".join(f"{part}/" for part in top[:depth]) for depth in range(len(top) + 1)]
    table = next((f"{one}dataset.json" for one in tops if f"{one}dataset.json" in files), None)
    inside = {*names, table}
    others = [name for name in files if name not in inside]
    if table is not None:
        return Listing(path, files, names, others, _labels(path, files, names, table), (), [], [])
    return Listing(path, files, names, others, *_sub_folders(path, names, len(top)), [], [])


def _common_folder(names: list[str]) -> tuple[str, ...]:
    """The folders that all pictures lie in, from the top."""
    first, last = (PurePosixPath(name).parts[:-1] for name in (min(names), max(names)))
    common = list(takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    depth = len(common)
    while any(PurePosixPath(name).parts[:-1][:depth] != first[:depth] for name in names):
        depth -= 1
    return first[:depth]


def pictures(folder: Listing) -> Iterator[tuple[str, Image.Image | UserError]]:
    """Each picture's name and the picture, or what is bad about it."""
    for name in folder.names:
        place = f"{folder.path}/{name}"
        start = printable(place)
        try:
            with folder.files[name]() as file:
                picture = decode(place, file)
            if CUT in picture.info:
                folder.cut.append(name)
            if FRAMES in picture.info:
                folder.stacks.append(name)
            yield name, picture
        except UserError as error:
            message = str(error)
            if not message.startswith(start):
                error = UserError(f"{start}: {message}")
            yield name, error
        except Exception as error:  # of the disk, or of a zip whose parts contradict each other
            message = printable(getattr(error, "strerror", None) or error)
            yield name, UserError(f"{start}: {message}: remove or repair it")


def _read_all(folder: Listing, size: int | None) -> dict[str, np.ndarray]:
    """Every picture by name. Raises UserError for the first that is bad, or of another size."""
    rows: dict[str, np.ndarray] = {}
    first = folder.names[0]
    for name, picture in pictures(folder):
        if isinstance(picture, UserError):
            raise picture
        place = f"{folder.path}/{name}"
        rows[name] = to_array(place, picture, size)
        _check_size((f"{folder.path}/{first}", rows[first]), (place, rows[name]))
    return rows


def _read_sound(folder: Listing, size: int | None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The sound pictures, and what is wrong with the bad ones. Raises UserError for too many."""
    rows: dict[str, np.ndarray] = {}
    bad: dict[str, str] = {}
    for name, picture in pictures(folder):
        try:
            if isinstance(picture, UserError):
                raise picture
            rows[name] = to_array(f"{folder.path}/{name}", picture, size)
        except UserError as error:
            bad[name] = str(error)
            _check_few(folder, bad)
    odd = misfits(folder.path, {name: (row.shape[1], row.shape[0]) for name, row in rows.items()})
    bad = {**bad, **odd}
    _check_few(folder, bad)
    return {name: row for name, row in rows.items() if name not in odd}, bad


def _check_few(folder: Listing, bad: Mapping[str, str]) -> None:
    few = skippable(len(folder.names))
    if len(bad) > few:
        raise UserError(
            f"{folder.path}: more than {few} of {len(folder.names)} pictures are bad, and bad_files"
            f" = skip leaves out no more: 'fewstep scan {folder.path}' lists all, the first is"
            f" {next(iter(bad.values()))}"
        )


def misfits(path: Path, sizes: Mapping[str, Size]) -> dict[str, str]:
    """What is wrong with the pictures that have another size than most."""
    if not sizes:
        return {}
    most = Counter(sizes.values()).most_common(1)[0][0]
    target = f"most are {most[0]}x{most[1]}: --data-size N resizes them"
    return {
        name: f"{printable(path)}/{printable(name)} is {w}x{h}, {target}"
        for name, (w, h) in sizes.items()
        if (w, h) != most
    }


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
    parts = [PurePosixPath(name).parts for name in names]
    tops = [part[depth] if len(part) > depth + 1 else "" for part in parts]
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
    if any(x.dtype != np.uint8 for x in rows):
        rows = [x.astype(np.float32) * 257 if x.dtype == np.uint8 else x for x in rows]
    if all(x.ndim == 2 for x in rows):
        return np.stack(rows)[:, None]
    colour = [x if x.ndim == 3 else np.repeat(x[:, :, None], 3, 2) for x in rows]
    return np.ascontiguousarray(np.stack(colour).transpose(0, 3, 1, 2))
