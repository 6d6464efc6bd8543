"""Tables as columns that are read when they are needed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fewstep.base.errors import UserError, unknown
from fewstep.data.archives import readable
from fewstep.data.columns import MOST_TEXT
from fewstep.data.streams import Stream

INDEX = ("", "Unnamed: 0", "__index_level_0__")  # names that pandas' index goes by

EXACT = 2**53  # whole numbers up to it are exact as floats
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
    # Of a table too large for memory, some columns from a row on: tables of consecutive rows.
    parts: Callable[[Sequence[str], int], Iterator[Frame]] | None = None
    rows: int = 0  # of such a table

    def values(self, name: str) -> Any:
        """The values of a column; of arrays of a large table a stream."""
        parts = self.parts
        if parts is None or self.columns[name].kind != "arrays":
            return self.columns[name].values()
        return Stream(
            self.rows,
            lambda first: (part.columns[name].values() for part in parts([name], first)),
        )

    def column(self, name: str) -> Cells:
        """The column of that name. Raises UserError with the nearest name."""
        if name not in self.columns:
            raise unknown(f"column of {self.name}", name, self.columns)
        return self.columns[name]

    def of_kind(self, names: Iterable[str], *kinds: Kind) -> list[str]:
        return [name for name in names if self.columns[name].kind in kinds]


def check_text(name: str, cells: Cells, way: str) -> None:
    """Raises UserError for a column of text that is one of numbers but for some of its cells.

    way: what else to do than to repair the cells.
    """
    first, strange, numbers, count = "", 0, 0, 0
    for cell in cells.rows():
        if cell is None:
            continue
        row = str(cell)
        count += 1
        numbers += any(c.isdigit() for c in row) and bool(_DIGITS.fullmatch(row))
        if not is_number(row):
            first, strange = first if strange else row, strange + 1
    if 2 * numbers > count and strange:
        raise UserError(
            f"column {name} holds {first!r} ({strange} of {count} cells) where it should be a"
            f" number such as 1234.5: repair the cells, or {way}"
        )


def are_numbers(cells: Cells) -> bool:
    """Whether all texts of a column are numbers, and none a code such as 0311."""
    rows = (str(row).strip() for row in cells.rows() if row is not None)
    fit = (is_number(row) and not re.match("0[0-9]", row) for row in rows)
    return next(fit, False) and all(fit)


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def with_index(frame: Frame) -> Frame:
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


def line_of(file: str, row: int) -> int | None:
    """The line where a row of a .csv begins; a cell in quotes may have several, empty ones too."""
    quotes = 0
    with open(file, "rb") as content:
        for number, line in enumerate(content, 1):
            if quotes % 2 == 0 and line.strip(b"\r\n"):
                row -= 1
                if row < -1:  # the header is one too
                    return number
            quotes += line.count(b'"')
    return None


def bad_cell(name: str, row: int, what: str, file: str = "") -> UserError:
    """The error for a cell that is null, empty or no number; of a .csv by the line it is in."""
    is_csv = file.lower().endswith(".csv") and Path(file).is_file()
    line = line_of(file, row) if is_csv else None
    if line is not None:
        what = "empty" if what == "null" else what
        return UserError(f"{file}, column {name}, line {line}: {what}: remove or repair it")
    start = f"{file}: " if file else ""
    return UserError(f"{start}column {name}: row {row} is {what}: remove or repair it")


def arrow_cells(name: str, column: Any, first: int = 0, file: str = "") -> Cells:
    """A column of pyarrow's; first: the number of its first row; file: for messages."""
    from pyarrow import types

    kind = column.type
    if types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = kind.value_type

    def check() -> None:
        if column.null_count:
            row = first + column.is_null().to_pylist().index(True)
            raise bad_cell(name, row, "null", file)

    def numbers() -> np.ndarray:
        check()
        is_decimal = types.is_decimal(kind)
        values = (column.cast("float64") if is_decimal else column).to_numpy()
        return finite(name, values, first, file)

    def objects() -> list[Any]:
        check()
        return column.to_pylist()

    what = arrow_kind(kind)
    if what == "numbers":
        return Cells(what, numbers)
    if what == "text":
        return Cells(what, lambda: texts(name, objects(), first, file), rows=column.to_pylist)
    if what == "arrays":
        return Cells(what, lambda: stack(name, objects()))
    about = "no values" if types.is_null(kind) else f"values of type {kind}"
    return Cells(what, objects, about if what == "other" else "")


def arrow_kind(kind: Any) -> Kind:
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


def hugging_face_table(name: str) -> Any:
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
        return table


def hugging_face(name: str, table: Any) -> Frame:
    """The table of such a data set, in memory."""
    with readable(f"hf:{name}"):
        features = getattr(table, "features", None) or {}
        columns = {
            column: _object_cells(column, table[column], features.get(column))
            for column in table.column_names
        }
        return with_index(Frame(f"hf:{name}", columns))


def _object_cells(name: str, rows: Iterable[Any], feature: Any) -> Cells:
    """A column of Python's objects."""
    first = next((row for row in rows if row is not None), None)
    classes = tuple(getattr(feature, "names", None) or ())

    def objects() -> list[Any]:
        values = list(rows)
        empty = next((row for row, value in enumerate(values) if value is None), None)
        if empty is not None:
            raise bad_cell(name, empty, "null")
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


def finite(name: str, values: np.ndarray, first: int = 0, file: str = "") -> np.ndarray:
    """The numbers of a column from a row on. Raises UserError for NaN and infinity."""
    if values.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise bad_cell(name, first + int(bad[0]), str(values[bad[0]]), file)
    return values


def texts(name: str, rows: list[str], first: int = 0, file: str = "") -> np.ndarray:
    """The texts of a column from a row on. Raises UserError for an empty or a very long one."""
    if "" in rows:
        raise bad_cell(name, first + rows.index(""), "empty", file)
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
