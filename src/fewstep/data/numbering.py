"""Columns of tables as numbers: labels, categories, and numbers side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fewstep.base.errors import UserError
from fewstep.data.columns import Column, Type, natural, number_texts
from fewstep.data.frames import Cells, Frame, check_exact, check_text
from fewstep.data.streams import Stream
from fewstep.data.tables import is_text, native, number_labels, places

FEW = 1000  # classes of labels that nobody named, categories of a column


_TYPES: dict[str, Type] = {"b": "bool", "i": "int", "u": "int"}


def words_of(cells: Cells, most: int) -> tuple[str, ...]:
    """The different texts of a column, in natural order; none where there are more."""
    words = set[str]()
    for row in cells.rows():
        words.add(str(row))
        if len(words) > most:
            return ()
    return tuple(sorted(words, key=natural))


def column_of(name: str, values: np.ndarray) -> Column:
    """The name and type of a column of numbers."""
    return Column(name, _TYPES.get(values.dtype.kind, "float"))


def labels_of(
    frame: Frame, name: str, vocabulary: Sequence[str] | None = None
) -> tuple[Any, tuple[str, ...]]:
    """The labels in a column, and the names of their classes; vocabulary: those of a run.

    For a new run numbers below 0, or too large ones, are numbered in their order and are names.
    """
    cells = frame.column(name)
    if cells.kind not in ("numbers", "text"):
        raise UserError(f"column {name} holds {cells.about or cells.kind}: expected labels")
    if frame.parts is not None and cells.kind == "text":
        own = tuple(vocabulary or ()) or words_of(cells, frame.rows)
        parts = (labels_of(part, name, own)[0] for part in frame.parts([name], 0))
        return np.concatenate([*parts]), own
    values = cells.values()
    labels, classes = number_labels(f"column {name}", values)
    unique, numbers = np.unique(labels, return_inverse=True)
    words = [classes[place] if classes else str(place) for place in unique.tolist()]
    if vocabulary and (is_text(values) or set(words) <= set(vocabulary)):
        return places(f"column {name}", words, vocabulary)[numbers], tuple(vocabulary)
    if vocabulary is not None or classes:
        return labels, classes
    if labels.min() >= 0 and labels.max() < min(len(labels), FEW):
        return labels, cells.classes
    return numbers, tuple(words)


def as_numbers(
    frame: Frame,
    names: Sequence[str],
    vocabulary: Sequence[Column] = (),
    way: str = "leave it out of --condition-columns",
) -> tuple[Any, tuple[Column, ...]]:
    """Columns as floats `[N, F]`, text as one number for each category, and what they are.

    vocabulary: the columns as a run knows them, with their categories. A sole column of arrays is
    itself. Of a large table they are a stream. way: what else to do than to repair a text among
    numbers, for the message.
    """
    if frame.parts is not None:
        return _in_parts(frame, names, vocabulary, way)
    if len(names) == 1 and frame.column(names[0]).kind == "arrays":
        return native(frame.columns[names[0]].values()).astype(np.float64), ()
    parts, columns = [], []
    by_name = {column.name: column for column in vocabulary}
    for name in names:
        cells = frame.column(name)
        if cells.kind not in ("numbers", "text"):
            raise UserError(f"column {name} holds {cells.about or cells.kind}: expected numbers")
        values = cells.values()
        column = by_name.get(name) or column_of(name, values)
        if not is_text(values) and column.type != "category":
            check_exact(name, values)
            parts.append(native(values).astype(np.float64)[:, None])
            columns.append(column)
            continue
        if name in by_name and column.type != "category":
            raise UserError(f"column {name} holds text: expected numbers, as in training")
        if name not in by_name:
            check_text(name, cells, way)
        ranks, words = number_texts(values.tolist())
        if name in by_name:
            ranks = places(f"column {name}", words, column.categories)[ranks]
            words = column.categories
        if len(words) > FEW:
            raise UserError(
                f"column {name} holds {len(words)} different texts: expected at most {FEW}"
                " categories"
            )
        parts.append(np.eye(len(words))[ranks])
        columns.append(Column(name, "category", words))
    return np.concatenate(parts, 1), tuple(columns)


def _in_parts(
    frame: Frame, names: Sequence[str], vocabulary: Sequence[Column], way: str
) -> tuple[Stream, tuple[Column, ...]]:
    """What `as_numbers` gives of a large table, as a stream; in float32 where that is exact."""
    assert frame.parts is not None
    parts, columns = frame.parts, list[Column]()
    if len(names) == 1 and frame.column(names[0]).kind == "arrays":
        return frame.values(names[0]), ()
    by_name = {column.name: column for column in vocabulary}
    first = next(parts(names, 0))
    is_exact = True
    for name in names:
        cells = frame.column(name)
        if cells.kind == "text" and name not in by_name:
            check_text(name, cells, way)
            words = words_of(cells, FEW)
            if not words:
                need = f"expected at most {FEW} categories"
                raise UserError(f"column {name} holds more than {FEW} different texts: {need}")
            columns.append(Column(name, "category", words))
            continue
        if cells.kind == "numbers":
            values = first.columns[name].values()
            is_exact &= np.can_cast(values.dtype, np.float32)
            columns.append(by_name.get(name) or column_of(name, values))
            continue
        as_numbers(first, [name], vocabulary)  # says what is wrong
        columns.append(by_name[name])
    kind = np.float32 if is_exact else np.float64

    def blocks(row: int) -> Iterator[np.ndarray]:
        for part in parts(names, row):
            yield as_numbers(part, names, columns)[0].astype(kind)

    return Stream(frame.rows, blocks), tuple(columns)
