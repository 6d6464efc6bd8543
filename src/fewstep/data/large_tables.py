"""Tables too large for memory, read in parts: .parquet and shards of it, .csv, hf:NAME."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from fewstep.base.errors import UserError
from fewstep.data.archives import file_mark, readable
from fewstep.data.entries import File
from fewstep.data.frames import Cells, Frame, arrow_cells, arrow_kind, bad_cell, with_index
from fewstep.data.large_csv import BYTES, Text
from fewstep.data.reading import Reading
from fewstep.data.streams import is_large
from fewstep.data.table_files import (
    check_alike,
    check_names,
    csv_error,
    csv_mark,
    need_pyarrow,
    no_rows,
    pandas_index,
    shards_of,
)

PIECE = 2**14  # rows of a part

Read = Callable[[Sequence[str], int], Iterator[tuple[int, Any]]]  # (its first row, a pyarrow table)


@dataclass(frozen=True)
class Table:
    """A large table. read: some columns from a row on. classes: names of labels, by column."""

    name: str
    schema: Any
    rows: int
    read: Read
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def frame(self) -> Frame:
        """It as the frame that smaller ones are."""
        names = check_names(self.name, self.schema.names)
        columns = {name: self._cells(name) for name in names}
        index = pandas_index(self.schema)
        return with_index(Frame(self.name, columns, index, self._parts, self.rows))

    def _parts(self, names: Sequence[str], first: int) -> Iterator[Frame]:
        with readable(self.name):
            for start, table in self.read(names, first):
                skip = max(0, first - start)
                parts = {name: table[name].slice(skip) for name in names}
                columns = {
                    name: _cells(name, part, start + skip, self.name)
                    for name, part in parts.items()
                }
                yield Frame(self.name, columns)

    def _cells(self, name: str) -> Cells:
        """A column as a whole: its values are read where they are asked for."""
        empty = self.schema.empty_table()[name]
        plain = _cells(name, empty)

        def values() -> Any:
            return np.concatenate([p.columns[name].values() for p in self._parts([name], 0)])

        def rows() -> Iterator[Any]:
            return (row for part in self._parts([name], 0) for row in part.columns[name].rows())

        classes = self.classes.get(name, ())
        return Cells(plain.kind, values, plain.about, classes, rows)


def _cells(name: str, column: Any, first: int = 0, file: str = "") -> Cells:
    """A column of a part; its arrays are read without Python's objects."""
    from pyarrow import BaseExtensionType, ExtensionArray, chunked_array

    if isinstance(column.type, BaseExtensionType):  # of `datasets`: arrays of a shape
        chunks = [c.storage if isinstance(c, ExtensionArray) else c for c in column.chunks]
        column = chunked_array(chunks, column.type.storage_type)
    cells = arrow_cells(name, column, first, file)
    if arrow_kind(column.type) != "arrays":
        return cells
    return Cells("arrays", partial(_arrays, name, column, first, file))


def _arrays(name: str, column: Any, first: int, file: str = "") -> np.ndarray:
    """A column of lists as an array `[N, ...]`, in the narrowest type that is no byte.

    Raises UserError for null, and where lists differ in length.
    """
    from pyarrow import compute, types

    array = column.combine_chunks()
    shape = [len(array)]
    while types.is_nested(array.type):
        if array.null_count:
            row = array.is_null().to_pylist().index(True) // max(1, len(array) // shape[0])
            raise bad_cell(name, first + row, "null", file)
        lengths = compute.list_value_length(array).to_numpy(zero_copy_only=False)
        if len(lengths) and (lengths != lengths[0]).any():
            raise UserError(
                f"the rows of column {name} differ in length: pad them and say where with a mask"
            )
        shape.append(int(lengths[0]) if len(lengths) else 0)
        array = array.flatten()
    if array.null_count:
        row = array.is_null().to_pylist().index(True) // max(1, len(array) // shape[0])
        raise UserError(f"column {name}: row {first + row} holds null: remove or repair it")
    values = array.to_numpy(zero_copy_only=False).reshape(shape)
    # Small tables hold Python's whole numbers there, of which no bytes of pictures are made.
    wider = {"u1": np.int16, "u2": np.int32, "u4": np.int64, "f2": np.float32}
    return values.astype(wider.get(values.dtype.str[1:], values.dtype), copy=False)


