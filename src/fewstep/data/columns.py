"""What the user calls the numbers of a sample, the classes and the parts of a condition."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from fewstep.base.errors import require, unknown

MOST_NAMES = 10_000  # columns, classes or categories
MOST_TEXT = 1000  # characters of a name
MOST_LABELS = 10**6

Type = Literal["float", "int", "bool", "category"]
TYPES = ("float", "int", "bool", "category")


@dataclass(frozen=True)
class Column:
    """A column of a table: its name, the type of its values, and the categories of a text."""

    name: str
    type: Type = "float"
    categories: tuple[str, ...] = ()  # in the order of their numbers

    @property
    def width(self) -> int:
        """How many numbers it takes: one, or one for each category (one-hot)."""
        return len(self.categories) if self.type == "category" else 1

    @property
    def numbers(self) -> tuple[Column, ...]:
        """A column for each of its numbers."""
        if self.type != "category":
            return (self,)
        return tuple(Column(f"{self.name}={value}", self.type) for value in self.categories)


@dataclass(frozen=True)
class Names:
    """The names that a file gives; all are empty where it gives none."""

    columns: tuple[Column, ...] = ()  # of a sample `[D]`, in their order; their widths add up to D
    features: tuple[Column, ...] = ()  # of the condition "features"
    classes: tuple[str, ...] = ()  # of the labels, in the order of their numbers
    label: str = ""  # the label's column
    occurring: tuple[int, ...] = ()  # the labels that occur, where some never do

    def label_number(self, label: str) -> int:
        """The label that somebody typed: the name of a class, or its number. Raises UserError."""
        if label in self.classes:
            return self.classes.index(label)
        if re.fullmatch(r"-?[0-9]{1,18}", label):
            name = str(int(label))  # 0311 is the class that a table's numbers call 311
            return self.classes.index(name) if name in self.classes else int(label)
        require(
            bool(self.classes), "label", label, "a whole number: this run's classes have no names"
        )
        raise unknown("label", label, self.classes)

    def without_labels(self) -> Names:
        """The names of all but the labels."""
        return replace(self, classes=(), label="", occurring=())

    def storable(self) -> Names:
        """The names without the fields that are too long for a run's files."""
        short = {}
        for f in fields(self):
            alone = Names(**{f.name: getattr(self, f.name)})
            if Names.from_json(alone.to_json()) is not None:
                short[f.name] = getattr(self, f.name)
        return Names(**short)

    def to_json(self) -> dict[str, Any]:
        """As JSON's own types, without what is empty."""
        values: dict[str, Any] = {}
        for key, columns in (("columns", self.columns), ("features", self.features)):
            if columns:
                values[key] = [[c.name, c.type, list(c.categories)] for c in columns]
        if self.classes:
            values["classes"] = list(self.classes)
        if self.label:
            values["label"] = self.label
        if self.occurring:
            values["occurring"] = list(self.occurring)
        return values

    @staticmethod
    def from_json(values: Any) -> Names | None:
        """The names that `to_json` gave; None for what is none."""
        if not isinstance(values, Mapping) or values.keys() - {
            *("columns", "features", "classes", "label", "occurring")
        }:
            return None
        columns = _columns(values.get("columns", []))
        features = _columns(values.get("features", []))
        classes, label = values.get("classes", []), values.get("label", "")
        occurring = values.get("occurring", [])
        if columns is None or features is None or not _are_texts(classes) or not _is_text(label):
            return None
        if not isinstance(occurring, list) or len(occurring) > MOST_NAMES:
            return None
        if not all(type(n) is int and 0 <= n < MOST_LABELS for n in occurring):
            return None
        return Names(columns, features, tuple(classes), label, tuple(occurring))


NO_NAMES = Names()


def numbers_in(columns: Iterable[Column], count: int) -> list[Column]:
    """A column for each of so many numbers: those of the columns, or numbered ones."""
    result = [number for column in columns for number in column.numbers]
    return result if len(result) == count else [Column(str(place)) for place in range(count)]


def natural(text: str) -> tuple[tuple[int, str], ...]:
    """The key that sorts texts as people do: "2" before "10", by runs of digits."""
    key = []
    for place, run in enumerate(re.split("([0-9]+)", text)):
        digits = run.lstrip("0") if place % 2 else ""
        key.append((len(digits), digits or run))
    return tuple(key)


def number_texts(texts: Iterable[Any]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The number of each text in the natural order of all, and the texts in that order."""
    words = [t.decode(errors="backslashreplace") if isinstance(t, bytes) else str(t) for t in texts]
    classes = tuple(sorted(set(words), key=natural))
    place = {word: number for number, word in enumerate(classes)}
    return np.array([place[word] for word in words], dtype=np.int64), classes


def _columns(values: Any) -> tuple[Column, ...] | None:
    if not isinstance(values, list) or len(values) > MOST_NAMES:
        return None
    columns = []
    for value in values:
        if not isinstance(value, list) or len(value) != 3:
            return None
        name, kind, categories = value
        if not _is_text(name) or kind not in TYPES or not _are_texts(categories):
            return None
        columns.append(Column(name, kind, tuple(categories)))
    return tuple(columns)


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and len(values) <= MOST_NAMES and all(map(_is_text, values))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MOST_TEXT
