"""Tables as columns that are read when they are needed: .csv, .parquet and hf:NAME."""

from __future__ import annotations

import codecs
import csv as text_csv
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fewstep.base.errors import UserError, require, unknown
from fewstep.data.archives import readable
from fewstep.data.columns import MOST_TEXT

TABLES = (".csv", ".parquet")
INDEX = ("", "Unnamed: 0", "__index_level_0__")  # names that pandas' index goes by

EXACT = 2**53  # whole numbers up to it are exact as floats
MARKS = ",;\t|"  # that separate the cells of a .csv
# Digits that are no number to a reader: 20,5 and 1,234 and 1 234 and 5 % and $5.
_DIGITS = re.compile(r"[-+]?[$€£]?(\d{1,3}([ ,.'\u00a0]\d{3})+|\d*)([.,]\d*)?([eE][-+]?\d+)?\s?%?")

Kind = Literal["numbers", "text", "arrays", "pictures", "other"]


@dataclass(frozen=True)
class Cells:
    """A column before it is read. values: its array; raises UserError where a row is empty."""

    kind: Kind
    values: Callable[[], Any]
    about: str = ""  # what it holds, where that is nothing to learn
    classes: tuple[str, ...] = ()  # the names of its numbers
    rows: Callable[[], Iterable[Any]] = list  # of text, as they are


@dataclass(frozen=True)
class Frame:
    """A table: its name for messages, its columns, and those that are pandas' index."""

    name: str
    columns: Mapping[str, Cells]
    index: tuple[str, ...] = ()

    def column(self, name: str) -> Cells:
        """The column of that name. Raises UserError with the nearest name."""
        if name not in self.columns:
            raise unknown(f"column of {self.name}", name, self.columns)
        return self.columns[name]

    def of_kind(self, names: Iterable[str], *kinds: Kind) -> list[str]:
        return [name for name in names if self.columns[name].kind in kinds]


def read_frame(path: Path) -> Frame:
    """The table in a .csv or .parquet file."""
    try:
        from pyarrow.parquet import read_table
    except ImportError:
        raise UserError("tables need pyarrow: pip install 'fewstep[tables]'") from None
    with readable(str(path)):
        is_csv = path.suffix.lower() == ".csv"
        table = _csv(path) if is_csv else read_table(path)
        names = table.column_names
        twice = next((name for name in names if names.count(name) > 1), None)
        require(twice is None, f"{path}: column", twice, "one column of a name")
        longest = max(names, key=len, default="")
        need = f"at most {MOST_TEXT} characters"
        require(len(longest) <= MOST_TEXT, f"{path}: name of a column", longest, need)
        if not table.num_rows:
            raise UserError(f"{path} has no rows: expected some below the names of its columns")
        columns = {name: _arrow_cells(name, table[name]) for name in names}
        pandas = table.schema.pandas_metadata or {}
        index = [name for name in pandas.get("index_columns", []) if isinstance(name, str)]
        return _with_index(Frame(str(path), columns, tuple(n for n in index if n in columns)))


def _csv(path: Path) -> Any:
    from pyarrow import ArrowInvalid, csv, types

    _check_utf8(path)
    with path.open(encoding="utf-8-sig") as file:
        lines = [file.readline(2**20) for _ in range(10)]
    mark = _separator(lines)
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
        message = str(error).removeprefix("CSV parse error: ")
        raise UserError(
            f"cannot read {path}: {message}: expected the names of the columns in the first line,"
            f" which is {lines[0].strip()[:80]!r}, and as many cells in each row"
        ) from error
    table = table.rename_columns([" ".join(name.split()) for name in table.column_names])
    names = table.column_names
    if all(map(_is_number, names)) and names != [str(place) for place in range(len(names))]:
        raise UserError(
            f"{path}: the first line is {', '.join(names[:6])}: expected the names of the columns"
        )
    return table


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


def check_text(name: str, cells: Cells, way: str) -> None:
    """Raises UserError for a column of text that is one of numbers but for some of its cells.

    way: what else to do than to repair the cells.
    """
    rows = [str(row) for row in cells.rows() if row is not None]
    numbers = sum(any(c.isdigit() for c in row) and bool(_DIGITS.fullmatch(row)) for row in rows)
    if 2 * numbers <= len(rows):
        return
    strange = [row for row in rows if not _is_number(row)]
    if strange:
        raise UserError(
            f"column {name} holds {strange[0]!r} ({len(strange)} of {len(rows)} cells) where it"
            f" should be a number such as 1234.5: repair the cells, or {way}"
        )


def are_numbers(cells: Cells) -> bool:
    """Whether all texts of a column are numbers, and none a code such as 0311."""
    rows = [str(row).strip() for row in cells.rows() if row is not None]
    return bool(rows) and all(_is_number(row) and not re.match("0[0-9]", row) for row in rows)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _with_index(frame: Frame) -> Frame:
    """The frame whose first column is an index, if it looks like one that pandas wrote."""
    first = next(iter(frame.columns), "x")
    if first not in INDEX or first in frame.index or frame.columns[first].kind != "numbers":
        return frame
    try:
        values = frame.columns[first].values()
    except UserError:  # an empty cell: no index, and refused where the column is used
        return frame
    is_index = values.dtype.kind in "iu" and len(np.unique(values)) == len(values)
    return replace(frame, index=(first,)) if is_index else frame


