"""Captions of a folder or zip of pictures.

| in this order | a caption |
|---|---|
| `metadata.jsonl` or `metadata.csv`, in any folder | a row: file_name and prompt, caption or text |
| `dataset.json` at the top, or below folders that hold all | [file name, caption] in "captions" |
| a `.txt` beside each picture, of the same stem | all of it |

White space is one blank. What is found first has all captions; an empty one is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os.path import splitext
from pathlib import Path
from posixpath import basename, dirname, join, normpath
from typing import Any

from fewstep.base.errors import FewstepError, UserError, short_repr
from fewstep.base.json_file import document
from fewstep.data.archives import printable
from fewstep.data.entries import Files
from fewstep.data.images import tops_of
from fewstep.pipelines.texts import MOST_BYTES, column_of, plain, table_of, text_of

METADATA = ("metadata.jsonl", "metadata.csv")
FILE_NAME = "file_name"
SHAPE = 'expected {"captions": [[file name, caption], ...]}'


def captions_of(path: Path, files: Files, names: list[str]) -> list[str]:
    """The caption of each picture of these names.

    Raises UserError where one has none, and for files that cannot be read.
    """
    table, where = _captions(path, files, names)
    result = [plain(table.get(name, "")) for name in names]
    missing = [name for name, text in zip(names, result, strict=True) if not text]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of {len(names)} pictures have no caption in {where}, the first"
            f" is {printable(missing[0])}"
        )
    return result


def _captions(path: Path, files: Files, names: list[str]) -> tuple[dict[str, str], str]:
    """Captions by the names of pictures, and where they stand."""
    tables = [name for name in files if basename(name) in METADATA]
    if tables:
        rows = [row for name in tables for row in _metadata(path, files, name)]
        return _once(path, rows), " and ".join(map(printable, tables[:3]))
    places = [f"{top}dataset.json" for top in tops_of(names)]
    for place in filter(files.__contains__, places):
        return _once(path, _dataset(path, files, place)), place
    stems = {name: f"{splitext(name)[0]}.txt" for name in names}
    texts = {name: _read(path, files, own) for name, own in stems.items() if own in files}
    return texts, f"{', '.join(METADATA)}, dataset.json or a .txt of the same stem"


def _once(path: Path, rows: Sequence[tuple[str, str]]) -> dict[str, str]:
    table: dict[str, str] = {}
    for name, text in rows:
        if table.setdefault(name, text) != text:
            raise UserError(f"{path}: {printable(name)} has two captions: keep one")
    return table


def _read(path: Path, files: Files, name: str) -> str:
    with files[name]() as file:
        return text_of(f"{path}/{printable(name)}", file)


def _metadata(path: Path, files: Files, name: str) -> list[tuple[str, str]]:
    """(picture, caption) of each row of a table, whose file names begin at its own folder."""
    where = f"{path}/{printable(name)}"
    columns, rows = table_of(where, _read(path, files, name), splitext(name)[1])
    if FILE_NAME not in columns:
        there = ", ".join(columns[:12]) or "none"
        raise UserError(f"{where} has the columns {there}: expected {FILE_NAME} among them")
    column = column_of(where, columns)
    keys = (FILE_NAME, column)
    pairs = [[row.get(k) for k in keys] if isinstance(row, Mapping) else row for row in rows]
    return _pairs(where, dirname(name), pairs, f"expected texts under {FILE_NAME} and {column}")


def _dataset(path: Path, files: Files, name: str) -> list[tuple[str, str]]:
    where = f"{path}/{printable(name)}"
    try:
        value = document(_read(path, files, name).encode(), where, MOST_BYTES)
    except FewstepError as error:
        raise UserError(f"{error}: {SHAPE}") from error
    pairs = value.get("captions") if isinstance(value, dict) else None
    if not isinstance(pairs, list):
        raise UserError(f"{where}: {SHAPE}")
    return _pairs(where, dirname(name), pairs, SHAPE)


def _pairs(where: str, folder: str, pairs: Sequence[Any], need: str) -> list[tuple[str, str]]:
    """(picture, caption), an empty one for null. Raises UserError for what are no two texts."""
    result = []
    for row, pair in enumerate(pairs):
        fine = isinstance(pair, list) and len(pair) == 2
        if not fine or not isinstance(pair[0], str) or not isinstance(pair[1], str | None):
            raise UserError(f"{where}: row {row} is {short_repr(pair)}: {need}")
        result.append((normpath(join(folder, pair[0])), pair[1] or ""))
    return result
