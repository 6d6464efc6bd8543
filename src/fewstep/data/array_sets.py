"""A folder or zip that holds each sample in a .npy of its own, as EDM2's zips of latents."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fewstep.base.errors import UserError
from fewstep.data.archives import check_array, open_files, printable, readable
from fewstep.data.columns import Names
from fewstep.data.images import listing
from fewstep.data.reading import Content, Reading
from fewstep.data.stored import AT_ONCE, rows_of
from fewstep.data.streams import Stream, is_large
from fewstep.data.tables import native


def read(path: Path, reading: Reading) -> Content:
    """{"x0": `[N, ...]`, "cond": labels or None}; of many samples a stream. Raises UserError."""
    with open_files(path) as files, readable(str(path)):
        folder = listing(path, files, (".npy",))
    names = folder.names
    first = next(_blocks(path, names[:1], 0))

    def blocks(row: int) -> Iterator[np.ndarray]:
        return _blocks(path, names, row, first)

    stream = Stream(len(names), blocks)
    rows = stream if is_large(first.size * len(names), reading) else stream.load()
    left: tuple[str, ...] = ()
    if folder.others:
        name = printable(folder.others[0])
        left = (f"{len(folder.others)} files that are no arrays, the first is {name}",)
    return Content({"x0": rows, "cond": folder.cond}, Names(classes=folder.classes), left)


def _blocks(
    path: Path, names: list[str], row: int, like: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """The arrays of these names from that place on. Raises UserError for one unlike the first."""
    with open_files(path) as files:
        size = 1 if like is None else rows_of(AT_ONCE, like.shape[1:])
        for first in range(row, len(names), size):
            rows = []
            for name in names[first : first + size]:
                place = f"{path}/{name}"
                with readable(place), files[name]() as file:
                    content = file.read()
                    check_array(printable(place), io.BytesIO(content), len(content))
                    rows.append(native(np.load(io.BytesIO(content), allow_pickle=False)))
                if like is not None and (rows[-1].shape, rows[-1].dtype) != (
                    like.shape[1:],
                    like.dtype,
                ):
                    raise UserError(
                        f"{printable(place)} holds {rows[-1].dtype} {rows[-1].shape}, others"
                        f" {like.dtype} {like.shape[1:]}: expected arrays of one shape"
                    )
            yield np.stack(rows)