def parquet(path: Path, reading: Reading) -> Table | None:
    """A large .parquet, or several of these; None where they are few numbers."""
    need_pyarrow()
    from pyarrow.parquet import ParquetFile

    with readable(str(path)):
        files = shards_of(path)
        facts = []
        for file in files:
            with ParquetFile(file) as source:
                facts.append((file, source.metadata, source.schema_arrow))
    schemas = [fact[2] for fact in facts]
    groups, numbers, size, rows = list[tuple[Path, int, int, int]](), 0, 0, 0
    for file, metadata, _ in facts:
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            chunks = [group.column(place) for place in range(group.num_columns)]
            numbers += sum(chunk.num_values for chunk in chunks)
            size += sum(chunk.total_uncompressed_size for chunk in chunks)
            groups.append((file, number, rows, group.num_rows))
            rows += group.num_rows
    if not rows or not is_large(max(numbers, size // 4), reading):
        return None
    check_alike(files, schemas)
    piece = _piece(size, rows)

    def read(names: Sequence[str], first: int) -> Iterator[tuple[int, Any]]:
        import pyarrow

        for file, number, start, count in groups:
            if start + count <= first:
                continue
            with ParquetFile(file, memory_map=True) as source:
                row = start
                batches = source.iter_batches(piece, row_groups=[number], columns=[*names])
                for batch in batches:
                    if row + len(batch) > first:
                        yield row, pyarrow.Table.from_batches([batch])
                    row += len(batch)

    return Table(str(path), schemas[0], rows, read)


def csv(path: Path, reading: Reading) -> Table | None:
    """A large .csv; None where it is small. A pass of its own finds the types for all rows."""
    need_pyarrow()
    if not is_large(path.stat().st_size // 4, reading):
        return None
    from pyarrow import ArrowInvalid, schema

    with readable(str(path)):
        mark, lines = csv_mark(path)
        try:
            text = Text.look(path, mark, lines[0])
        except ArrowInvalid as error:
            raise csv_error(path, error, lines) from error
    if not text.rows:
        raise no_rows(path)
    return Table(str(path), schema(list(text.types.items())), text.rows, text.read)


def hugging_face(name: str, table: Any, reading: Reading) -> Table | None:
    """A large data set of `datasets`, which maps its Arrow files; None where it is small."""
    size = int(table.data.nbytes) if hasattr(table, "data") else 0  # as it lies in its files
    if not hasattr(table, "data") or not is_large(size // 4, reading):
        return None
    arrow, piece = table.with_format("arrow"), _piece(size, len(table))

    def read(names: Sequence[str], first: int) -> Iterator[tuple[int, Any]]:
        columns = arrow.select_columns([*names])
        for row in range(first, len(table), piece):
            yield row, columns[row : row + piece]

    schema = arrow[:0].schema
    classes = {
        key: tuple(getattr(feature, "names", None) or ()) for key, feature in table.features.items()
    }
    return Table(f"hf:{name}", schema, len(table), read, classes)


def _piece(size: int, rows: int) -> int:
    """How many rows of a table of so many bytes are read at once."""
    return max(1, min(PIECE, BYTES * rows // max(1, size)))


class Pictures(Mapping[str, File]):
    """A column of encoded pictures as files, whose names end in the row; source in their order."""

    def __init__(self, frame: Frame, column: str) -> None:
        self.frame, self.column = frame, column
        self.names = [f"{column} of row {row}" for row in range(frame.rows)]
        self.next, self.rows = 0, self._from(0)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, name: str) -> File:
        row = int(name.rpartition(" ")[2])
        if row != self.next:
            self.rows = self._from(row)
        self.next = row + 1
        return File(partial(_open, next(self.rows)), str)

    def _from(self, row: int) -> Iterator[Any]:
        assert self.frame.parts is not None
        for part in self.frame.parts([self.column], row):
            yield from part.columns[self.column].values()


def _open(cell: Any) -> IO[bytes]:
    content = None if cell is None else cell.get("bytes")
    if content is None:
        raise UserError("it holds no bytes of a picture")
    return io.BytesIO(content)


def mark_of(path: Path) -> str:
    """What tells whether any of the files behind a path has changed."""
    files = shards_of(path) if path.suffix.lower() != ".csv" else [path]
    return "\n".join(f"{file} {file_mark(file)}" for file in files)