def _arrow_cells(name: str, column: Any) -> Cells:
    """A column of pyarrow's."""
    from pyarrow import types

    kind = column.type
    if types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = kind.value_type

    def check() -> None:
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise UserError(f"column {name}: row {row} is null: remove or repair it")

    def numbers() -> np.ndarray:
        check()
        is_decimal = types.is_decimal(kind)
        return finite(name, (column.cast("float64") if is_decimal else column).to_numpy())

    def objects() -> list[Any]:
        check()
        return column.to_pylist()

    what = _arrow_kind(kind)
    if what == "numbers":
        return Cells(what, numbers)
    if what == "text":
        return Cells(what, lambda: texts(name, objects()), rows=column.to_pylist)
    if what == "arrays":
        return Cells(what, lambda: stack(name, objects()))
    about = "no values" if types.is_null(kind) else f"values of type {kind}"
    return Cells(what, objects, about if what == "other" else "")


def _arrow_kind(kind: Any) -> Kind:
    """What a type of pyarrow's holds."""
    from pyarrow import types

    if types.is_decimal(kind) or _is_numeric(kind):
        return "numbers"
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    inner = kind
    while types.is_list(inner) or types.is_large_list(inner) or types.is_fixed_size_list(inner):
        inner = inner.value_type
    if inner != kind and _is_numeric(inner):
        return "arrays"
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return "pictures"
    return "other"


def _is_numeric(kind: Any) -> bool:
    from pyarrow import types

    return types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind)


def hugging_face(name: str) -> Frame:
    """The train split, or the only one, of a data set by name or in a folder of `save_to_disk`."""
    try:
        import datasets
    except ImportError:
        raise UserError("hf:NAME needs datasets: pip install 'fewstep[hf]'") from None
    with readable(f"hf:{name}"):
        load = datasets.load_from_disk if Path(name).is_dir() else datasets.load_dataset
        table = load(name)
        if isinstance(table, datasets.DatasetDict):
            is_only = "train" not in table and len(table) == 1
            table = next(iter(table.values())) if is_only else table["train"]
        features = getattr(table, "features", None) or {}
        columns = {
            column: _object_cells(column, table[column], features.get(column))
            for column in table.column_names
        }
        return _with_index(Frame(f"hf:{name}", columns))


def _object_cells(name: str, rows: Iterable[Any], feature: Any) -> Cells:
    """A column of Python's objects."""
    first = next((row for row in rows if row is not None), None)
    classes = tuple(getattr(feature, "names", None) or ())

    def objects() -> list[Any]:
        values = list(rows)
        empty = next((row for row, value in enumerate(values) if value is None), None)
        if empty is not None:
            raise UserError(f"column {name}: row {empty} is null: remove or repair it")
        return values

    if hasattr(first, "getbands"):
        return Cells("pictures", objects)
    if isinstance(first, Mapping):
        has_bytes = isinstance(first.get("bytes"), bytes)
        return Cells("pictures" if has_bytes else "other", objects, "records")
    if isinstance(first, str):
        return Cells("text", lambda: texts(name, objects()), rows=lambda: rows)
    if isinstance(first, bool | int | float | np.number | np.bool_):
        return Cells("numbers", lambda: finite(name, np.asarray(objects())), classes=classes)
    if isinstance(first, list | tuple | np.ndarray):
        return Cells("arrays", lambda: stack(name, objects()))
    return Cells("other", objects, f"values of type {type(first).__name__}")


def finite(name: str, values: np.ndarray) -> np.ndarray:
    """The numbers of a column. Raises UserError for NaN and infinity."""
    if values.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise UserError(f"column {name}: row {bad[0]} is {values[bad[0]]}: remove or repair it")
    return values


def texts(name: str, rows: list[str]) -> np.ndarray:
    """The texts of a column. Raises UserError for an empty or a very long one."""
    if "" in rows:
        raise UserError(f"column {name}: row {rows.index('')} is empty: remove or repair it")
    longest = max(rows, key=len, default="")
    if len(longest) > MOST_TEXT:
        need = f"at most {MOST_TEXT}"
        raise UserError(f"column {name} holds a text of {len(longest)} characters: expected {need}")
    return np.asarray(rows)


def stack(name: str, rows: list[Any]) -> np.ndarray:
    """The arrays of a column as one. Raises UserError where they differ in length."""
    try:
        result = np.asarray(rows)
    except ValueError as error:
        raise UserError(
            f"the rows of column {name} differ in length: pad them and say where with a mask"
        ) from error
    if result.dtype == object:
        bad = next(row for row, value in enumerate(rows) if np.asarray(value).dtype == object)
        raise UserError(f"column {name}: row {bad} holds null: remove or repair it")
    return result


def check_exact(name: str, values: np.ndarray) -> None:
    """Raises UserError for whole numbers that floats would make others, such as long ids."""
    if values.dtype.kind not in "iu" or not values.size:
        return
    large = np.flatnonzero((values > EXACT) | (values < -EXACT))
    floats = values[large].astype(np.float64).tolist()
    for row, value in zip(large.tolist(), floats, strict=True):
        if int(value) != int(values[row]):
            raise UserError(
                f"column {name}: row {row} is {values[row]}, which no float holds: expected whole"
                " numbers up to 2^53: subtract the smallest, or leave ids out (--columns)"
            )
