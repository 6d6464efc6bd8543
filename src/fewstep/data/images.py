"""Pictures of a folder or zip as bytes `[N, C, H, W]`, and their labels; every kind of file has one
rule.

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
| another format than its suffix says | read as what it is, if it is one of these; TGA by its suffix alone |
| other sizes than most have | bad, unless `size` is given: middle square, resized (Lanczos) |
| empty, truncated, corrupt, no picture | bad, where that can be seen (`fewstep.data.integrity`) |
| hidden files and folders (.name, __MACOSX) | skipped |
| other suffixes | skipped, and counted in a warning |

A bad file is refused by name, or with `bad_files="skip"` left out together with its label, counted
and listed:
at most a thousandth of the pictures, but one in any set. What archives may hold:
`fewstep.data.archives`.
A set of grey files has one channel; one with any colour has three. Files come in the order of their
names.
Labels: `dataset.json` at the top with {"labels": [[name, label], ...]} as EDM writes it (floats or
lists of numbers are features, null is none); without it the sub-folder at the top, in the order of
names, where there are at least two and no picture lies beside them.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from os.path import splitext
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from fewstep.base.errors import UserError
from fewstep.data.archives import Files, opened, shown
from fewstep.data.decoding import SUFFIXES, decoded, prepared

__all__ = [
    "BadFiles",
    "Listing",
    "decoded",
    "listed",
    "misfits",
    "pictures",
    "read",
    "skippable",
    "stack",
]

log = logging.getLogger("fewstep")

BadFiles = Literal["fail", "skip"]
Size = tuple[int, int]  # width and height


class Listing(NamedTuple):
    """What a folder or zip holds: how to open its files, its pictures' names, others, and the
    pictures' labels.
    """

    path: Path
    files: Files
    names: list[str]
    others: list[str]
    cond: Any
    classes: tuple[
        str, ...
    ]  # the sub-folders that labels number; none where `dataset.json` gives them


def read(
    path: Path, size: int | None = None, bad_files: BadFiles = "fail"
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """{"x0": bytes `[N, C, H, W]`, "cond": labels, features or None} of a folder or zip, and what
    was left out.
    """
    with opened(path) as files:
        found = listed(path, files)
        if found.others:
            first, n = shown(found.others[0]), len(found.others)
            log.warning(
                "fewstep: %s: skipped %s files that are no pictures, the first is %s",
                path,
                n,
                first,
            )
        rows, bad = (_all if bad_files == "fail" else _most)(found, size)
    kept = [number for number, name in enumerate(found.names) if name in rows]
    cond = (
        found.cond if found.cond is None else np.asarray(found.cond)[kept]
    )  # the labels of what was left out go too
    if bad:
        told = "; ".join(bad.values())
        log.warning(
            "fewstep: %s: left out %s of %s pictures that are bad: %s",
            path,
            len(bad),
            len(found.names),
            told,
        )
    return {"x0": joined(list(rows.values())), "cond": cond}, tuple(bad.values())


def skippable(pictures: int) -> int:
    """How many of so many pictures may be left out."""
    return max(1, pictures // 1000)


def listed(path: Path, files: Files) -> Listing:
    """What lies at the path. Raises UserError without pictures, or where labels do not fit them."""
    names = [name for name in files if splitext(name)[1].lower() in SUFFIXES]
    known = {*names, "dataset.json"}
    others = [name for name in files if name not in known]
    if not names:
        raise UserError(
            f"{path} holds no pictures: expected files that end in {', '.join(sorted(SUFFIXES))}"
        )
    if "dataset.json" in files:
        return Listing(path, files, names, others, _labels(path, files, names), ())
    return Listing(path, files, names, others, *_sub_folders(names))


def pictures(found: Listing) -> Iterator[tuple[str, Image.Image | UserError]]:
    """Each picture's name and the picture, or what is bad about it."""
    for name in found.names:
        called = f"{found.path}/{name}"
        try:
            with found.files[name]() as file:
                yield name, decoded(called, file)
        except UserError as error:
            told = str(error)
            yield (
                name,
                error if told.startswith(shown(called)) else UserError(f"{shown(called)}: {told}"),
            )
        except Exception as error:  # of the disk, or of a zip whose parts contradict each other
            told = shown(getattr(error, "strerror", None) or error)
            yield name, UserError(f"{shown(called)}: {told}: remove or repair it")


