"""Columns of tables: which are samples, labels and conditions, and what is left out.

| a column | is |
|---|---|
| that the user names | what he names it for |
| pandas' index, or a first column without a name that numbers the rows | left out |
| x0, x, images, image, img, data or samples, that holds arrays or pictures | the samples |
| other columns of numbers, where there is no such column | the samples, side by side |
| label, labels or y | labels: of text, or beside numbers few whole ones from 0 that all occur |
| cond, features, mask | conditions of that name |
| any other | left out, with the reason |
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fewstep.base.errors import UserError, require
from fewstep.data import images
from fewstep.data.archives import readable
from fewstep.data.columns import Column, Names, Type, number_texts
from fewstep.data.frames import Frame, Kind, are_numbers, check_exact, check_text
from fewstep.data.reading import Content, Reading
from fewstep.data.tables import ROLES, SAMPLES, condition, is_text, native, number_labels, places

log = logging.getLogger("fewstep")

FEW = 1000  # classes of labels that nobody named, categories of a column
_TYPES: dict[str, Type] = {"b": "bool", "i": "int", "u": "int"}


def from_frame(frame: Frame, reading: Reading) -> Content:
    """Samples and condition of a table. Raises UserError for columns that cannot be what is said.

    With a file of conditions the columns of labels and conditions are that file's.
    """
    if reading.cond is not None:
        reading = replace(reading, label_column=None, condition_columns=())
    own = (*reading.columns, *reading.condition_columns)
    if reading.label_column is not None:
        own += (reading.label_column,)
    for name in own:
        frame.column(name)
        need = "each column for one thing"
        require(own.count(name) == 1, f"{frame.name}: column", name, need)
    free = [name for name in frame.columns if name not in (*own, *frame.index)]
    with readable(frame.name):
        return _Roles(frame, reading, free).content()


@dataclass(frozen=True)
class _Roles:
    """What the columns of a table are for. free: those that nobody named and that are no index."""

    frame: Frame
    reading: Reading
    free: list[str]
    reasons: dict[str, str] = field(default_factory=dict)  # why a column is left out

    def content(self) -> Content:
        frame, reading = self.frame, self.reading
        others = self._others()
        label = reading.label_column or next((n for n in ROLES["label"] if n in self.free), None)
        samples = self._samples([n for n in self.free if n not in (label, *others)])
        are_numbers = len(frame.of_kind(samples, "numbers")) == len(samples)
        if label is not None and reading.label_column is None and are_numbers:
            label = self._plain_label(label, None if reading.columns else samples)
        cond: dict[str, Any] = {role: frame.columns[n].values() for role, n in others.items()}
        columns: tuple[Column, ...] = ()
        names = Names()
        if reading.condition_columns:
            cond["features"], columns = features(frame, reading.condition_columns)
        if label is not None:
            cond["label"], classes = labels_of(frame, label)
            names = Names(classes=classes, label=label)
        in_order = samples if reading.columns else [n for n in frame.columns if n in samples]
        x0, kinds = self._stack(in_order)
        result, _ = condition(frame.name, cond)
        in_use = {*samples, *others.values(), *reading.condition_columns, label}
        for name in [] if reading.columns else frame.of_kind(set(frame.columns) - in_use, "text"):
            check_text(name, frame.columns[name], "choose --columns without it")
        left = tuple(self._why(name, samples) for name in frame.columns if name not in in_use)
        names = replace(names, columns=kinds, features=columns)
        return Content({"x0": x0, "cond": result}, names, left)

    def _others(self) -> dict[str, str]:
        """The columns that are conditions by their names."""
        own = () if self.reading.condition_columns else ("cond", "features")
        roles = {role: role for role in own if self._holds(role, "numbers", "arrays")}
        is_flag = self._holds("mask", "numbers")
        is_flag = is_flag and self.frame.columns["mask"].values().dtype.kind == "b"
        if is_flag or self._holds("mask", "arrays"):
            roles["mask"] = "mask"
        return roles

    def _holds(self, name: str, *kinds: Kind) -> bool:
        """Whether nobody named that column, and it is of one of these kinds."""
        return name in self.free and self.frame.columns[name].kind in kinds

    def _samples(self, rest: list[str]) -> list[str]:
        """The names of the columns that are samples."""
        frame = self.frame
        if self.reading.columns:
            samples = list(self.reading.columns)
            wrong = frame.of_kind(samples, "text", "other")
            if wrong:
                cells = frame.columns[wrong[0]]
                hint = ": give them as numbers"
                if cells.kind == "text":
                    check_text(wrong[0], cells, "leave it out of --columns")
                    hint = f" (--condition-columns {wrong[0]} conditions on text)"
                raise UserError(
                    f"{frame.name}: column {wrong[0]} holds {cells.about or 'text'}: expected"
                    f" numbers{hint}"
                )
            return samples
        whole = [n for n in SAMPLES if n in frame.of_kind(rest, "arrays", "pictures")]
        numbers = frame.of_kind(rest, "numbers")
        arrays = frame.of_kind(rest, "arrays", "pictures")
        if whole:
            return whole[:1]
        if numbers:
            return numbers
        if len(arrays) == 1:
            return arrays
        for name in frame.of_kind(rest, "text"):
            check_text(name, frame.columns[name], "choose --columns without it")
        raise UserError(
            f"{frame.name} has the columns {', '.join(frame.columns) or 'none'}: expected samples"
            f" in columns of numbers, or in {' or '.join(SAMPLES)}: --columns NAME takes others"
        )

    def _plain_label(self, label: str, samples: list[str] | None) -> str | None:
        """The label column beside numbers, where it looks like labels.

        Else a number joins the samples, unless these were named: None.
        """
        frame = self.frame
        if are_labels(frame, label):
            if label == "y" and frame.columns[label].kind == "numbers":
                message = (
                    "fewstep: %s: column y is taken for labels: --columns takes it for numbers"
                )
                log.warning(message, frame.name)
            return label
        if frame.columns[label].kind == "numbers" and samples is not None:
            message = (
                "fewstep: %s: column %s is taken for numbers, as are %s: --label-column %s takes it"
                " for labels"
            )
            log.warning(message, frame.name, label, ", ".join(samples[:6]), label)
            samples.append(label)
            return None
        self.reasons[label] = f"no few labels; --label-column {label} takes it for labels"
        return None

    def _stack(self, names: list[str]) -> tuple[Any, tuple[Column, ...]]:
        """The samples in these columns, and what these are where they are numbers."""
        frame = self.frame
        if len(names) == 1 and frame.columns[names[0]].kind == "pictures":
            return pictures(names[0], frame.columns[names[0]].values(), self.reading.size), ()
        if len(names) == 1 and frame.columns[names[0]].kind == "arrays":
            return native(frame.columns[names[0]].values()), ()
        wrong = frame.of_kind(names, "arrays", "pictures")
        if wrong:
            raise UserError(
                f"{frame.name}: column {wrong[0]} holds {frame.columns[wrong[0]].kind}: expected"
                " it alone, or columns of numbers"
            )
        values = [frame.columns[name].values() for name in names]
        kinds = tuple(map(column_of, names, values))
        for name, column in zip(names, values, strict=True):
            check_exact(name, column)
        return np.stack([native(one) for one in values], 1), kinds

    def _why(self, name: str, samples: list[str]) -> str:
        """Why a column is left out, in a line."""
        cells = self.frame.columns[name]
        if name in self.reasons:
            why = self.reasons[name]
        elif name in self.frame.index:
            why = "pandas' index" + ("; --columns takes it" if name else "")
        elif cells.kind == "text":
            what = "numbers written as text" if are_numbers(cells) else "text"
            why = f"{what}; --condition-columns {name} conditions on it"
        elif cells.kind == "other":
            why = cells.about
            why += "" if why == "no values" else "; give them as numbers"
        elif self.reading.columns:
            why = "not among --columns"
        else:
            why = f"{cells.kind} beside {', '.join(samples[:3])}; --columns {name} takes it"
        return f"column {name or '(without a name)'}: {why}"


def are_labels(frame: Frame, name: str) -> bool:
    """Whether a column looks like labels: few texts, or few whole numbers from 0 that all occur."""
    cells = frame.column(name)
    if cells.kind not in ("numbers", "text"):
        return False
    values = np.unique(cells.values())
    if not 0 < len(values) <= FEW:
        return False
    return cells.kind == "text" or bool((values == np.arange(len(values))).all())


def column_of(name: str, values: np.ndarray) -> Column:
    """The name and type of a column of numbers."""
    return Column(name, _TYPES.get(values.dtype.kind, "float"))


def pictures(name: str, rows: list[Any], size: int | None) -> np.ndarray:
    """Pictures, also in files' bytes as {"bytes"}, as an array `[N, C, H, W]`."""

    def files() -> Iterable[tuple[str, Any]]:
        for number, row in enumerate(rows):
            place = f"{name} of row {number}"
            is_file = isinstance(row, Mapping)
            yield place, images.decode(place, io.BytesIO(row["bytes"])) if is_file else row

    return images.stack(files(), size)


