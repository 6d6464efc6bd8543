"""What the user calls the numbers of a sample, the classes and the parts of a condition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

MOST_NAMES = 10_000  # columns, classes or categories
MOST_TEXT = 1000  # characters of a name

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


@dataclass(frozen=True)
class Names:
    """The names that a file gives; all are empty where it gives none."""

    columns: tuple[Column, ...] = ()  # of a sample `[D]`, in their order
    features: tuple[Column, ...] = ()  # of the condition "features"
    classes: tuple[str, ...] = ()  # of the labels, in the order of their numbers
    label: str = ""  # the label's column

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
        return values

    @staticmethod
    def from_json(values: Any) -> Names | None:
        """The names that `to_json` gave; None for what is none."""
        if not isinstance(values, Mapping) or values.keys() - {
            *("columns", "features", "classes", "label")
        }:
            return None
        columns = _columns(values.get("columns", []))
        features = _columns(values.get("features", []))
        classes, label = values.get("classes", []), values.get("label", "")
        if columns is None or features is None or not _are_texts(classes) or not _is_text(label):
            return None
        return Names(columns, features, tuple(classes), label)


NO_NAMES = Names()


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