def _all(found: Listing, size: int | None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Every picture by name; raises the UserError of the first that is bad, or of another size than
    the first.
    """
    rows: dict[str, np.ndarray] = {}
    for name, picture in pictures(found):
        if isinstance(picture, UserError):
            raise picture
        called, first = f"{found.path}/{name}", found.names[0]
        rows[name] = prepared(called, picture, size)
        _same_size((f"{found.path}/{first}", rows[first]), (called, rows[name]))
    return rows, {}


def _most(found: Listing, size: int | None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The pictures that are not bad, and what is wrong with the others. Raises UserError where
    these are too many.
    """
    rows: dict[str, np.ndarray] = {}
    bad: dict[str, str] = {}
    for name, picture in pictures(found):
        try:
            if isinstance(picture, UserError):
                raise picture
            rows[name] = prepared(f"{found.path}/{name}", picture, size)
        except UserError as error:
            bad[name] = str(error)
            _check_few(found, bad)
    odd = misfits(found.path, {name: (row.shape[1], row.shape[0]) for name, row in rows.items()})
    bad = {**bad, **odd}
    _check_few(found, bad)
    return {name: row for name, row in rows.items() if name not in odd}, bad


def _check_few(found: Listing, bad: Mapping[str, str]) -> None:
    if len(bad) > (few := skippable(len(found.names))):
        raise UserError(
            f"{found.path}: more than {few} of {len(found.names)} pictures are bad, and bad_files ="
            f" skip leaves out no more: 'fewstep scan {found.path}' lists all, the first is"
            f" {next(iter(bad.values()))}"
        )


def misfits(path: Path, sizes: Mapping[str, Size]) -> dict[str, str]:
    """What is wrong with the pictures that have another size than most."""
    most = Counter(sizes.values()).most_common(1)[0][0] if sizes else (0, 0)
    return {
        name: (
            f"{shown(path)}/{shown(name)} is {w}x{h}, most are {most[0]}x{most[1]}: --data-size N"
            " resizes them"
        )
        for name, (w, h) in sizes.items()
        if (w, h) != most
    }


def _labels(path: Path, files: Files, names: list[str]) -> Any:
    """Labels or features of `dataset.json`, in the order of the names."""
    try:
        with files["dataset.json"]() as file:
            labels = json.load(file)["labels"]
        found = dict.fromkeys(names) if labels is None else dict(labels)
        lost = next((name for name in names if name not in found), None)
        rows = np.array([found[name] for name in names if name in found])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise UserError(
            f'{path}/dataset.json: expected {{"labels": [[name, label], ...]}}'
        ) from error
    if lost is not None:
        raise UserError(f"{path}/dataset.json has no label for {shown(lost)}")
    if labels is not None and len(found) < len(labels):
        raise UserError(
            f"{path}/dataset.json names {len(labels) - len(found)} files twice: give each one label"
        )
    return None if labels is None else rows


def _sub_folders(names: list[str]) -> tuple[Any, tuple[str, ...]]:
    """The number of each file's folder at the top, and these folders; None with fewer than two."""
    tops = [PurePosixPath(name).parts[0] if "/" in name else "" for name in names]
    classes, labels = np.unique(tops, return_inverse=True)
    if "" in tops and len(classes) > 1:
        stray = shown(names[tops.index("")])
        raise UserError(f"{stray} lies beside sub-folders: put every picture in one, or none")
    return (labels, tuple(classes.tolist())) if len(classes) > 1 else (None, ())


def _same_size(first: tuple[str, np.ndarray], other: tuple[str, np.ndarray]) -> None:
    """Refuses a named picture of another size than the first's."""
    if first[1].shape[:2] != other[1].shape[:2]:
        told = [f"{x.shape[1]}x{x.shape[0]}" for _, x in (other, first)]
        names = shown(other[0]), shown(first[0])
        raise UserError(
            f"{names[0]} is {told[0]}, {names[1]} is {told[1]}: --data-size N crops and resizes all"
            " to N x N"
        )


def stack(pictures: Iterable[tuple[str, Image.Image]], size: int | None) -> np.ndarray:
    """Named pictures as bytes `[N, C, H, W]`, all of one size."""
    rows: list[np.ndarray] = []
    first: tuple[str, np.ndarray] | None = None
    for name, picture in pictures:
        rows.append(prepared(name, picture, size))
        first = first or (name, rows[0])
        _same_size(first, (name, rows[-1]))
    return joined(rows)


def joined(rows: list[np.ndarray]) -> np.ndarray:
    """Pictures of one size as bytes `[N, C, H, W]`, one channel where all are grey."""
    if all(x.ndim == 2 for x in rows):
        return np.stack(rows)[:, None]
    colour = [x if x.ndim == 3 else np.repeat(x[:, :, None], 3, 2) for x in rows]
    return np.ascontiguousarray(np.stack(colour).transpose(0, 3, 1, 2))
