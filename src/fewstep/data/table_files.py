"""Tables in files: .csv, and .parquet in one file or in several."""

from __future__ import annotations

import codecs
import csv as text_csv
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fewstep.base.errors import UserError, require
from fewstep.data.archives import readable
from fewstep.data.columns import MOST_TEXT, natural
from fewstep.data.frames import Frame, arrow_cells, is_number, with_index
from fewstep.data.images import SPLITS

TABLES = (".csv", ".parquet")


MARKS = ",;\t|"  # that separate the cells of a .csv


def read_frame(path: Path) -> Frame:
    """The table in a .csv or .parquet file, or in several of these."""
    need_pyarrow()
    with readable(str(path)):
        is_csv = path.suffix.lower() == ".csv"
        table = _csv(path) if is_csv else _parquet(path)
        names = check_names(path, table.column_names)
        if not table.num_rows:
            raise no_rows(path)
        columns = {name: arrow_cells(name, table[name], file=str(path)) for name in names}
        return with_index(Frame(str(path), columns, pandas_index(table.schema)))


def need_pyarrow() -> None:
    """Raises UserError where there is none."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UserError("tables need pyarrow: pip install 'fewstep[tables]'") from None


def no_rows(path: Any) -> UserError:
    return UserError(f"{path} has no rows: expected some below the names of its columns")


def check_names(path: Any, names: list[str]) -> list[str]:
    """The names of columns. Raises UserError for one that occurs twice, or is very long."""
    twice = next((name for name in names if names.count(name) > 1), None)
    require(twice is None, f"{path}: column", twice, "one column of a name")
    longest = max(names, key=len, default="")
    need = f"at most {MOST_TEXT} characters"
    require(len(longest) <= MOST_TEXT, f"{path}: name of a column", longest, need)
    return names


def pandas_index(schema: Any) -> tuple[str, ...]:
    """The columns that pandas wrote as its index."""
    index = (schema.pandas_metadata or {}).get("index_columns", [])
    return tuple(name for name in index if isinstance(name, str) and name in schema.names)


def shards_of(path: Path) -> list[Path]:
    """The .parquet files behind a path: itself, those of a folder, or of a pattern such as a*.

    In natural order. Raises UserError for a folder that holds several splits.
    """
    if path.is_file():
        return [path]
    is_folder = path.is_dir()
    places = path.rglob("*.parquet") if is_folder else path.parent.glob(path.name)
    files = sorted(
        (one for one in places if one.is_file() and not one.name.startswith(".")),
        key=lambda one: natural(str(one)),
    )
    if not files:
        raise UserError(f"no file {path}: expected .parquet files")
    heads = {re.split("[^a-z]", one.name.lower())[0] for one in files}
    if is_folder and len(heads) > 1 and heads & SPLITS:
        names = ", ".join(sorted(heads))
        raise UserError(
            f"{path} holds the splits {names}: name one of them, --data '{files[0].parent}/"
            f"{'train' if 'train' in heads else min(heads)}*.parquet', and --validation and --test"
            " likewise"
        )
    return files


def _parquet(path: Path) -> Any:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    files = shards_of(path)
    tables = [ParquetFile(one).read() for one in files]
    check_alike(files, [table.schema for table in tables])
    return tables[0] if len(files) == 1 else pyarrow.concat_tables(tables)


def check_alike(files: Sequence[Path], schemas: Sequence[Any]) -> None:
    """Raises UserError for shards whose columns are others than the first's, or of other types."""
    first = schemas[0]
    for file, schema in zip(files, schemas, strict=True):
        if schema.equals(first):
            continue
        need = "expected the same names and types in all"
        own, other = ", ".join(schema.names), ", ".join(first.names)
        if own != other:
            message = f"{file} has the columns {own}, {files[0].name} has {other}: {need}"
            raise UserError(message)
        pairs = zip(schema, first, strict=True)
        one, two = next((one, two) for one, two in pairs if not one.equals(two))
        types = [f"{field.type}{'' if field.nullable else ' not null'}" for field in (one, two)]
        message = f"{file}: column {one.name} is {types[0]}, in {files[0].name} {types[1]}: {need}"
        raise UserError(message)


def csv_mark(path: Path) -> tuple[str, list[str]]:
    """What separates the cells of a .csv, and its first lines. Raises UserError."""
    _check_utf8(path)
    with path.open(encoding="utf-8-sig") as file:
        lines = [file.readline(2**20) for _ in range(10)]
    return _separator(lines), lines


def _csv(path: Path) -> Any:
    from pyarrow import ArrowInvalid, csv, types

    mark, lines = csv_mark(path)
    read = partial(
        csv.read_csv,
        path,
        # In one block, so that types hold for all rows.
        read_options=csv.ReadOptions(block_size=min(path.stat().st_size + 1, 2**30)),
        parse_options=csv.ParseOptions(delimiter=mark),
    )

    def count_texts(table: Any) -> int:
        return sum(types.is_string(column.type) for column in table.columns)

    try:
        table = read()
        if mark != "," and count_texts(table):  # 20,5 may be a number
            table = min(
                (table, read(convert_options=csv.ConvertOptions(decimal_point=","))),
                key=count_texts,
            )
    except ArrowInvalid as error:
        raise csv_error(path, error, lines) from error
    return table.rename_columns(csv_names(path, table.column_names))


def csv_error(path: Path, error: Exception, lines: Sequence[str]) -> UserError:
    """What pyarrow says of a .csv, in a line."""
    message = str(error).removeprefix("CSV parse error: ")
    return UserError(
        f"cannot read {path}: {message}: expected the names of the columns in the first line,"
        f" which is {lines[0].strip()[:80]!r}, and as many cells in each row"
    )


def csv_names(path: Path, names: Sequence[str]) -> list[str]:
    """The names of the columns in the first line. Raises UserError where these are numbers."""
    names = [" ".join(name.split()) for name in names]
    if all(map(is_number, names)) and names != [str(place) for place in range(len(names))]:
        raise UserError(
            f"{path}: the first line is {', '.join(names[:6])}: expected the names of the columns"
        )
    return names


def _check_utf8(path: Path) -> None:
    """Raises UserError for a text in another encoding, such as a spreadsheet's UTF-16."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            while block := file.read(2**24):
                if "\0" in decoder.decode(block):
                    raise UnicodeError
        decoder.decode(b"", final=True)
    except UnicodeError as error:
        raise UserError(f"{path} is no text in UTF-8: save it as CSV in UTF-8") from error


def _separator(lines: list[str]) -> str:
    """The mark that cuts all first lines into equally many cells, or else into the most."""

    def fit(mark: str) -> tuple[bool, int]:
        try:
            widths = {len(row) for row in text_csv.reader(lines, delimiter=mark) if row}
        except text_csv.Error:  # a cell that is too long for it
            return False, 0
        return len(widths) == 1 and widths != {1}, max(widths, default=0)

    return max(MARKS, key=fit)