def labels_of(
    frame: Frame, name: str, vocabulary: Sequence[str] | None = None
) -> tuple[Any, tuple[str, ...]]:
    """The labels in a column, and the names of their classes; vocabulary: those of a run.

    For a new run numbers below 0, or too large ones, are numbered in their order and are names.
    """
    cells = frame.column(name)
    if cells.kind not in ("numbers", "text"):
        raise UserError(f"column {name} holds {cells.about or cells.kind}: expected labels")
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


def features(
    frame: Frame, names: Sequence[str], vocabulary: Sequence[Column] = ()
) -> tuple[np.ndarray, tuple[Column, ...]]:
    """Columns as floats `[N, F]`, text as one number for each category, and what they are.

    vocabulary: the columns as a run knows them, with their categories. A sole column of arrays is
    itself.
    """
    if len(names) == 1 and frame.column(names[0]).kind == "arrays":
        return native(frame.columns[names[0]].values()).astype(np.float64), ()
    parts, columns = [], []
    for place, name in enumerate(names):
        cells = frame.column(name)
        if cells.kind not in ("numbers", "text"):
            raise UserError(f"column {name} holds {cells.about or cells.kind}: expected numbers")
        values = cells.values()
        column = vocabulary[place] if vocabulary else column_of(name, values)
        if not is_text(values) and column.type != "category":
            check_exact(name, values)
            parts.append(native(values).astype(np.float64)[:, None])
            columns.append(column)
            continue
        if vocabulary and column.type != "category":
            raise UserError(f"column {name} holds text: expected numbers, as in training")
        if not vocabulary:
            check_text(name, cells, "leave it out of --condition-columns")
        numbers, words = number_texts(values.tolist())
        if vocabulary:
            numbers, words = (
                places(f"column {name}", words, column.categories)[numbers],
                (column.categories),
            )
        if len(words) > FEW:
            raise UserError(
                f"column {name} holds {len(words)} different texts: expected at most {FEW}"
                " categories"
            )
        parts.append(np.eye(len(words))[numbers])
        columns.append(Column(name, "category", words))
    return np.concatenate(parts, 1), tuple(columns)
