"""Pictures of a folder or zip as bytes `[N, C, H, W]`, and their labels: a rule for each file.

| file | becomes |
|---|---|
| 1-bit, grey (1, L) | grey |
| 16-bit grey (I;16, I) | grey, divided by 257; values beyond 65535 are refused |
| 16-bit colour, or grey beside transparency | the upper eight bits |
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
come in the order of their names. Labels: `dataset.json` at the top with {"labels": [[name, label],
...]} as EDM writes it (floats or lists of numbers are features, null is none); without it the
sub-folder at the top, in the order of names, where there are at least two and no picture lies
beside them.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from os.path import splitext
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fewstep.base.errors import UserError
from fewstep.data.archives import Files, open_files, printable
from fewstep.data.decoding import SUFFIXES, decode, to_bytes
from fewstep.data.reading import BadFiles

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


def read(
    path: Path, size: int | None = None, bad_files: BadFiles = "fail"
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """{"x0": bytes `[N, C, H, W]`, "cond": labels, features or None}, and the bad files.

    Raises UserError where bad files are not to be left out, or are too many.
    """
    with open_files(path) as files:
        folder = listing(path, files)
        if folder.others:
            message = "fewstep: %s: skipped %s files that are no pictures, the first is %s"
            log.warning(message, path, len(folder.others), printable(folder.others[0]))
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
    return {"x0": join(list(rows.values())), "cond": cond}, tuple(bad.values())


def skippable(pictures: int) -> int:
    """How many of so many pictures may be left out."""
    return max(1, pictures // 1000)


def listing(path: Path, files: Files) -> Listing:
    """The pictures and labels among the files. Raises UserError where they do not fit."""
    names = [name for name in files if splitext(name)[1].lower() in SUFFIXES]
    inside = {*names, "dataset.json"}
    others = [name for name in files if name not in inside]
    if not names:
        raise UserError(
            f"{path} holds no pictures: expected files that end in {', '.join(sorted(SUFFIXES))}"
        )
    if "dataset.json" in files:
        return Listing(path, files, names, others, _labels(path, files, names), ())
    return Listing(path, files, names, others, *_sub_folders(names))


def pictures(folder: Listing) -> Iterator[tuple[str, Image.Image | UserError]]:
    """Each picture's name and the picture, or what is bad about it."""
    for name in folder.names:
        place = f"{folder.path}/{name}"
        start = printable(place)
        try:
            with folder.files[name]() as file:
                yield name, decode(place, file)
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
        rows[name] = to_bytes(place, picture, size)
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
            rows[name] = to_bytes(f"{folder.path}/{name}", picture, size)
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


def _labels(path: Path, files: Files, names: list[str]) -> Any:
    """Labels or features of `dataset.json`, in the order of the names."""
    try:
        with files["dataset.json"]() as file:
            labels = json.load(file)["labels"]
        if labels is None:
            return None
        table = dict(labels)
        missing = [name for name in names if name not in table]
        rows = np.array([table[name] for name in names if name in table])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise UserError(
            f'{path}/dataset.json: expected {{"labels": [[name, label], ...]}}'
        ) from error
    if missing:
        raise UserError(f"{path}/dataset.json has no label for {printable(missing[0])}")
    if len(table) < len(labels):
        raise UserError(
            f"{path}/dataset.json names {len(labels) - len(table)} files twice: give each one label"
        )
    return rows


def _sub_folders(names: list[str]) -> tuple[Any, tuple[str, ...]]:
    """The number of each file's folder at the top, and these folders; None with fewer than two."""
    tops = [PurePosixPath(name).parts[0] if "/" in name else "" for name in names]
    classes, labels = np.unique(tops, return_inverse=True)
    if "" in tops and len(classes) > 1:
        stray = printable(names[tops.index("")])
        raise UserError(f"{stray} lies beside sub-folders: put every picture in one, or none")
    if len(classes) < 2:
        return None, ()
    return labels, tuple(classes.tolist())


def _check_size(first: tuple[str, np.ndarray], other: tuple[str, np.ndarray]) -> None:
    """Refuses a named picture of another size than the first's."""
    if first[1].shape[:2] != other[1].shape[:2]:
        here, there = (f"{printable(n)} is {x.shape[1]}x{x.shape[0]}" for n, x in (other, first))
        raise UserError(f"{here}, {there}: --data-size N crops and resizes all to N x N")


def stack(pictures: Iterable[tuple[str, Image.Image]], size: int | None) -> np.ndarray:
    """Named pictures as bytes `[N, C, H, W]`, all of one size."""
    rows: list[np.ndarray] = []
    first: tuple[str, np.ndarray] | None = None
    for name, picture in pictures:
        rows.append(to_bytes(name, picture, size))
        first = first or (name, rows[0])
        _check_size(first, (name, rows[-1]))
    return join(rows)


def join(rows: list[np.ndarray]) -> np.ndarray:
    """Pictures of one size as bytes `[N, C, H, W]`, one channel where all are grey."""
    if all(x.ndim == 2 for x in rows):
        return np.stack(rows)[:, None]
    colour = [x if x.ndim == 3 else np.repeat(x[:, :, None], 3, 2) for x in rows]
    return np.ascontiguousarray(np.stack(colour).transpose(0, 3, 1, 2))
