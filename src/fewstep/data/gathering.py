"""One pass over the pictures of a folder or zip: several threads decode, all in their order."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fewstep.base.errors import UserError
from fewstep.base.progress import Progress
from fewstep.base.surroundings import cores
from fewstep.data.archives import printable
from fewstep.data.decoding import CUT, FRAMES, no_warnings, read_picture, to_array
from fewstep.data.entries import File, Files

BLOCK = 256  # pictures that a thread decodes at once


class Kind(NamedTuple):
    """What the pictures of a set become: `[channels, H, W]`, of bytes or of 16 bits as float32."""

    channels: int = 1
    is_deep: bool = False

    def with_(self, row: np.ndarray) -> Kind:
        """The least kind that holds this one and the row `[H, W]` or `[H, W, 3]`."""
        channels = max(self.channels, 1 if row.ndim == 2 else 3)
        return Kind(channels, self.is_deep or row.dtype != np.uint8)

    def record(self, row: np.ndarray) -> np.ndarray:
        """The row as `[channels, H, W]`; bytes beside 16 bits times 257, so that white is 65535."""
        if self.is_deep:
            row = row.astype(np.float32) * 257 if row.dtype == np.uint8 else row
        if row.ndim == 2:
            return np.broadcast_to(row, (self.channels, *row.shape))
        return row.transpose(2, 0, 1)


Convert = Callable[[str, Image.Image], Any]


class Outcome(NamedTuple):
    """A picture, or what is wrong with it."""

    name: str
    row: Any = None  # an array, or what else `decode_all` was asked for
    error: str = ""
    size: str = ""  # width x height, upright, before any resizing
    mode: str = ""  # Pillow's
    is_cut: bool = False  # lower bits are lost
    has_frames: bool = False


@dataclass
class Census:
    """What a pass has met: the first sound picture, bad files by name, counts of the sound ones."""

    first: str = ""
    first_size: str = ""  # width x height
    count: int = 0
    rows: int = 0
    misfits: int = 0  # of the bad: of another size than the first
    cut: int = 0
    stacks: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    sizes: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)

    def add(self, other: Census) -> None:
        for name, value in vars(other).items():
            own = getattr(self, name)
            if isinstance(value, str):
                setattr(self, name, own or value)
            elif isinstance(value, int):
                setattr(self, name, own + value)
            else:
                own.update(value)

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))

    @staticmethod
    def from_json(values: dict[str, Any]) -> Census:
        counts = {name: Counter(values[name]) for name in ("sizes", "modes")}
        return Census(**{**values, **counts})


class Misfit(Exception):
    """Most pictures have another size than the one that was taken first."""

    def __init__(self, size: str) -> None:
        self.size = size


def decode_all(
    path: Path, files: Files, names: Sequence[str], convert: Convert, at_once: int | None = None
) -> Iterator[list[Outcome]]:
    """The pictures of these names in blocks, in their order, decoded a few blocks ahead.

    convert: makes a row of a picture and its place for messages. at_once: pictures of a block.
    """

    def decode(some: list[tuple[str, File]]) -> list[Outcome]:
        return [_decode_one(path, file, name, convert) for name, file in some]

    size = at_once or BLOCK
    workers = cores()
    waiting: deque[Future[list[Outcome]]] = deque()
    with no_warnings(), ThreadPoolExecutor(workers) as pool:
        try:
            for first in range(0, len(names), size):
                some = [(name, files[name]) for name in names[first : first + size]]
                waiting.append(pool.submit(decode, some))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _decode_one(path: Path, file: File, name: str, convert: Convert) -> Outcome:
    place = f"{path}/{name}"
    start = printable(place)
    try:
        with file() as source:
            picture = read_picture(place, source)
        row = convert(place, picture)
    except UserError as error:
        message = str(error)
        return Outcome(name, error=message if message.startswith(start) else f"{start}: {message}")
    except Exception as error:  # of the disk, or of a zip whose parts contradict each other
        message = printable(getattr(error, "strerror", None) or error)
        return Outcome(name, error=f"{start}: {message}: remove or repair it")
    info = picture.info
    upright = f"{picture.width}x{picture.height}"
    return Outcome(name, row, "", upright, picture.mode, CUT in info, FRAMES in info)


Take = Callable[[list[np.ndarray], Census], None]  # rows of a block, and what was met in it


def gather(
    path: Path,
    files: Files,
    names: Sequence[str],
    size: int | None,
    take: Take,
    *,
    most_bad: int | None,
    so_far: Census | None = None,
    progress: Progress | None = None,
) -> Census:
    """Goes through all pictures, hands the sound ones on, and returns what it met.

    most_bad: more bad files than these are refused; 0 refuses the first by name, None none. so_far:
    what an earlier pass had met, which goes on; of one that begins, the size that all have.
    Raises UserError; Misfit in the end where most have another size than the first.
    """
    census = Census() if so_far is None else so_far
    for block in decode_all(path, files, names[census.count :], partial(to_array, size=size)):
        new, rows = Census(count=len(block), first_size=census.first_size), []
        for one in block:
            error = one.error
            if one.row is not None:
                new.sizes.update([one.size])
                new.first_size = new.first_size or one.size
                if size is None and one.size != new.first_size:
                    error = _misfit(path, one, census.first or new.first, new.first_size, most_bad)
                    new.misfits += 1
            if one.row is None or error:
                if most_bad == 0:
                    raise UserError(error)
                new.bad[one.name] = error
                continue
            new.first = new.first or one.name
            rows.append(one.row)
            new.modes.update([one.mode])
            new.cut += one.is_cut
            new.stacks += one.has_frames
        new.rows = len(rows)
        census.add(new)
        check_few(path, census, len(names), most_bad, census.misfits)
        take(rows, new)
        if progress is not None:
            progress.update(census.count - progress.position)  # a pass may begin anew
    if size is None and census.misfits:
        most = census.sizes.most_common(1)[0][0]
        if most != census.first_size:
            raise Misfit(most)
        census.sizes = Counter({most: census.sizes[most]})  # of the sound ones
    check_few(path, census, len(names), most_bad)
    return census


def _misfit(path: Path, one: Outcome, first: str, size: str, most_bad: int | None) -> str:
    here = f"{printable(f'{path}/{one.name}')} is {one.size}"
    if most_bad == 0:
        there = f"{printable(f'{path}/{first}')} is {size}"
        return f"{here}, {there}: --data-size N crops and resizes all to N x N"
    return f"{here}, most are {size}: --data-size N resizes them"


def check_few(
    path: Path, census: Census, total: int, most_bad: int | None, tolerance: int = 0
) -> None:
    if most_bad is not None and len(census.bad) - tolerance > most_bad:
        raise UserError(
            f"{path}: more than {most_bad} of {total} pictures are bad, and bad_files"
            f" = skip leaves out no more: 'fewstep scan {path}' lists all, the first is"
            f" {next(iter(census.bad.values()))}"
        )


def skippable(pictures: int) -> int:
    """How many of so many pictures may be left out."""
    return max(1, pictures // 1000)
