"""Pictures of a folder or zip: in memory, or decoded once into records that all processes map."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.base.errors import UserError
from fewstep.base.progress import Progress
from fewstep.data.archives import marks_of, open_files, printable, readable, source_mark
from fewstep.data.columns import Names
from fewstep.data.decoding import to_array
from fewstep.data.gathering import Census, Misfit, Take, check_few, decode_all, gather, skippable
from fewstep.data.images import Listing, join, listing
from fewstep.data.journal import lock
from fewstep.data.reading import BadFiles, Content, Reading
from fewstep.data.records import (
    VERSION,
    Marks,
    Records,
    Wider,
    Writer,
    head_of,
    open_records,
)
from fewstep.data.stored import MOST_NUMBERS, below, beside

log = logging.getLogger("fewstep")

FEW = 8  # pictures that tell of most sets how large all are


def read(path: Path, reading: Reading) -> Content:
    """{"x0": `[N, C, H, W]`, "cond": labels, features or None}, names of classes, and bad files.

    Many pictures are decoded once, into the folder of `place_of`, and mapped from there. Raises
    UserError where bad files are not to be left out, or are too many.
    """
    with look_up(path, reading) as folder:
        if isinstance(folder, Records):
            return _content(path, folder.census, folder.about, folder.rows, folder.labels, reading)
        if is_large(folder, reading):
            most = most_bad(len(folder.names), reading.bad_files)
            records = keep(folder, reading, most_bad=most)
            return _content(
                path, records.census, records.about, records.rows, records.labels, reading
            )
        census, rows = in_memory(folder, reading)
        labels = folder.sound(census.bad)
        return _content(path, census, about_of(folder), join(rows), labels, reading)


def most_bad(pictures: int, bad_files: BadFiles) -> int:
    """How many of so many pictures may be bad."""
    return skippable(pictures) if bad_files == "skip" else 0


def _content(
    path: Path, census: Census, about: dict[str, Any], rows: Any, labels: Any, reading: Reading
) -> Content:
    """What was read, and in warnings and words what was left out. Raises UserError."""
    check_few(path, census, census.count, most_bad(census.count, reading.bad_files))
    left: tuple[str, ...] = ()
    others, bad = about["others"], census.bad
    if not census.rows:
        raise UserError(f"{path}: no picture can be read: {'; '.join(bad.values())}")
    if others:
        first = printable(others[0])
        left = (f"{len(others)} files that are no pictures, the first is {first}",)
        message = "fewstep: %s: skipped %s files that are no pictures, the first is %s"
        log.warning(message, path, len(others), first)
    if bad:
        message = "fewstep: %s: left out %s of %s pictures that are bad: %s"
        log.warning(message, path, len(bad), census.count, "; ".join(bad.values()))
    if census.cut:
        count = census.cut
        left += (f"the lower eight bits of {count} pictures of 16-bit colour: give them as .npy",)
    if census.stacks:
        left += (f"all frames but the first of {census.stacks} pictures: give them as .npy",)
    names = Names(classes=tuple(about["classes"]))
    return Content({"x0": rows, "cond": labels}, names, left, tuple(bad.values()))


def about_of(folder: Listing) -> dict[str, Any]:
    """What a manifest says of a listing."""
    return {"others": folder.others, "classes": list(folder.classes)}


@contextmanager
def look_up(path: Path, reading: Reading) -> Iterator[Listing | Records]:
    """The rows that are kept of a folder or zip; else its pictures and labels."""
    records = open_records(place_of(path, reading), header_of(path, reading))
    if records is not None:
        yield records
        return
    with open_files(path) as files:
        with readable(str(path)):
            folder = listing(path, files)
        yield folder


def place_of(path: Path, reading: Reading) -> Path:
    """The folder for the decoded pictures: beside them or where the user says, by their size."""
    folder = beside(path) if reading.cache is None else below(Path(reading.cache), path)
    return folder / ("whole" if reading.size is None else str(reading.size))


def header_of(path: Path, reading: Reading) -> dict[str, Any]:
    """What tells whether kept rows are those of the source as it is now."""
    mark = source_mark(path) if place_of(path, reading).exists() else ""
    return {"version": VERSION, "size": reading.size, "source": mark}


def is_large(folder: Listing, reading: Reading) -> bool:
    """Whether the pictures are kept in a file: too many for memory, or the user names a folder."""
    if reading.cache is not None:
        return True
    convert = partial(to_array, size=reading.size)
    some = decode_all(folder.path, folder.files, folder.names[:FEW], convert)
    numbers = [one.row.size for block in some for one in block if one.row is not None]
    return max(numbers, default=0) * len(folder.names) > MOST_NUMBERS


def in_memory(folder: Listing, reading: Reading) -> tuple[Census, list[np.ndarray]]:
    """All sound pictures."""
    most, rows = most_bad(len(folder.names), reading.bad_files), list[np.ndarray]()
    census = go_through(folder, reading.size, lambda block, _: rows.extend(block), most, rows.clear)
    return census, rows


def go_through(
    folder: Listing,
    size: int | None,
    take: Take,
    most_bad: int | None,
    again: Callable[[], object] = lambda: None,
    progress: Progress | None = None,
) -> Census:
    """All pictures once; again: called where it begins anew, by the size that most have."""
    start, how = Census(), (folder.path, folder.files, folder.names, size, take)
    while True:
        try:
            return gather(*how, most_bad=most_bad, so_far=start, progress=progress)
        except Misfit as error:
            again()
            start = Census(first_size=error.size)


def keep(
    folder: Listing, reading: Reading, *, most_bad: int | None, progress: bool = True
) -> Records:
    """Decodes all pictures into a folder, from where an earlier pass was killed, and maps them."""

    def marks(first: int, last: int) -> str:
        return marks_of(folder.files, folder.names[first:last])

    place = place_of(folder.path, reading)
    header = partial(header_of, folder.path, reading)
    return keep_at(place, header, marks, folder, reading, most_bad, progress)


def keep_at(
    place: Path,
    header_of: Callable[[], dict[str, Any]],
    marks: Marks,
    folder: Listing,
    reading: Reading,
    most_bad: int | None,
    progress: bool = True,
) -> Records:
    """Likewise at that place. header_of: what tells whether its rows are of the source now."""
    size = reading.size
    with lock(place):
        header = header_of()
        if (records := open_records(place, header)) is not None:  # another process was quicker
            return records
        kind, start = head_of(place, size)
        with Progress(len(folder.names), "picture", show=progress) as bar:
            bar.note(f"decodes {folder.path} into {place}, once")
            while True:
                writer = Writer(place, marks, size, start, kind)
                try:
                    census = gather(
                        folder.path,
                        folder.files,
                        folder.names,
                        size,
                        writer.take,
                        most_bad=most_bad,
                        so_far=copy.deepcopy(writer.census),
                        progress=bar,
                    )
                except Misfit as error:
                    start = Census(first_size=error.size)
                except Wider as error:
                    kind, start = error.kind, Census(first_size=start.first_size)
                else:
                    break
        writer.flush()
        writer.finish(header, census, folder.sound(census.bad), about_of(folder))
        records = open_records(place, header)
        assert records is not None
        return records
