"""A .csv too large for memory, as blocks of whole lines with the types of one block of all."""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fewstep.base.errors import UserError
from fewstep.data.archives import printable
from fewstep.data.table_files import check_names, csv_names

BYTES = 2**24  # of a block, about


@dataclass(frozen=True)
class Text:
    """A .csv as blocks of whole lines: (place, bytes, number of the first row, rows) of each."""

    path: Path
    mark: str
    point: str  # of decimals
    types: dict[str, Any]
    blocks: list[tuple[int, int, int, int]]
    rows: int

    @staticmethod
    def look(path: Path, mark: str, head: str) -> Text:
        """The types that all cells have; 20,5 may be a number where commas are no marks."""
        import pyarrow

        content = head.removeprefix("\ufeff").encode()
        names = check_names(path, csv_names(path, _parse(content, mark, None).column_names))
        points = "." if mark == "," else ".,"
        types = {point: dict.fromkeys(names, pyarrow.null()) for point in points}
        blocks, rows = list[tuple[int, int, int, int]](), 0
        for place, content in _lines(path, mark):
            for point, kinds in types.items():
                table = _parse(content, mark, names, decimal_point=point)
                for name in names:
                    kinds[name] = _wider(kinds[name], _kind_of(table[name]))
            blocks.append((place, len(content), rows, table.num_rows))
            rows += table.num_rows
        for kinds in types.values():
            kinds.update((name, pyarrow.int64()) for name in names if kinds[name] == pyarrow.int8())

        def texts(point: str) -> int:
            return sum(pyarrow.types.is_string(kind) for kind in types[point].values())

        point = min(points, key=texts)
        return Text(path, mark, point, types[point], blocks, rows)

    def read(self, columns: Sequence[str], first: int) -> Iterator[tuple[int, Any]]:
        how = {"decimal_point": self.point, "column_types": self.types}
        with self.path.open("rb") as file:
            for place, size, row, count in self.blocks:
                if row + count > first:
                    file.seek(place)
                    names, content = [*self.types], file.read(size)
                    yield row, _parse(content, self.mark, names, include_columns=columns, **how)


def _parse(content: bytes, mark: str, names: list[str] | None, **convert: Any) -> Any:
    """Lines of a .csv as pyarrow's table. names: of the columns; None: in the first line."""
    from pyarrow import csv as arrow_csv

    return arrow_csv.read_csv(
        io.BytesIO(content),
        read_options=arrow_csv.ReadOptions(block_size=len(content) + 1, column_names=names),
        parse_options=arrow_csv.ParseOptions(delimiter=mark),
        convert_options=arrow_csv.ConvertOptions(**convert),
    )


def _lines(path: Path, mark: str) -> Iterator[tuple[int, bytes]]:
    """(place, whole lines) of a file behind its first line, some bytes at once.

    Raises UserError for a cell in quotes that is longer than a block.
    """
    with path.open("rb") as file:
        place = len(file.readline())
        while content := file.read(BYTES):
            content += file.readline()
            cell = _open_cell(content, mark)
            while cell:
                more = _to_quote(file)
                if not more or len(cell) > BYTES:
                    start = printable(cell[:80].decode(errors="replace").strip(f"{mark}\r\n"))
                    raise UserError(f"{path}: the cell {start} does not end: close its quotes")
                content += more
                cell = _open_cell(cell + more, mark)
            yield place, content
            place += len(content)


def _open_cell(lines: bytes, mark: str) -> bytes:
    """The beginning of a cell in quotes that goes on behind these lines, with what is before it."""
    if b'"' not in lines:
        return b""
    cells = rb'(?:\A|[%b\r\n])"[^"]*(?:""[^"]*)*("?)' % re.escape(mark.encode())
    last = deque(re.finditer(cells, lines), maxlen=1)
    return lines[last[0].start() :] if last and not last[0][1] else b""


def _to_quote(file: IO[bytes]) -> bytes:
    """The next lines up to the first with a quote, or as many as a block has."""
    lines, size = list[bytes](), 0
    while size <= BYTES and (line := file.readline()):
        lines.append(line)
        size += len(line)
        if b'"' in line:
            break
    return b"".join(lines)


def _kind_of(column: Any) -> Any:
    """The type of a column of a block; int8 where its whole numbers may be booleans too."""
    import pyarrow
    from pyarrow import compute

    if column.type != pyarrow.int64():
        return column.type
    ends = compute.min_max(column).as_py()
    return pyarrow.int8() if ends["min"] >= 0 and ends["max"] <= 1 else column.type


def _wider(one: Any, other: Any) -> Any:
    """The type of cells of two blocks, as one block of all would have it."""
    import pyarrow as pa

    if pa.null() in (one, other) or one == other:
        return other if one == pa.null() else one
    chains = (
        (pa.int8(), pa.int64(), pa.float64()),
        (pa.int8(), pa.bool_()),
        (pa.date32(), pa.timestamp("s"), pa.timestamp("ns")),
    )
    for chain in chains:
        if one in chain and other in chain:
            return max(one, other, key=chain.index)
    return pa.string()
